//! Datagrams in fragments (RFC 4787 REQ-14): in any order, between each other, in floods of others, overlapping and tiny.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use lab::fragments::{Datagram, ORDERS, SIZE, Way};
use lab::host::datagram;
use lab::plan::{ECHO_PODS, ECHO_SERVICE, FREE_PORT, OFFICE_PC, OFFICE_PC2, port};
use lab::{Bridge, Lab, LabOptions, eventually, frames};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A port of office-pc2 that a flood comes from.
const FLOOD: SocketAddrV4 = SocketAddrV4::new(OFFICE_PC2, FREE_PORT + 1);

#[test]
fn six_orders_reach_pods_and_come_back() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    for (number, pod) in (0..).zip(ECHO_PODS) {
        let target = lab.at(pod, port::ECHO);
        let client = Client::new(&lab, target);
        for (identification, order) in (number * 16..).zip(ORDERS) {
            client.asks(identification, order);
            client.is_answered(&lab, *target.ip(), identification, order);
        }
    }
    assert_nothing_is_lost(&bridge);
}

#[test]
fn six_orders_reach_a_service_and_come_back() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let client = Client::new(&lab, ECHO_SERVICE);
    for (identification, order) in (0..).zip(ORDERS) {
        client.asks(identification, order);
        // One of the three has been chosen; to the others it is no answer, and the node throws it away.
        for (number, pod) in (1..).zip(ECHO_PODS) {
            let answer = client.answer(&lab, lab.pod(pod).address(), 256 * number + identification);
            let way = Way::of_pod(&lab, pod).unwrap();
            way.send_in_order(&answer, order).unwrap();
        }
        let payload = client.receive();
        assert_eq!(payload.len(), client.datagram(0).payload.len(), "{order:?}");
        assert!(client.hears_nothing(), "{order:?}");
    }
    assert_nothing_is_lost(&bridge);
}

#[test]
fn clients_whose_fragments_come_between_each_others_are_all_served() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let office = Way::of_office(&lab).unwrap();
    for pod in ECHO_PODS {
        let way = Way::of_pod(&lab, pod).unwrap();
        let target = lab.at(pod, port::ECHO);
        let clients = [
            Client::of(&lab, lab.office_pc(), FREE_PORT, target),
            Client::of(&lab, lab.office_pc2(), FREE_PORT + 1, target),
            Client::of(&lab, lab.office_pc(), FREE_PORT + 2, target),
            Client::of(&lab, lab.office_pc2(), FREE_PORT + 3, target),
        ];
        for (round, order) in (1..).zip(ORDERS) {
            let identified = || (round * 256..).zip(&clients);
            let requests = identified().map(|(id, client)| client.datagram(id));
            interleave(&office, &clients, &requests.collect::<Vec<_>>(), order);
            let answers = identified().map(|(id, client)| client.answer(&lab, *target.ip(), id));
            interleave(&way, &clients, &answers.collect::<Vec<_>>(), order);
        }
    }
    assert_nothing_is_lost(&bridge);
}

/// Sends the n-th fragment of each datagram before the next one of any. Each of them is for the client of its number.
#[track_caller]
fn interleave(way: &Way, clients: &[Client], sent: &[Datagram], order: [usize; 3]) {
    let fragments: Vec<_> = sent.iter().map(Datagram::fragments).collect();
    for index in order {
        way.send(fragments.iter().map(|one| &one[index])).unwrap();
    }
    for (client, sent) in clients.iter().zip(sent) {
        assert_eq!(client.receive(), sent.payload, "{order:?}");
    }
}

#[test]
fn ten_thousand_first_fragments_in_flight_hurt_nobody() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let client = Client::new(&lab, lab.at("echo-1", port::ECHO));
    let way = Way::of_office(&lab).unwrap();
    // What a host puts together has bounds of its own (`net.ipv4.ipfrag_high_thresh`): of the pod that the flood goes to,
    // and on the stack path of the node.
    let flood = flood(&lab, 0, 10_000 / scale(&lab));
    let (one_half, other_half) = flood.split_at(flood.len() / 2);
    for (identification, order) in (0..).zip(ORDERS) {
        let sent = client.datagram(identification);
        let fragments = sent.fragments();
        way.send([&fragments[order[0]]]).unwrap();
        way.send(one_half).unwrap();
        way.send([&fragments[order[1]]]).unwrap();
        way.send(other_half).unwrap();
        way.send([&fragments[order[2]]]).unwrap();
        assert_eq!(client.receive(), sent.payload, "{order:?}");
    }
}

#[test]
fn a_flood_of_fragments_without_a_first_takes_room_from_itself() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let client = Client::new(&lab, lab.at("echo-1", port::ECHO));
    let way = Way::of_office(&lab).unwrap();
    let flood = flood(&lab, SIZE, 10_000 / scale(&lab));
    way.send(&flood).unwrap();
    // Nearly as many as there is room for, between a fragment and its first.
    let some = &flood[..usize::from(200 / scale(&lab))];
    for (identification, order) in (0..).zip(ORDERS) {
        let sent = client.datagram(identification);
        let fragments = sent.fragments();
        way.send([&fragments[order[0]]]).unwrap();
        way.send(some).unwrap();
        way.send([&fragments[order[1]]]).unwrap();
        way.send(some).unwrap();
        way.send([&fragments[order[2]]]).unwrap();
        assert_eq!(client.receive(), sent.payload, "{order:?}");
    }
    // In order no number does harm.
    let sent = client.datagram(99);
    let [first, second, third] = sent.fragments();
    way.send([&first]).unwrap();
    way.send(&flood).unwrap();
    way.send([&second, &third]).unwrap();
    assert_eq!(client.receive(), sent.payload);
    if !lab.options().datapath.is_stack() {
        let counts = Counts::of(&bridge);
        let lost = counts.held - counts.released;
        assert_eq!(lost, counts.unknown + counts.waiting, "{counts:?}");
        assert!(lost >= 20_000, "{counts:?}");
    }
}

#[test]
fn what_waits_in_vain_is_dropped_and_counted() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let target = lab.at("echo-1", port::ECHO);
    let client = Client::new(&lab, target);
    let way = Way::of_pod(&lab, "echo-1").unwrap();
    datagram(&client.socket, b"opens the flow").unwrap();
    let answer = client.answer(&lab, *target.ip(), 1);
    let [first, second, third] = answer.fragments();
    way.send([&second, &third]).unwrap();
    eventually(Duration::from_secs(1), "both wait", || {
        Counts::of(&bridge).held == 2
    });
    std::thread::sleep(Duration::from_millis(3_100));
    way.send([&first]).unwrap();
    assert!(client.hears_nothing());
    let counts = Counts::of(&bridge);
    assert_eq!((counts.released, counts.unknown), (0, 2), "{counts:?}");
}

#[test]
fn overlapping_fragments_are_dropped_and_counted() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let target = lab.at("echo-1", port::ECHO);
    let client = Client::new(&lab, target);
    datagram(&client.socket, b"opens the flow").unwrap();
    let office = Way::of_office(&lab).unwrap();
    let pod = Way::of_pod(&lab, "echo-1").unwrap();
    let mut expected = 0;
    for (identification, order) in (0..).zip(ORDERS) {
        let request = client.datagram(identification);
        let answer = client.answer(&lab, *target.ip(), identification);
        // On the stack path the kernel sees to what comes from the office.
        let ways = [(&office, request), (&pod, answer)];
        let skipped = usize::from(lab.options().datapath.is_stack());
        for (way, sent) in ways.into_iter().skip(skipped) {
            let fragments = sent.fragments();
            let evil = [
                sent.piece(UDP, 8, &[0xEE; 16], true),
                sent.piece(UDP, SIZE - 8, &[0xEE; 8], true),
                sent.piece(UDP, 65_512, &[0xEE; 32], true),
            ];
            way.send([&fragments[order[0]]]).unwrap();
            way.send(&evil).unwrap();
            way.send([&fragments[order[1]], &fragments[order[2]]])
                .unwrap();
            assert_eq!(client.receive(), sent.payload, "{order:?}");
            expected += 3;
        }
    }
    let overlaps = bridge.status().unwrap()["drops"]["fragment-overlap"].clone();
    assert_eq!(overlaps, expected);
}

#[test]
fn tiny_fragments_are_dropped_and_counted() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let target = lab.at("echo-1", port::ECHO);
    let mut stream = lab.office_pc().tcp_from(FREE_PORT, target).unwrap();
    lab::host::exchange(&mut stream, b"opens the flow").unwrap();
    let client = SocketAddrV4::new(OFFICE_PC, FREE_PORT);
    let nat = SocketAddrV4::new(lab.nat_address(*target.ip()), FREE_PORT);
    let capture = lab
        .pod("echo-1")
        .capture("eth0", "ip[6:2] & 0x3fff != 0")
        .unwrap();
    let [office, pod] = [Way::of_office(&lab), Way::of_pod(&lab, "echo-1")].map(Result::unwrap);
    let ways = [
        (&office, client, target),
        (&office, client, ECHO_SERVICE),
        (&pod, target, nat),
    ];
    let skipped = if lab.options().datapath.is_stack() {
        2
    } else {
        0
    };
    let mut expected = 0;
    for (way, from, to) in ways.into_iter().skip(skipped) {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let header = [&ports[..], &[0; 8], &[0x50, 0x10, 0, 0]].concat();
        for (identification, len) in [(1, 8), (2, 16)] {
            let sent = Datagram::new(from, to, identification);
            way.send([&sent.piece(TCP, 0, &header[..len], true)])
                .unwrap();
            expected += 1;
        }
        // Data offset, flags and the end of the header in a fragment of their own (RFC 1858 section 3.1).
        let sent = Datagram::new(from, to, 3);
        let whole = [&header[..], &[0; 12]].concat();
        way.send([&sent.piece(TCP, 0, &whole[..24], true)]).unwrap();
        way.send([&sent.piece(TCP, 8, &[0xEE; 8], true)]).unwrap();
        way.send([&sent.piece(TCP, 16, &[0xEE; 8], false)]).unwrap();
        way.send([&sent.piece(TCP, 24, &[0xEE; 12], true)]).unwrap();
        expected += 3;
    }
    eventually(Duration::from_secs(2), "all are counted", || {
        bridge.status().unwrap()["drops"]["fragment-tiny"] == expected
    });
    lab::host::exchange(&mut stream, b"still open").unwrap();
    let arrived = capture.stop().unwrap();
    assert!(
        arrived.len() <= 2,
        "of each datagram the whole header at most: {arrived:?}"
    );
}

#[test]
fn what_a_pod_sends_to_the_node_itself_arrives_in_any_order() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.at("echo-0", FREE_PORT);
    let node = SocketAddrV4::new(lab.nat_address(*pod.ip()), FREE_PORT);
    let socket = lab.node_30().udp_from(FREE_PORT, pod).unwrap();
    let way = Way::of_pod(&lab, "echo-0").unwrap();
    for (identification, order) in (0..).zip(ORDERS) {
        let sent = Datagram::new(pod, node, identification);
        way.send_in_order(&sent, order).unwrap();
        assert_eq!(receive(&socket), sent.payload, "{order:?}");
    }
    assert_nothing_is_lost(&bridge);
}

/// A socket in the office whose datagrams a test writes itself.
struct Client {
    own: SocketAddrV4,
    target: SocketAddrV4,
    socket: UdpSocket,
    way: Way,
}

impl Client {
    fn new(lab: &Lab, target: SocketAddrV4) -> Self {
        Self::of(lab, lab.office_pc(), FREE_PORT, target)
    }

    fn of(lab: &Lab, host: &lab::Host, port: u16, target: SocketAddrV4) -> Self {
        Self {
            own: SocketAddrV4::new(host.address(), port),
            target,
            socket: host.udp_from(port, target).unwrap(),
            way: Way::of_office(lab).unwrap(),
        }
    }

    fn datagram(&self, identification: u16) -> Datagram {
        Datagram::new(self.own, self.target, identification)
    }

    /// Sends a datagram to an echo server in fragments, and expects it back.
    #[track_caller]
    fn asks(&self, identification: u16, order: [usize; 3]) {
        let sent = self.datagram(identification);
        self.way.send_in_order(&sent, order).unwrap();
        assert_eq!(self.receive(), sent.payload, "{order:?} to the pod");
    }

    /// What a pod could send on its own in this flow.
    fn answer(&self, lab: &Lab, pod: Ipv4Addr, identification: u16) -> Datagram {
        let from = SocketAddrV4::new(pod, self.target.port());
        let to = SocketAddrV4::new(lab.nat_address(pod), self.own.port());
        Datagram::new(from, to, identification)
    }

    /// Has a pod send a datagram in fragments in this flow, and expects it.
    #[track_caller]
    fn is_answered(&self, lab: &Lab, pod: Ipv4Addr, identification: u16, order: [usize; 3]) {
        let sent = self.answer(lab, pod, identification);
        let way = Way::of_address(lab, pod).unwrap();
        way.send_in_order(&sent, order).unwrap();
        assert_eq!(self.receive(), sent.payload, "{order:?} from the pod");
    }

    #[track_caller]
    fn receive(&self) -> Vec<u8> {
        receive(&self.socket)
    }

    fn hears_nothing(&self) -> bool {
        let limit = self.socket.read_timeout().unwrap();
        let short = Duration::from_millis(200);
        self.socket.set_read_timeout(Some(short)).unwrap();
        let heard = self.socket.recv(&mut [0; 1]).is_ok();
        self.socket.set_read_timeout(limit).unwrap();
        !heard
    }
}

#[track_caller]
fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let len = socket.recv(&mut buffer).expect("a datagram");
    buffer.truncate(len);
    buffer
}

/// A small fragment of each of many datagrams to another pod, which stands there in its datagram.
fn flood(lab: &Lab, start: usize, count: u16) -> Vec<Vec<u8>> {
    let to = lab.at("echo-2", port::ECHO);
    let content = frames::udp(FLOOD.port(), to.port(), &[0; 16]);
    (0..count)
        .map(|identification| Datagram::new(FLOOD, to, identification))
        .map(|datagram| datagram.piece(UDP, start, &content, true))
        .collect()
}

/// By what a flood is smaller where the kernel puts datagrams together.
fn scale(lab: &Lab) -> u16 {
    if lab.options().datapath.is_stack() {
        10
    } else {
        1
    }
}

/// What the bridge tells of fragments.
#[derive(Debug)]
struct Counts {
    held: u64,
    released: u64,
    unknown: u64,
    /// Still in the table.
    waiting: u64,
}

impl Counts {
    fn of(bridge: &Bridge) -> Self {
        let status = bridge.status().unwrap();
        let index = bridge.client().lookup("held_index", &[0; 4]).unwrap();
        let index = index.expect("the one value");
        let slots = index["slots"].as_array().unwrap();
        Self {
            held: status["traffic"]["fragment-held"]["packets"]
                .as_u64()
                .unwrap(),
            released: status["traffic"]["fragment-released"]["packets"]
                .as_u64()
                .unwrap(),
            unknown: status["drops"]["fragment-unknown"].as_u64().unwrap(),
            waiting: slots.iter().filter(|slot| slot["seen"] != 0).count() as u64,
        }
    }
}

/// All that was held back was released, and nothing dropped.
#[track_caller]
fn assert_nothing_is_lost(bridge: &Bridge) {
    let counts = Counts::of(bridge);
    assert!(counts.held > 0, "{counts:?}");
    assert_eq!(counts.held, counts.released, "{counts:?}");
    assert_eq!((counts.unknown, counts.waiting), (0, 0), "{counts:?}");
    let drops = &bridge.status().unwrap()["drops"];
    for reason in ["fragment-overlap", "fragment-tiny", "rewrite-failed"] {
        assert_eq!(drops[reason], 0, "{drops}");
    }
}
