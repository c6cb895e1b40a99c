//! An outage of the API server, under traffic.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::host::{datagram, exchange};
use lab::plan::{self, ECHO_SERVICE, WEB_SERVICE, port};
use lab::{Bridge, Lab, LabOptions, eventually};
use serde_json::Value;

/// The bridge waits up to 10 s between two attempts to reach the API server.
const RETURN: Duration = Duration::from_secs(30);

#[test]
fn an_api_server_that_is_away_costs_no_packet_and_its_return_brings_what_was_missed() {
    let mut lab = LabOptions::default().with_api_server().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let to_service = Traffic::start(pc.udp_from(0, ECHO_SERVICE).unwrap());
    let to_pod = Traffic::start(pc.udp_from(0, lab.at("echo-1", port::ECHO)).unwrap());
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    let before = dump(&bridge);
    assert_eq!(cluster_state(&bridge)["connected"], true);

    lab.api_mut().kill().unwrap();
    eventually(RETURN, "status tells that the API server is away", || {
        let state = cluster_state(&bridge);
        state["connected"] == false
            && state["stale_seconds"].as_u64() >= Some(2)
            && state["last_error"].is_string()
    });
    exchange(&mut session, b"without an API server").unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"new flow").unwrap();

    // A bridge that is started meanwhile goes on with what is in the kernel.
    bridge.kill().unwrap();
    let arguments = Bridge::default_arguments(&lab);
    let mut successor = Bridge::spawn(&lab, &arguments).unwrap();
    bridge.leave_installed();
    eventually(RETURN, "the successor tells that it waits", || {
        let status = successor.status().unwrap();
        status["pid"].as_u64() == Some(successor.id().into())
            && status["cluster_state"]["connected"] == false
    });
    exchange(&mut session, b"with a successor").unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"new flow").unwrap();
    let meanwhile = dump(&successor);
    assert_eq!(meanwhile, before, "nothing is flushed");

    // What is changed while the way is closed arrives when it is open again.
    set_way_to_api(&lab, false);
    lab.api_mut().restart().unwrap();
    lab.cluster_mut().service_mut("web").scale_to(&[]);
    lab.publish().unwrap();
    let web = WEB_SERVICE;
    lab.office_pc().http_get(web, "/").unwrap();
    set_way_to_api(&lab, true);
    let returned = eventually(RETURN, "the change arrives", || {
        lab.office_pc().tcp_refusal(web).is_ok()
    });
    println!("the change arrived {returned:?} after the way was open");
    eventually(RETURN, "status tells that the API server is back", || {
        cluster_state(&successor)["connected"] == true
    });
    successor.await_ready().unwrap();
    exchange(&mut session, b"after").unwrap();

    let [after, _] = dump(&successor);
    let changed = before[0].iter().filter(|line| !after.contains(line));
    assert_eq!(changed.count(), 2, "web's port, and its address for pings");
    for traffic in [to_service, to_pod] {
        let (sent, lost) = traffic.finish();
        println!("{sent} datagrams, {lost} lost");
        assert!(sent > 500, "{sent} datagrams are too few to tell");
        assert_eq!(lost, 0, "of {sent} datagrams");
    }
}

/// A datagram every few milliseconds, each of which has to be echoed.
struct Traffic {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU32>,
    thread: JoinHandle<u32>,
}

impl Traffic {
    fn start(socket: UdpSocket) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU32::new(0));
        let thread = std::thread::spawn({
            let (stop, lost) = (stop.clone(), lost.clone());
            move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    if datagram(&socket, format!("datagram {sent}").as_bytes()).is_err() {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                sent
            }
        });
        Self { stop, lost, thread }
    }

    fn finish(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.thread.join().unwrap();
        (sent, self.lost.load(Ordering::Relaxed))
    }
}

/// What the kernel has of services and their backends.
#[track_caller]
fn dump(bridge: &Bridge) -> [Vec<String>; 2] {
    ["services", "backends"].map(|table| {
        let entries = bridge.client().dump(table).unwrap();
        assert!(!entries.is_empty(), "{table} is empty");
        entries
    })
}

fn cluster_state(bridge: &Bridge) -> Value {
    bridge.status().unwrap()["cluster_state"].clone()
}

/// Lets node-30 reach the API server, or not.
fn set_way_to_api(lab: &Lab, open: bool) {
    let verb = if open { "-D" } else { "-I" };
    let rule = format!("iptables {verb} INPUT -s {} -p tcp -j DROP", plan::NODE_30);
    lab.control_plane().run_line(&rule).unwrap();
}
