//! Writes the inputs that the fuzzers begin with: `cargo run -p bridge-fuzz --example seeds`. The other files of the
//! corpora were found.

use std::fs;
use std::io;
use std::path::Path;

use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::parse::{ICMP, UDP};
use bridge_fuzz::engine::ACTIONS;
use bridge_fuzz::packet::{MORE_FRAGMENTS, Wire, icmp_error};
use bridge_fuzz::world::{
    API, DNS, EMPTY, MYSQL, NAT, NIC, NODE, OUTSIDER, PC, POD, ROUTED_POD, UPLINK, VIP, at, frame,
    tunnelled,
};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, seeds) in [("frame", frames()), ("engine", histories())] {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        for (name, bytes) in seeds {
            fs::write(directory.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}

/// Packets of each kind, by the path that they take: its number among [`bridge_fuzz::frame::PATHS`].
fn frames() -> Vec<(String, Vec<u8>)> {
    let web = at(POD, 80);
    let mut syn = Wire::tcp(at(PC, 21_000), MYSQL, SYN);
    syn.options = vec![2, 4, 5, 0xB4];
    let mut data = Wire::tcp(at(PC, 20_000), web, ACK);
    (data.sequence, data.acknowledgement) = (1, 1);
    data.payload = b"GET /".to_vec();
    let mut reset = Wire::tcp(web, at(NAT, 20_000), RST | ACK);
    (reset.sequence, reset.acknowledgement) = (1, 1);
    let ping = Wire::new(ICMP, at(PC, 9), at(VIP, 0));
    let mut echoed = Wire::new(ICMP, at(POD, 0), at(NAT, 9));
    echoed.is_reply = true;
    let mut fragment = Wire::new(UDP, at(PC, 20_001), DNS);
    fragment.fragment = MORE_FRAGMENTS;
    fragment.payload = vec![1; 24];
    let mut expired = data.clone();
    expired.ttl = 1;
    let native = Wire::tcp(at(ROUTED_POD, 80), at(NODE, 20_002), SYN | ACK);
    let local = Wire::tcp(at(NODE, 6_443), at(PC, 20_003), SYN | ACK);
    let quoted = Wire::tcp(at(NAT, 20_000), web, ACK).bytes();
    let packets: [(&str, u8, Vec<u8>); 17] = [
        ("syn-of-service", 0, syn.bytes()),
        ("data", 0, data.bytes()),
        ("dns", 0, Wire::new(UDP, at(PC, 20_001), DNS).bytes()),
        ("tunnelled-reset", 0, tunnelled(&reset.bytes())),
        ("native-answer", 1, native.bytes()),
        ("tunnelled-pong", 1, tunnelled(&echoed.bytes())),
        ("ping", 2, ping.bytes()),
        ("fragment", 2, fragment.bytes()),
        ("expired", 2, expired.bytes()),
        (
            "outsider",
            2,
            Wire::tcp(at(OUTSIDER, 9), MYSQL, SYN).bytes(),
        ),
        ("no-backend", 2, Wire::tcp(at(PC, 9), EMPTY, SYN).bytes()),
        ("api", 2, Wire::tcp(at(PC, 20_003), API, ACK).bytes()),
        (
            "portless",
            2,
            Wire::new(50, at(PC, 0), at(ROUTED_POD, 0)).bytes(),
        ),
        ("too-big", 3, icmp_error(POD, [3, 4], &quoted)),
        ("reset", 3, reset.bytes()),
        (
            "departing",
            4,
            Wire::tcp(at(PC, 20_004), at(POD, 81), ACK).bytes(),
        ),
        ("leaving", 5, local.bytes()),
    ];
    packets
        .into_iter()
        .map(|(name, path, packet)| {
            let ingress = if path == 1 { NIC } else { UPLINK };
            let bytes = [&[0, path, 0], &frame(ingress, &packet).bytes[..]].concat();
            (name.to_owned(), bytes)
        })
        .collect()
}

/// Sessions from beginning to end, and what may disturb them.
fn histories() -> Vec<(String, Vec<u8>)> {
    let action = |name: &str| {
        let at = ACTIONS.iter().position(|action| *action == name);
        at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default()
    };
    // Client or flow, target, flags, numbers, size.
    let step = |name: &str, [who, target, flags, numbers, size]: [u8; 5]| {
        vec![action(name), who, target, flags, numbers, size, 0x10, 0]
    };
    let handshake = |target| {
        [
            step("client", [0, target, SYN, 0, 0]),
            step("answer", [0, 0, SYN | ACK, 0, 0]),
            step("continue", [0, 0, ACK, 0, 0]),
        ]
        .concat()
    };
    let setup = [0, 255, 255, 1];
    let mut seeds = Vec::new();
    for (name, target) in [("mysql", 0), ("pod", 2), ("routed", 3), ("api", 6)] {
        let end = [
            step("continue", [0, 0, ACK, 0, 20]),
            step("answer", [0, 0, ACK, 0, 40]),
            step("continue", [0, 0, FIN | ACK, 0, 0]),
            step("answer", [0, 0, FIN | ACK, 0, 0]),
            step("continue", [0, 0, ACK, 0, 0]),
        ];
        let session = [&setup[..], &handshake(target), &end.concat()].concat();
        seeds.push((format!("session-{name}"), session));
        for (kind, flags, numbers) in [
            ("reset", RST, 3),
            ("end", FIN | ACK, 15),
            ("checksum", RST, 128),
        ] {
            let forged = [
                step("continue", [0, 0, flags, numbers, 0]),
                step("answer", [0, 0, flags, numbers, 0]),
                step("continue", [0, 0, ACK, 0, 9]),
            ];
            let history = [&setup[..], &handshake(target), &forged.concat()].concat();
            seeds.push((format!("forged-{kind}-{name}"), history));
        }
    }
    for (name, target) in [("dns", 1), ("ping", 5), ("portless", 12), ("vip-ping", 8)] {
        let exchange = [
            step("client", [0, target, 0, 0, 8]),
            step("answer", [0, 0, 0, 0, 8]),
            step("error", [0, 0, 0, 0, 8]),
            step("wait", [3, 0, 0, 0, 0]),
            step("collect", [0, 0, 0, 0, 0]),
            step("client", [1, target, 0, 0, 0x80]),
            step("client", [1, target, 0, 0, 0xC0]),
        ];
        seeds.push((name.to_owned(), [&setup[..], &exchange.concat()].concat()));
    }
    let clients = (0..16).map(|who| step("client", [who * 16 + who % 2, 1, SYN, 0, 0]));
    let scarce = [
        &[0, 255, 2, 1][..],
        &clients.clone().collect::<Vec<_>>().concat(),
    ]
    .concat();
    let full = [&[0, 3, 255, 1][..], &clients.collect::<Vec<_>>().concat()].concat();
    seeds.push(("scarce".to_owned(), scarce));
    seeds.push(("full".to_owned(), full));
    let stack = [
        &[2, 255, 255, 1][..],
        &handshake(2),
        &step("depart", [0, 0, SYN, 0, 0]),
    ]
    .concat();
    seeds.push(("stack".to_owned(), stack));
    seeds
}
