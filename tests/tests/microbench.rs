//! Connections and responses on the TC path and on the stack path, measured in one run. It asserts no speed, and runs only
//! on demand:
//! `cargo nextest run -p tests --run-ignored only -E 'binary(microbench)' --no-capture`.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::host::exchange;
use lab::plan::{WEB_SERVICE, port};
use lab::{Bridge, Firewall, Host, LabOptions};

const ROUNDS: usize = 7;
const CONNECTS: u32 = 500;
const EXCHANGES: usize = 3_000;

#[test]
#[ignore = "measures for a minute, and wants the machine for itself"]
fn the_stack_path_beside_the_tc_path() {
    let lab = LabOptions {
        masquerade: false,
        service_masquerade: false,
        firewall: Firewall::Open,
        ..LabOptions::default_variant()
    }
    .open();
    let paths = [
        ("tc", Bridge::manifests_arguments(&lab, "auto")),
        ("stack", Bridge::static_arguments("stack")),
    ];
    let mut figures = [Figures::default(), Figures::default()];
    let pc = lab.office_pc();
    let pod = lab.at("echo-1", port::ECHO);
    let service = WEB_SERVICE;
    for _ in 0..ROUNDS {
        for ((layer, arguments), figures) in paths.iter().zip(&mut figures) {
            let mut bridge = Bridge::start(&lab, arguments).unwrap();
            bridge.client().text(&["flows", "flush"]).unwrap();
            figures.response.push(response(pc, pod).unwrap());
            figures.to_pod.push(connects(pc, pod).unwrap());
            figures.to_service.push(connects(pc, service).unwrap());
            let flows = bridge.flows().unwrap();
            let on_layer = flows.iter().filter(|flow| flow["layer"] == *layer).count();
            assert!(on_layer > 2 * CONNECTS as usize, "{on_layer} on {layer}");
            bridge.stop().unwrap();
            bridge.leave_installed();
        }
    }
    Bridge::start(&lab, &paths[0].1).unwrap();
    for ((layer, _), figures) in paths.iter().zip(&mut figures) {
        println!(
            "{layer:5}: {:.0} connects/s to a pod, {:.0} to a service; {:.0} us for a response",
            median(&mut figures.to_pod),
            median(&mut figures.to_service),
            median(&mut figures.response)
        );
    }
}

#[derive(Default)]
struct Figures {
    /// Connections a second to a pod, and to a service with one backend.
    to_pod: Vec<f64>,
    to_service: Vec<f64>,
    /// Microseconds from a request to a pod to its response.
    response: Vec<f64>,
}

fn connects(client: &Host, to: SocketAddrV4) -> Result<f64> {
    client.run_in(|| {
        let started = Instant::now();
        for _ in 0..CONNECTS {
            TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_secs(3))?;
        }
        Ok(f64::from(CONNECTS) / started.elapsed().as_secs_f64())
    })
}

fn response(client: &Host, to: SocketAddrV4) -> Result<f64> {
    let mut stream = client.tcp(to)?;
    let mut times = Vec::new();
    for _ in 0..EXCHANGES {
        let started = Instant::now();
        exchange(&mut stream, b"request")?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&mut times))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
