//! SVG plots of the time per packet.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::plan::{
    Cell, Contestant, Direction, FLOWS, Key, NEW_SERVICE_FLOWS, Network, Scope, Target,
};
use super::results::Results;

/// Size of a line chart with its legend, in pixels.
const SIZE: (u32, u32) = (1080, 440);
const LEGEND: u32 = 350;
const FONT: &str = "sans-serif";

/// A plot that was written.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Name of the file, in the directory of the report.
    pub file: String,
    /// The title.
    pub title: String,
}

/// The points of a contestant: number of flows or services, and nanoseconds.
type Line = (Contestant, Vec<(f64, f64)>);

/// Draws the plots that there are figures for.
pub fn draw(results: &Results, scope: &Scope, directory: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for network in Network::ALL {
        let cell = Cell::rate(Direction::Forward, Target::Pod, FLOWS);
        let costs: Vec<_> = Contestant::ALL
            .into_iter()
            .filter_map(|one| Some((one, cost(results, network, one, 0, cell)?)))
            .collect();
        let plot = Plot {
            file: format!("paths-{network}.svg"),
            title: format!("{network}: cost of a packet to a pod, {FLOWS} flows"),
        };
        write(&plot, directory, !costs.is_empty(), |text| {
            bars(text, &plot, &costs)
        })?;
        plots.push(plot);
        let lines = lines(scope.flows, |contestant, flows| {
            let cell = Cell::rate(Direction::Forward, Target::Pod, flows);
            cost(results, network, contestant, 0, cell)
        });
        let plot = Plot {
            file: format!("flows-{network}.svg"),
            title: format!("{network}: cost of a packet against flows"),
        };
        write(&plot, directory, !lines.is_empty(), |text| {
            chart(text, &plot, "flows", &lines)
        })?;
        plots.push(plot);
    }
    for (file, what, cell) in [
        (
            "services-flows.svg",
            "a packet of a flow that is there",
            Cell::rate(Direction::Forward, Target::Service, FLOWS),
        ),
        (
            "services-new.svg",
            "a packet that opens a flow",
            Cell::NewFlows {
                target: Target::Service,
                flows: NEW_SERVICE_FLOWS,
            },
        ),
    ] {
        let lines = lines(scope.services, |contestant, services| {
            cost(results, Network::Vxlan, contestant, services, cell)
        });
        let plot = Plot {
            file: file.into(),
            title: format!("vxlan: cost of {what} against services"),
        };
        write(&plot, directory, !lines.is_empty(), |text| {
            chart(text, &plot, "services", &lines)
        })?;
        plots.push(plot);
    }
    Ok(plots)
}

fn cost(
    results: &Results,
    network: Network,
    contestant: Contestant,
    services: u32,
    cell: Cell,
) -> Option<f64> {
    let key = Key::new(network, contestant, services, cell);
    results.median(key).map(|rate| 1e9 / rate)
}

fn lines(numbers: &[u32], cost: impl Fn(Contestant, u32) -> Option<f64>) -> Vec<Line> {
    Contestant::ALL
        .into_iter()
        .filter_map(|contestant| {
            let points: Vec<_> = numbers
                .iter()
                .filter_map(|&number| Some((f64::from(number), cost(contestant, number)?)))
                .collect();
            (points.len() > 1).then_some((contestant, points))
        })
        .collect()
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Writes the file; without figures an empty one.
fn write(
    plot: &Plot,
    directory: &Path,
    has_figures: bool,
    draw: impl FnOnce(&mut String) -> Drawn,
) -> Result<()> {
    let mut text = String::new();
    if has_figures {
        draw(&mut text).map_err(|error| anyhow!("draw {}: {error}", plot.file))?;
    }
    fs::write(directory.join(&plot.file), text)?;
    Ok(())
}

/// A contestant has the same colour in every plot.
fn colour(contestant: Contestant) -> RGBAColor {
    let place = Contestant::ALL.iter().position(|&one| one == contestant);
    Palette99::pick(place.unwrap_or_default()).to_rgba()
}

fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn chart(text: &mut String, plot: &Plot, against: &str, lines: &[Line]) -> Drawn {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points()
            .map(of)
            .fold((f64::MAX, 0.0_f64), |(least, most), value| {
                (least.min(value), most.max(value))
            })
    };
    let ((left, right), (low, high)) = (bounds(|point| point.0), bounds(|point| point.1));
    let whole = SVGBackend::with_string(text, SIZE).into_drawing_area();
    whole.fill(&WHITE)?;
    let (area, legend) = whole.split_horizontally(SIZE.0 - LEGEND);
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, (FONT, 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (left..right).log_scale(),
            (low * 0.8..high * 1.25).log_scale(),
        )?;
    let label = |value: &f64| number(*value);
    chart
        .configure_mesh()
        .x_desc(against)
        .y_desc("ns/packet")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    for ((contestant, points), row) in lines.iter().zip(0..) {
        let colour = colour(*contestant);
        chart.draw_series(
            LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
        )?;
        let y = 52 + 22 * row;
        legend.draw(&PathElement::new(
            [(0, y + 7), (18, y + 7)],
            colour.stroke_width(3),
        ))?;
        legend.draw(&Text::new(contestant.title(), (26, y), (FONT, 13)))?;
    }
    whole.present()?;
    Ok(())
}

/// Horizontal bars of nanoseconds.
#[expect(clippy::cast_possible_truncation, reason = "pixels")]
fn bars(text: &mut String, plot: &Plot, costs: &[(Contestant, f64)]) -> Drawn {
    const ROW: i32 = 30;
    const TOP: i32 = 48;
    const LEFT: i32 = 360;
    const WIDEST: f64 = 600.0;
    let height = TOP + ROW * i32::try_from(costs.len())? + 12;
    let size = (SIZE.0, u32::try_from(height)?);
    let most = costs.iter().map(|&(_, cost)| cost).fold(1.0, f64::max);
    let area = SVGBackend::with_string(text, size).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("{}, ns (generator and sink included)", plot.title);
    area.draw(&Text::new(title, (12, 14), (FONT, 18)))?;
    for (&(contestant, cost), row) in costs.iter().zip(0..) {
        let y = TOP + ROW * row;
        let end = LEFT + (cost / most * WIDEST) as i32;
        area.draw(&Text::new(contestant.title(), (12, y + 4), (FONT, 13)))?;
        area.draw(&Rectangle::new(
            [(LEFT, y), (end, y + ROW - 8)],
            colour(contestant).filled(),
        ))?;
        area.draw(&Text::new(number(cost), (end + 8, y + 4), (FONT, 13)))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_name_who_was_measured_and_nobody_else() {
        let mut results = Results::default();
        for (contestant, rate) in [(Contestant::Kernel, 1e6), (Contestant::Xdp, 3e6)] {
            for flows in [1, FLOWS] {
                let cell = Cell::rate(Direction::Forward, Target::Pod, flows);
                let key = Key::new(Network::HostGw, contestant, 0, cell);
                results.add(key, rate);
            }
        }
        let directory = std::env::temp_dir().join(format!("plots-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let plots = draw(&results, &Scope::FULL, &directory).unwrap();
        let texts: Vec<_> = plots
            .iter()
            .map(|plot| fs::read_to_string(directory.join(&plot.file)).unwrap())
            .collect();
        fs::remove_dir_all(&directory).unwrap();
        for text in &texts[..2] {
            assert!(text.contains(Contestant::Xdp.title()), "{text}");
            assert!(text.contains(Contestant::Kernel.title()), "{text}");
            assert!(!text.contains(Contestant::Tc.title()), "{text}");
        }
        assert!(texts[2..].iter().all(String::is_empty), "{texts:?}");
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(7.0), "7");
        assert_eq!(number(1_000_000.0), "1,000,000");
    }
}
