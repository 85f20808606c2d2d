//! Three namespaces in a row, A - R - B: what A's applications send to B's crosses R, over keys and
//! routes made by hand.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::daemon::namespace::{Site, ip, isolated, raw_packet};
use crate::forward::ForwardConfig;
use crate::forward::snapshot::{LinkEntry, PeerEntry};
use crate::id::{Class, Lane, LinkId, NodeId};
use crate::route::policy::{ClassSpec, Delivery, Match, Policy};
use crate::route::table::{Path, Route, RouteTable};
use crate::session::keys::Secret;

const A: u16 = 1;
const R: u16 = 2;
const B: u16 = 3;

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn overlay(number: u16) -> [IpAddr; 2] {
    [format!("10.77.0.{number}").parse().unwrap(), format!("fd77::{number}").parse().unwrap()]
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The pair's secret; any fixed bytes that differ from pair to pair.
fn secret(a: u16, b: u16) -> Secret {
    Secret::new([(a.min(b) * 16 + a.max(b)) as u8; 32])
}

fn peer(own: u16, other: u16, link: Option<(u16, SocketAddr, u8)>) -> PeerEntry {
    let index = |to: u16, from: u16| u32::from(to) << 16 | u32::from(from) << 8;
    let links = link.into_iter().map(|(link, endpoint, lanes)| LinkEntry {
        link: LinkId(link),
        endpoint,
        receive_index: index(own, other),
        transmit_index: index(other, own),
        lanes,
        mtu: None,
    });
    PeerEntry {
        node: node(other),
        generation: 1,
        secret: secret(own, other),
        networks: overlay(other).into_iter().map(Into::into).collect(),
        links: links.collect(),
    }
}

fn routes(paths: &[(u16, &[u16])]) -> Arc<RouteTable> {
    let mut table = RouteTable { generation: 1, ..RouteTable::default() };
    for &(destination, nodes) in paths {
        for address in overlay(destination) {
            table.prefixes.insert(address.into(), node(destination));
        }
        let nodes = nodes.iter().map(|&n| node(n)).collect();
        let primary = Path { link: LinkId(0), nodes, delay: Duration::from_millis(1) };
        table.routes.insert((node(destination), Class(0)), Route::alone(primary));
    }
    Arc::new(table)
}

/// Starts node `number` in the caller's namespace.
fn start_node(number: u16, lanes: u8, listen: &str, snapshot: &Snapshot) -> (DataDoor, DataNews) {
    let clock = Clock::start();
    let sockets = bind(endpoint(listen), lanes).unwrap();
    let tuns = Tun::open_queues("overlay%d", lanes).unwrap();
    assert_eq!(tuns.len(), usize::from(lanes));
    for address in overlay(number) {
        let own = ipnet::IpNet::from(address);
        ip(&format!("addr add {own} dev overlay0"));
    }
    ip("link set overlay0 mtu 1340 up");
    ip("route add 10.77.0.0/24 dev overlay0");
    ip("-6 route add fd77::/64 dev overlay0");
    let config = ForwardConfig {
        node: node(number),
        boot: 1,
        mtu: 1340,
        classes: vec![ClassSpec {
            name: "all".to_owned(),
            matches: Match::default(),
            policy: Policy::default(),
            delivery: Delivery { budget: Duration::from_millis(100), ..Delivery::NONE },
            marking: Default::default(),
        }],
        networks: overlay(number).into_iter().map(Into::into).collect(),
        relay: true,
        tun_udp: tuns[0].takes_udp_segments(),
        lane: Lane::ONLY,
        max_rate_bps: None,
    };
    let parts =
        Lane::all(lanes).zip(sockets.into_iter().zip(tuns)).map(|(lane, (sockets, tun))| {
            let config = ForwardConfig { lane, ..config.clone() };
            let seed = u64::from(number) * 16 + u64::from(lane.number());
            LaneParts { forwarder: Forwarder::new(config, seed, clock.now()), sockets, tun }
        });
    let (door, news) = start(clock, parts.collect()).unwrap();
    door.install(snapshot);
    (door, news)
}

/// One ICMP echo from the caller's namespace; whether its reply came.
fn ping(to: IpAddr, seq: u8) -> bool {
    use socket2::{Domain, Protocol, Socket, Type};
    let IpAddr::V4(_) = to else { panic!("IPv4 only") };
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut request = [8, 0, 0, 0, 0x77, 0x77, 0, seq, b'a', b'h', b'o', b'y'];
    let sum: u32 = request.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send_to(&request, &SocketAddr::new(to, 0).into()).unwrap();
    let mut reply = [0; 256];
    while let Ok(n) = (&socket).read(&mut reply) {
        // An IPv4 header without options, then type 0 and what we sent.
        if n >= 32 && reply[20] == 0 && reply[24..32] == request[4..12] {
            return true;
        }
    }
    false
}

fn bulk(to: IpAddr, listener: TcpListener, other: &Site, bytes: usize) {
    let address = SocketAddr::new(to, listener.local_addr().unwrap().port());
    let sender = other.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        let block: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&block).unwrap();
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join();
    assert_eq!(got.len(), bytes);
    assert!(got.iter().enumerate().all(|(i, &b)| b == (i % 251) as u8));
}

/// Three nodes in a row: A and B in sites of their own, R in the caller's namespace.
struct Row {
    a: Site,
    b: Site,
    nodes: [(DataDoor, DataNews); 3],
}

impl Row {
    /// Starts them with a lane each. Only within [`isolated`].
    fn start() -> Self {
        Self::with_lanes([1, 1, 1])
    }

    /// Starts them with so many lanes: A, R and B. Only within [`isolated`].
    fn with_lanes(lanes: [u8; 3]) -> Self {
        let [of_a, of_r, of_b] = lanes;
        let (a, b) = (Site::new(), Site::new());
        ip("link set lo up");
        for (site, third) in [(&a, 1), (&b, 2)] {
            ip(&format!("link add to{third} type veth peer name eth0 netns {}", site.id()));
            ip(&format!("addr add 192.168.{third}.1/24 dev to{third}"));
            ip(&format!("link set to{third} up"));
            site.run(move || {
                ip("link set lo up");
                ip(&format!("addr add 192.168.{third}.2/24 dev eth0"));
                ip("link set eth0 up");
            });
        }
        let listen = "0.0.0.0:4600";
        let snapshot = Snapshot {
            peers: Arc::new(vec![
                peer(R, A, Some((0, endpoint("192.168.1.2:4600"), of_r.min(of_a)))),
                peer(R, B, Some((1, endpoint("192.168.2.2:4600"), of_r.min(of_b)))),
            ]),
            routes: routes(&[]),
            tuning: None,
        };
        let node_r = start_node(R, of_r, listen, &snapshot);
        let start_edge = |site: &Site, own: u16, lanes: u8, other: u16, relay: &'static str| {
            site.run(move || {
                let link = Some((0, endpoint(relay), lanes.min(of_r)));
                let peers = Arc::new(vec![peer(own, R, link), peer(own, other, None)]);
                let routes = routes(&[(other, &[R, other])]);
                start_node(own, lanes, listen, &Snapshot { peers, routes, tuning: None })
            })
        };
        let node_a = start_edge(&a, A, of_a, B, "192.168.1.1:4600");
        let node_b = start_edge(&b, B, of_b, A, "192.168.2.1:4600");
        let row = Self { a, b, nodes: [node_a, node_r, node_b] };
        // Links come up by the first exchange; until then packets have no way.
        row.ping();
        row
    }

    /// Pings B from A until an answer comes.
    fn ping(&self) {
        let pinged = self.a.run(|| (0..40).find(|&seq| ping(overlay(B)[0], seq)));
        assert!(pinged.is_some(), "no ping came back: {:?}", self.nodes[1].0.stats().forward);
    }

    /// Ends the three and returns what A, R and B counted.
    fn end(self) -> [DataStats; 3] {
        self.nodes.map(|(door, news)| {
            door.stop();
            news.ended.blocking_recv().unwrap().unwrap();
            door.stats()
        })
    }
}

#[test]
fn ping_and_tcp_cross_a_relay_between_namespaces() {
    isolated(|| {
        let row = Row::start();
        for address in overlay(B) {
            let listener = row.b.run(move || TcpListener::bind((address, 0)).unwrap());
            bulk(address, listener, &row.a, 4 << 20);
        }
        let [stats_a, stats_r, stats_b] = row.end();
        let sent = stats_a.forward.ingress_relayed;
        assert!(sent.bytes > 8 << 20, "{sent:?}");
        assert_eq!(stats_a.forward.ingress.packets, sent.packets, "everything crossed the relay");
        assert!(stats_r.forward.relay.bytes > 8 << 20, "{:?}", stats_r.forward.relay);
        assert!(stats_b.forward.egress.bytes > 8 << 20, "{:?}", stats_b.forward.egress);
        let (udp, tun) = (&stats_a.udp, &stats_a.tun);
        assert!(udp.sent > 3 * udp.sent_messages, "runs, not single datagrams: {udp:?}");
        assert!(tun.read_bytes > 4000 * tun.read, "super-segments, not packets: {tun:?}");
        let written = &stats_b.tun;
        assert!(written.written_bytes > 4000 * written.written, "joined again: {written:?}");
        assert_eq!((written.refused, written.blocked), (0, 0), "{written:?}");
    });
}

#[test]
fn a_relay_without_its_device_goes_on_relaying_and_takes_another() {
    isolated(|| {
        let mut row = Row::start();
        ip("link del overlay0");
        let lost = row.nodes[1].1.tun_lost.blocking_recv();
        assert!(lost.is_some());
        row.ping();
        // What is for R itself has nowhere to go, and is counted.
        let before = row.nodes[1].0.stats().tun;
        let tun = Tun::open("overlay0").unwrap();
        ip("addr add 10.77.0.2/32 dev overlay0");
        ip("link set overlay0 up");
        ip("route add 10.77.0.0/24 dev overlay0");
        row.nodes[1].0.give_tun(vec![tun]);
        // Nobody answers for that address: its packets are read, and dropped by name.
        let dropped =
            |stats: &DataStats| stats.forward.dropped(crate::forward::DropReason::NoOwner);
        let found = (0..40).any(|seq| {
            ping("10.77.0.9".parse().unwrap(), seq);
            dropped(&row.nodes[1].0.stats()) > 0
        });
        assert!(found, "{:?}", row.nodes[1].0.stats());
        row.ping();
        let [_, stats, _] = row.end();
        assert_eq!(stats.tun.reopened, 1);
        assert!(stats.tun.read > before.read, "figures go on over devices: {:?}", stats.tun);
    });
}

#[test]
fn a_vanished_device_is_told_once_and_its_packets_are_counted() {
    isolated(|| {
        let mut row = Row::with_lanes([1, 1, 3]);
        row.b.run(|| ip("link del overlay0"));
        assert!(row.nodes[2].1.tun_lost.blocking_recv().is_some());
        row.a.run(|| {
            for seq in 0..3 {
                assert!(!ping(overlay(B)[0], seq), "nobody is there to answer");
            }
        });
        assert!(row.nodes[2].1.tun_lost.try_recv().is_err(), "told once");
        let [_, _, stats] = row.end();
        assert!(stats.tun.absent >= 3, "{:?}", stats.tun);
    });
}

#[test]
fn nonsense_and_giants_from_the_device_are_counted_and_survived() {
    use crate::forward::DropReason;
    isolated(|| {
        let row = Row::start();
        row.a.run(|| {
            // As the kernel would never make them: no bytes, no IP, headers cut off or lying.
            let _ = raw_packet("overlay0", &[]);
            for nonsense in [&[0x45][..], &[0x45; 19], &[0x60; 39], &[0xff; 200], &[0x00; 60]] {
                raw_packet("overlay0", nonsense).unwrap();
            }
            let mut lying = [0; 40];
            lying[..4].copy_from_slice(&[0x4f, 0, 0xff, 0xff]);
            raw_packet("overlay0", &lying).unwrap();
            // Somebody raises the MTU: the kernel now sends what the overlay does not carry.
            ip("link set overlay0 mtu 9000");
            let socket = std::net::UdpSocket::bind((overlay(A)[0], 0)).unwrap();
            socket.send_to(&[7; 5000], (overlay(B)[0], 9)).unwrap();
            ip("link set overlay0 mtu 1340");
        });
        row.ping();
        let [stats, ..] = row.end();
        let dropped = |reason| stats.forward.dropped(reason);
        assert_eq!(dropped(DropReason::TooBig), 1, "{:?}", stats.forward);
        let nonsense = [DropReason::TooShort, DropReason::NotIp, DropReason::BadPacket];
        let counted: u64 = nonsense.into_iter().map(dropped).sum();
        assert!(dropped(DropReason::NotIp) >= 2 && counted + stats.tun.malformed >= 6, "{stats:?}");
    });
}

#[test]
fn one_received_buffer_may_hold_everyones_datagrams() {
    isolated(|| {
        ip("link set lo up");
        let empty = Snapshot { peers: Arc::new(Vec::new()), routes: routes(&[]), tuning: None };
        let (door, mut news) = start_node(A, 1, "127.0.0.1:4600", &empty);
        let mut other = UdpSocket::bind(endpoint("127.0.0.1:0")).unwrap();
        let mut batch = TxBatch::default();
        for first in [0x40, 0x10, 0x05, 0xc0] {
            let to = endpoint("127.0.0.1:4600");
            batch.push(LinkId(0), to, 0, vec![first; 100].into());
        }
        assert_eq!(batch.runs.len(), 1);
        other.send(Instant::ZERO, &batch);
        for first in [0x40, 0xc0] {
            assert_eq!(news.quic.blocking_recv().unwrap().payload, [first; 100]);
        }
        door.stop();
        news.ended.blocking_recv().unwrap().unwrap();
        let stats = door.stats();
        assert_eq!((stats.udp.received_messages, stats.udp.received), (1, 4));
        let frames = stats.forward.dropped(crate::forward::DropReason::Malformed);
        assert_eq!((stats.strangers, frames), (1, 1), "{stats:?}");
    });
}

#[test]
fn a_full_line_makes_the_forwarder_hold_and_drop_and_the_thread_go_on() {
    isolated(|| {
        let row = Row::start();
        row.a.run(|| {
            let line = "qdisc add dev eth0 root tbf rate 40mbit burst 64kb limit 64mb";
            let done = std::process::Command::new("tc").args(line.split(' ')).status().unwrap();
            assert!(done.success());
        });
        let door = row.nodes[0].0.clone();
        let seen = row.a.run(move || {
            let socket = std::net::UdpSocket::bind((overlay(A)[0], 0)).unwrap();
            let shed = |stats: &DataStats| {
                let late = stats.forward.dropped(crate::forward::DropReason::QueueLate);
                let told = stats.forward.dropped(crate::forward::DropReason::QueueSignal);
                late + told + stats.forward.dropped(crate::forward::DropReason::QueueFull)
            };
            for _ in 0..400 {
                for _ in 0..100 {
                    // The device's own queue may be full: as good.
                    let _ = socket.send_to(&[7; 1200], (overlay(B)[0], 9));
                }
                std::thread::sleep(Duration::from_millis(5));
                let stats = door.stats();
                // By its rate, or before that is known because the socket is full.
                if shed(&stats) > 0 {
                    return true;
                }
            }
            false
        });
        assert!(seen, "{:?}", row.nodes[0].0.stats());
        row.ping();
        let [stats, ..] = row.end();
        assert_eq!(stats.udp.blocked, 0, "{:?}", stats.udp);
    });
}

/// Numbered datagrams of several flows from A to B, a burst at a time; gives what came of each flow,
/// in the order it came.
fn flows(row: &Row, flows: u16, bursts: u32) -> Vec<Vec<u32>> {
    const BURST: u32 = 4;
    const PATIENCE: u32 = 100;
    let to = overlay(B)[0];
    let inbox = row.b.run(move || {
        let socket = std::net::UdpSocket::bind((to, 7000)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    });
    // How many came of each burst.
    let counted: Arc<[AtomicUsize]> = (0..bursts).map(|_| AtomicUsize::new(0)).collect();
    let sent = Arc::new(AtomicBool::new(false));
    let (arrived, all_sent) = (counted.clone(), sent.clone());
    let sender = row.a.spawn(move || {
        let from = overlay(A)[0];
        let sockets: Vec<_> =
            (0..flows).map(|f| std::net::UdpSocket::bind((from, 20_000 + f)).unwrap()).collect();
        for burst in 0..bursts {
            for number in burst * BURST..(burst + 1) * BURST {
                for socket in &sockets {
                    socket.send_to(&number.to_be_bytes(), (to, 7000)).unwrap();
                }
            }
            // No faster than the machine, however busy it is: the next follows when all of this one came,
            // or nothing more of it does. What is late is not taken for a later burst's.
            let came = || arrived[burst as usize].load(Relaxed);
            let (mut seen, mut patience) = (0, PATIENCE);
            while came() < BURST as usize * sockets.len() && patience > 0 {
                std::thread::sleep(Duration::from_millis(1));
                patience = if came() > seen { PATIENCE } else { patience - 1 };
                seen = came();
            }
        }
        all_sent.store(true, Relaxed);
    });
    let mut came = vec![Vec::new(); usize::from(flows)];
    let mut bytes = [0; 64];
    let (mut left, mut silent) = (u32::from(flows) * bursts * BURST, 0);
    // Two seconds of silence after the last was sent are the end, however long that took.
    while left > 0 && silent < 10 {
        let Ok((4, from)) = inbox.recv_from(&mut bytes) else {
            silent += u32::from(sent.load(Relaxed));
            continue;
        };
        let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        came[usize::from(from.port() - 20_000)].push(number);
        counted[(number / BURST) as usize].fetch_add(1, Relaxed);
        left -= 1;
    }
    sender.join();
    came
}

#[test]
fn flows_are_spread_over_lanes_and_each_keeps_its_order_whatever_the_others_have() {
    for lanes in [[2, 2, 2], [2, 1, 2], [3, 3, 2], [1, 2, 3]] {
        isolated(move || {
            let row = Row::with_lanes(lanes);
            let sorted = |numbers: &Vec<u32>| numbers.windows(2).all(|pair| pair[0] < pair[1]);
            let came = flows(&row, 48, 60);
            let total: usize = came.iter().map(Vec::len).sum();
            // Queues may overflow on a machine that is busy; order is kept all the same.
            assert!(total > 48 * 60 * 4 * 9 / 10, "{lanes:?}: {total}");
            assert!(came.iter().all(sorted), "{lanes:?}: a flow's order was lost");
            for address in overlay(B) {
                let listener = row.b.run(move || TcpListener::bind((address, 0)).unwrap());
                bulk(address, listener, &row.a, 1 << 20);
            }
            let stats = row.end();
            let pairs = [lanes[0].min(lanes[1]), lanes[1].min(lanes[2])];
            for (at, count) in lanes.into_iter().enumerate() {
                let stats = &stats[at];
                assert_eq!(stats.lanes.len(), usize::from(count));
                let links = if at == 1 { pairs[0].max(pairs[1]) } else { pairs[at / 2] };
                let all = pairs[0].min(pairs[1]);
                for (number, lane) in (0..).zip(&stats.lanes) {
                    // Hello alone is a handful of frames.
                    let busy = lane.frames_sent > 100 || lane.frames_received > 100;
                    assert!(busy || number >= all, "{lanes:?} {at}: {lane:?}");
                    assert!(!busy || number < links, "{lanes:?} {at}: {lane:?}");
                }
                let read = stats.lanes.iter().filter(|lane| lane.ingress_packets > 100).count();
                assert!(at != 0 || read == usize::from(count), "{lanes:?}: all queues are read");
                let full = stats.forward.dropped(crate::forward::DropReason::LaneFull);
                assert_eq!((full, stats.strays_dropped), (0, 0), "{lanes:?} {at}");
                let handed = stats.forward.handed;
                let must = match at {
                    0 => lanes[0] > lanes[1],
                    1 => pairs[0] > pairs[1],
                    _ => lanes[2] > 1 && pairs[1] < lanes[2].min(lanes[0]),
                };
                // The kernel spreads the flows by a hash of its own. A lane without its like beyond gets a
                // third of them or more, 240 datagrams each, and fewer than four of 48 once in 100,000
                // runs. Else only acknowledgements are handed over: of twice a mebibyte, each
                // of two segments at least, some 800.
                assert_eq!(handed > 900, must, "{lanes:?} {at}: {handed} handed over");
            }
        });
    }
}

#[test]
fn a_frame_that_came_to_the_wrong_socket_is_given_to_its_lane() {
    isolated(|| {
        ip("link set lo up");
        let empty = Snapshot { peers: Arc::new(Vec::new()), routes: routes(&[]), tuning: None };
        let (door, news) = start_node(A, 2, "127.0.0.1:4600", &empty);
        let mut other = UdpSocket::bind(endpoint("127.0.0.1:0")).unwrap();
        let mut batch = TxBatch::default();
        // One run of both lanes, as a network card may join them: it goes where its first belongs.
        for lane in [0, 1, 1, 0] {
            let mut frame = vec![0x10, 0, 0, 0, 7, lane];
            frame.resize(200, 0);
            batch.push(LinkId(0), endpoint("127.0.0.1:4600"), 0, frame.into());
        }
        assert_eq!(batch.runs.len(), 1);
        other.send(Instant::ZERO, &batch);
        let unknown =
            |stats: &DataStats| stats.forward.dropped(crate::forward::DropReason::UnknownIndex);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if unknown(&door.stats()) == 4 {
                break;
            }
        }
        door.stop();
        news.ended.blocking_recv().unwrap().unwrap();
        let stats = door.stats();
        assert_eq!((unknown(&stats), stats.strays, stats.strangers), (4, 2, 0), "{stats:?}");
        assert_eq!(stats.lanes.iter().map(|lane| lane.strays).collect::<Vec<_>>(), [2, 0]);
    });
}
