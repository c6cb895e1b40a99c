//! SVG plots: what a packet costs.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::plan::{Cell, Contestant, Direction, Key, NEW_SERVICE_FLOWS, Network, Scope, Target};
use super::results::Results;

const SIZE: (u32, u32) = (860, 460);

/// A file, and what it shows.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Name of the file in the report's directory.
    pub file: String,
    /// What it shows.
    pub title: String,
}

/// A contestant's line: numbers of flows or services, and nanoseconds.
type Line = (Contestant, Vec<(f64, f64)>);

/// Draws everything that there are figures for.
pub fn draw(results: &Results, scope: &Scope, directory: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for network in Network::ALL {
        let lines = lines(scope.flows, |contestant, flows| {
            let cell = Cell::Rate {
                direction: Direction::Forward,
                target: Target::Pod,
                flows,
            };
            cost(results, network, contestant, 0, cell)
        });
        let plot = Plot {
            file: format!("flows-{network}.svg"),
            title: format!("{network}: cost of a packet against flows"),
        };
        chart(&plot, "flows", &lines, directory)?;
        plots.push(plot);
    }
    for (file, what, cell) in [
        (
            "services-flows.svg",
            "a packet of a flow that is there",
            Cell::Rate {
                direction: Direction::Forward,
                target: Target::Service,
                flows: super::plan::FLOWS,
            },
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
        chart(&plot, "services", &lines, directory)?;
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
    let key = Key {
        network,
        contestant,
        services,
        cell,
    };
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

fn chart(plot: &Plot, against: &str, lines: &[Line], directory: &Path) -> Result<()> {
    let mut text = String::new();
    if !lines.is_empty() {
        paint(&mut text, plot, against, lines)
            .map_err(|error| anyhow!("draw {}: {error}", plot.file))?;
    }
    fs::write(directory.join(&plot.file), text)?;
    Ok(())
}

fn paint(
    text: &mut String,
    plot: &Plot,
    against: &str,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points()
            .map(of)
            .fold((f64::MAX, 0.0_f64), |(least, most), value| {
                (least.min(value), most.max(value))
            })
    };
    let ((left, right), (low, high)) = (bounds(|point| point.0), bounds(|point| point.1));
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (left..right).log_scale(),
            (low * 0.8..high * 1.25).log_scale(),
        )?;
    let number = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc(against)
        .y_desc("ns/packet")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    for (index, (contestant, points)) in lines.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
            )?
            .label(contestant.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}
