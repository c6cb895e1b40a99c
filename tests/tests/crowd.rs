//! One client that does its worst, and others who only want to work.

use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::host::exchange;
use lab::packets::{ACK, PacketSender, SYN, datagram, ping, segment};
use lab::plan::{ECHO, ECHO_SERVICE, OFFICE_PC2, port};
use lab::{Lab, LabOptions};

/// For how long each kind of packet is sent.
const EACH: Duration = Duration::from_secs(6);
/// Connections that the other client opens in a second.
const RATE: u32 = 20;

#[test]
fn one_client_gives_all_it_has_and_the_others_notice_nothing() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let open = |_| {
        let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
        exchange(&mut session, b"before").unwrap();
        session
    };
    let mut idle: Vec<TcpStream> = (0..10).map(open).collect();
    let is_over = AtomicBool::new(false);
    let (outcome, sent) = thread::scope(|scope| {
        let work = scope.spawn(|| lab.office_pc().run_in(|| Ok(connect(&is_over))).unwrap());
        let sent = attack(&lab);
        is_over.store(true, Ordering::Release);
        (work.join().unwrap(), sent.unwrap())
    });
    println!("{sent} packets of the one, of the other {outcome:?}");
    assert!(outcome.connections > 500, "{outcome:?}");
    assert!(sent > 500_000, "{sent}");
    assert_eq!(outcome.failed, 0, "{outcome:?}");
    // A millisecond or two, where nothing else runs.
    assert!(outcome.p99 < Duration::from_millis(20), "{outcome:?}");
    for session in &mut idle {
        exchange(session, b"after").unwrap();
    }
    let text = bridge.client().text(&["flows", "top"]).unwrap();
    let first = text.lines().nth(1).unwrap_or_default().trim_start();
    assert!(first.starts_with(&OFFICE_PC2.to_string()), "{text}");
    let refused = first.split_whitespace().last().unwrap();
    assert_ne!(refused, "0", "{text}");
}

/// How the other client fared.
#[derive(Debug)]
struct Outcome {
    connections: usize,
    failed: usize,
    p99: Duration,
}

/// Opens connections, uses and closes them.
fn connect(is_over: &AtomicBool) -> Outcome {
    let (mut times, mut failed) = (Vec::new(), 0);
    let begun = Instant::now();
    for number in 1.. {
        if is_over.load(Ordering::Acquire) {
            break;
        }
        let started = Instant::now();
        let connected = TcpStream::connect_timeout(&ECHO_SERVICE.into(), Duration::from_secs(1));
        match connected.map(|mut stream| exchange(&mut stream, b"work")) {
            Ok(Ok(())) => times.push(started.elapsed()),
            _ => failed += 1,
        }
        let due = begun + Duration::from_secs(1) / RATE * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied();
    Outcome {
        connections: times.len(),
        failed,
        p99: p99.unwrap_or(Duration::MAX),
    }
}

/// Sends as fast as one thread can: new UDP flows, SYNs, half-done handshakes, pings, and SYNs to a closed port, in turn.
fn attack(lab: &Lab) -> Result<u64> {
    let sender = PacketSender::new(lab.office_pc2())?;
    let pod = lab.at("echo-1", port::ECHO);
    let closed = SocketAddrV4::new(ECHO, 9_999);
    let from = |number: u32| {
        let port = 1_024 + u16::try_from(number % 64_000).unwrap();
        SocketAddrV4::new(OFFICE_PC2, port)
    };
    let kinds: [&dyn Fn(u32) -> Vec<u8>; 5] = [
        &|number| datagram(from(number), pod, b"x"),
        &|number| segment(from(number), ECHO_SERVICE, SYN, (number, 0)),
        &|number| {
            let flags = if number % 2 == 0 { SYN } else { ACK };
            segment(from(number / 2), pod, flags, (number | 1, 77))
        },
        &|number| {
            ping(
                OFFICE_PC2,
                *pod.ip(),
                u16::try_from(number % 65_536).unwrap(),
            )
        },
        &|number| segment(from(number), closed, SYN, (number, 0)),
    ];
    let mut sent = 0;
    for kind in kinds {
        let begun = Instant::now();
        for number in 0.. {
            // A full queue is no reason to stop.
            sent += u64::from(sender.send(&kind(number)).is_ok());
            if number % 256 == 0 && begun.elapsed() > EACH {
                break;
            }
        }
    }
    Ok(sent)
}
