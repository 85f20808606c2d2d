//! The namespaces floor end to end: what the traffic tool counts is what the emulator did.
//!
//! Needs root; says that it skips without, fails if `THALWEG_REQUIRE_NETNS=1` demands it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use netsim::link::{LinkParams, Reorder};
use netsim::netns::tcp::{Stream, StreamSpec};
use netsim::netns::traffic::{FlowSpec, Traffic};
use netsim::netns::{Floor, sys, test_floor};
use thalweg::buf::{Blocks, RecvBatch};
use thalweg::daemon::udp::UdpSocket;
use thalweg::unit::Ratio;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn flow(floor: &Floor, from: usize, to: usize, pps: u32, payload: &[u8]) -> FlowSpec {
    FlowSpec {
        from: floor.sites[from].address.into(),
        to: SocketAddr::new(floor.sites[to].address.into(), 9000 + from as u16),
        pps,
        size: 160,
        dscp: 46,
        payload: payload.to_vec(),
        span: None,
    }
}

#[test]
fn the_tool_counts_exactly_what_the_emulator_did() {
    if !test_floor() {
        return;
    }
    let lossy = LinkParams {
        delay: MS(10),
        loss: Ratio::from_ppm(50_000),
        duplicate: Ratio::from_ppm(20_000),
        reorder: Some(Reorder { share: Ratio::from_ppm(30_000), by: MS(6) }),
        ..LinkParams::default()
    };
    let links = BTreeMap::from([((0, 1), lossy), ((1, 0), LinkParams::default())]);
    let floor = Floor::new(&["a", "b"], &links, 11).unwrap();
    let (a, b) = (&floor.sites[0].ns, &floor.sites[1].ns);
    let there = flow(&floor, 0, 1, 1000, &[]);
    let back = flow(&floor, 1, 0, 500, &[]);
    let traffic = Traffic::start(&[(a, b, there), (b, a, back)]).unwrap();
    sys::sleep_until_ns(sys::monotonic_ns() + 1_500_000_000);
    let ledgers = traffic.finish(MS(300));
    let stats = floor.wan.report().unwrap().links;
    let q = ledgers[0].quality(0, u64::MAX);
    let link = stats[&(0, 1)];
    assert!(q.sent > 500, "{q:?}");
    assert_eq!(q.refused, 0);
    assert_eq!((q.sent, q.received, q.duplicates), (link.offered, link.delivered, link.duplicated));
    assert!(q.reordered > 0 && q.received < q.sent && q.duplicates > 0, "{q:?}");
    assert!(q.p50_ms.unwrap() >= 10.0);
    let q = ledgers[1].quality(0, u64::MAX);
    assert_eq!((q.loss, q.duplicates, q.reordered), (Some(0.0), 0, 0));
    assert_eq!(q.sent, stats[&(1, 0)].delivered);
}

#[test]
fn a_cut_is_a_gap_and_the_tap_sees_a_payload_only_where_it_passes() {
    if !test_floor() {
        return;
    }
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    let links = pairs.map(|pair| (pair, LinkParams { delay: MS(5), ..LinkParams::default() }));
    let floor = Floor::new(&["a", "b", "c"], &links.into(), 1).unwrap();
    let secret = b"the quick brown fox";
    floor.wan.watch(secret);
    let (a, b, c) = (&floor.sites[0].ns, &floor.sites[1].ns, &floor.sites[2].ns);
    let open = flow(&floor, 0, 1, 200, secret);
    let other = flow(&floor, 2, 1, 200, b"something else");
    let traffic = Traffic::start(&[(a, b, open), (c, b, other)]).unwrap();
    let sleep = |ms: u64| sys::sleep_until_ns(sys::monotonic_ns() + ms * 1_000_000);
    sleep(400);
    let cut = LinkParams { cut: true, ..LinkParams::default() };
    floor.wan.install(0, 1, cut);
    sleep(300);
    floor.wan.install(0, 1, LinkParams { delay: MS(5), ..LinkParams::default() });
    sleep(400);
    let ledgers = traffic.finish(MS(200));
    let gap = ledgers[0].quality(0, u64::MAX).longest_gap_ms.unwrap();
    assert!((250.0..900.0).contains(&gap), "{gap}");
    assert_eq!(ledgers[1].quality(0, u64::MAX).loss, Some(0.0), "the other link stood");
    let seen = floor.wan.report().unwrap().seen;
    assert!(seen[&(0, 1)].found > 50 && seen[&(0, 1)].found == seen[&(0, 1)].searched);
    assert!(seen[&(2, 1)].searched > 50 && seen[&(2, 1)].found == 0);
}

#[test]
fn tcp_fills_a_line_and_not_more() {
    if !test_floor() {
        return;
    }
    let line = LinkParams {
        delay: MS(2),
        rate_bps: Some(10_000_000),
        queue_bytes: 100_000,
        ..LinkParams::default()
    };
    let links = BTreeMap::from([((0, 1), line.clone()), ((1, 0), line)]);
    let floor = Floor::new(&["a", "b"], &links, 1).unwrap();
    let (a, b) = (&floor.sites[0], &floor.sites[1]);
    let spec = StreamSpec {
        from: a.address.into(),
        to: b.address.into(),
        length: Duration::from_secs(2),
        congestion: Some("cubic".into()),
    };
    let mbit = Stream::start(&a.ns, &b.ns, &spec).unwrap().finish();
    // 1448 of 1500 bytes are payload.
    assert!((6.0..=9.7).contains(&mbit), "{mbit}");
    let nobody = StreamSpec { to: "198.18.99.1".parse().unwrap(), ..spec };
    assert!(Stream::start(&a.ns, &b.ns, &nobody).is_err(), "an address that is not there");
}

#[test]
fn what_a_sites_own_machine_drops_its_kernel_counts_at_the_socket() {
    if !test_floor() {
        return;
    }
    let links = BTreeMap::from([(
        (0, 1),
        LinkParams { local_loss: Ratio::from_ppm(500_000), ..LinkParams::default() },
    )]);
    let floor = Floor::new(&["a", "b"], &links, 5).unwrap();
    let to = SocketAddr::new(floor.sites[1].address.into(), 9000);
    let mut receiver = floor.sites[1].ns.run(|| UdpSocket::bind(to)).unwrap();
    let sender = floor.sites[0].ns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    for _ in 0..200 {
        sender.send_to(&[0; 100], to).unwrap();
    }
    sys::sleep_until_ns(sys::monotonic_ns() + 200_000_000);
    // Drops are told with the next datagram that is taken.
    floor.wan.install(0, 1, LinkParams::default());
    floor.wan.report().unwrap();
    sender.send_to(&[0; 100], to).unwrap();
    sys::sleep_until_ns(sys::monotonic_ns() + 200_000_000);
    let (mut blocks, mut batch) = (Blocks::new(64), RecvBatch::default());
    let (mut taken, mut dropped) = (0, 0);
    for _ in 0..50 {
        receiver.recv(&mut blocks, &mut batch).unwrap();
        taken += batch.datagrams.len() as u64;
        dropped += batch.local_drops;
        batch.clear();
    }
    // A checksum is looked at when the datagram is read: what is read first tells of no drop yet.
    sender.send_to(&[0; 100], to).unwrap();
    sys::sleep_until_ns(sys::monotonic_ns() + 200_000_000);
    receiver.recv(&mut blocks, &mut batch).unwrap();
    taken += batch.datagrams.len() as u64;
    dropped += batch.local_drops;
    let link = floor.wan.report().unwrap().links[&(0, 1)];
    assert!(link.discarded > 50, "{link:?}");
    assert_eq!((taken, dropped), (link.delivered, link.discarded));
}
