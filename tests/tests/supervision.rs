//! A task of `run` that makes no progress is noticed: XDP no longer uses what it knew, and `status` and `/readyz` say why.

use std::process::Command;
use std::time::Duration;

use lab::carried::Carried;
use lab::plan::{HTTP_LISTEN, port};
use lab::process::Daemon;
use lab::{Bridge, Datapath, Lab, LabOptions, Overlay, Variant, eventually};

/// How long XDP uses next hops after the kernel was last read (`fast_path.valid_until`).
const LEASE: Duration = Duration::from_secs(30);
/// The kernel is read, and what is known compared with it, at least as often as this.
const PERIOD: Duration = Duration::from_secs(10);
const STALE: &str = "the kernel's network has not been read for more than 30 s";

#[test]
fn a_follower_that_the_kernel_does_not_answer_leaves_xdp_to_tc_and_is_told() {
    let lab = LabOptions::of(Variant {
        datapath: Datapath::Xdp,
        overlay: Overlay::Vxlan,
    })
    .open();
    let bridge = lab.start_bridge(&[]).unwrap();
    eventually(PERIOD, "a datagram by XDP", || {
        carried(&lab, &bridge).xdp() >= 1
    });
    assert_eq!(bridge.status().unwrap()["not_ready"], serde_json::json!([]));

    let mut deaf = without_requests(&lab, &bridge);
    let limit = LEASE + 2 * PERIOD;
    eventually(limit, "a datagram by TC", || {
        carried(&lab, &bridge).xdp() == 0
    });
    // Each request that fails is made again a few times before it is given up.
    eventually(4 * PERIOD, "a problem that names it", || {
        let status = bridge.status().unwrap();
        status["ready"] == false
            && status["not_ready"].to_string().contains(STALE)
            && status["problems"].to_string().contains(STALE)
    });
    let readyz = lab.node_30().http_get(HTTP_LISTEN, "/readyz").unwrap();
    assert_eq!(readyz.status, 503, "{}", readyz.body);
    assert!(readyz.body.contains(STALE), "{}", readyz.body);
    // What XDP leaves is carried, new flows too.
    let by_tc = carried(&lab, &bridge);
    assert_eq!((by_tc.xdp(), by_tc.tc()), (0, 2), "{by_tc:?}");

    deaf.signal(nix::sys::signal::Signal::SIGINT).unwrap();
    deaf.wait(Duration::from_secs(5)).unwrap();
    eventually(2 * PERIOD, "a datagram by XDP again", || {
        carried(&lab, &bridge).xdp() >= 1
    });
    eventually(2 * PERIOD, "readiness", || {
        bridge.status().unwrap()["ready"] == true
    });
}

/// What has carried one new datagram and its answer.
fn carried(lab: &Lab, bridge: &Bridge) -> Carried {
    let of = || Carried::of(bridge.client());
    let before = of();
    let target = lab.at("echo-1", port::ECHO);
    lab.office_pc().udp_echo(target, b"which way?").unwrap();
    of().since(before)
}

/// Has every request of the bridge to the kernel's network fail, as long as this lives: netlink requests are all that it
/// sends by this system call here, where it relays no DNS.
fn without_requests(lab: &Lab, bridge: &Bridge) -> Daemon {
    let mut strace = Command::new("strace");
    strace
        .args([
            "--follow-forks",
            "--trace=sendto",
            "--inject=sendto:error=ENOBUFS",
        ])
        .arg(format!("--attach={}", bridge.id()));
    let log = lab.directory().join("strace.log");
    let mut strace = Daemon::spawn("strace", strace, &log).unwrap();
    let tasks = format!("/proc/{}/status", bridge.id());
    strace
        .wait_until(Duration::from_secs(5), || {
            let status = std::fs::read_to_string(&tasks).unwrap_or_default();
            !status.contains("TracerPid:\t0")
        })
        .unwrap();
    strace
}
