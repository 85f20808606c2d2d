//! Two sockets on loopback, and one told what no loopback would say.

use std::time::Duration;

use super::paths::GSO_RETRY;
use super::pending::{BYTES, HOLD, RETRY};
use super::*;
use crate::daemon::namespace::{Site, ip, isolated};
use crate::daemon::poller::Poller;

const NOW: Instant = Instant::ZERO;

fn pair(local: &str) -> (UdpSocket, UdpSocket) {
    (UdpSocket::bind(local.parse().unwrap()).unwrap(), {
        UdpSocket::bind(local.parse().unwrap()).unwrap()
    })
}

fn batch_of(to: SocketAddr, tos: u8, lengths: &[usize]) -> TxBatch {
    let mut batch = TxBatch::default();
    for (i, &length) in lengths.iter().enumerate() {
        let bytes: Vec<u8> = (0..length).map(|b| (i * 31 + b) as u8).collect();
        batch.push(LinkId(0), to, tos, bytes.into());
    }
    batch
}

/// Receives until `count` datagrams came or nothing comes for a second.
fn receive(socket: &mut UdpSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr, u8)> {
    let poller = Poller::new().unwrap();
    poller.watch(socket.as_fd(), 0).unwrap();
    let (mut blocks, mut batch) = (Blocks::new(64), RecvBatch::default());
    let mut out = Vec::new();
    while out.len() < count {
        let mut ready = false;
        poller.wait(Some(Duration::from_secs(1)), |_| ready = true).unwrap();
        if !ready {
            break;
        }
        socket.recv(&mut blocks, &mut batch).unwrap();
        for d in &batch.datagrams {
            out.push((d.bytes.to_vec(), d.from, d.tos));
        }
    }
    out
}

fn round_trip(local: &str) {
    let (mut a, mut b) = pair(local);
    let lengths: Vec<usize> = [1000; 40].into_iter().chain([300, 77, 1200, 1200, 5]).collect();
    let batch = batch_of(b.local(), 0b1011_1010, &lengths);
    a.send(NOW, &batch);
    let got = receive(&mut b, lengths.len());
    let sent: Vec<Vec<u8>> = batch.datagrams().map(|(_, d)| d.to_vec()).collect();
    assert_eq!(got.iter().map(|g| g.0.clone()).collect::<Vec<_>>(), sent);
    assert!(
        got.iter().all(|g| g.1 == a.local() && g.2 == 0b1011_1010),
        "source, DSCP and ECN came along"
    );
    let stats = a.stats();
    assert_eq!(stats.sent, lengths.len() as u64);
    assert_eq!(stats.sent_bytes, lengths.iter().sum::<usize>() as u64);
    assert_eq!(stats.sent_messages, batch.runs.len() as u64, "one message a run");
    assert_eq!(b.stats().received, lengths.len() as u64);
    assert!(b.stats().received_messages <= stats.sent_messages, "runs came joined");
}

#[test]
fn runs_come_back_as_the_datagrams_they_were_over_ipv4() {
    round_trip("127.0.0.1:0");
}

#[test]
fn runs_come_back_as_the_datagrams_they_were_over_ipv6() {
    match UdpSocket::bind("[::1]:0".parse().unwrap()) {
        Ok(_) => round_trip("[::1]:0"),
        Err(error) => println!("skipped: no IPv6 loopback here ({error})"),
    }
}

#[test]
fn a_destination_that_refuses_gso_is_spared_it_and_asked_again_later() {
    let (mut a, mut b) = pair("127.0.0.1:0");
    let to = b.local();
    let batch = batch_of(to, 0, &[800; 10]);
    let run = batch.runs[0].clone();
    let (range, bytes) = (run.range, run.bytes);
    let item = Item { to, tos: 0, range, bytes, segment: Some(800), link: None };
    a.refused(NOW, &batch.datagrams, &item, &io::Error::from_raw_os_error(libc::EIO));
    assert_eq!(a.stats().sent_messages, 10, "what was refused went one by one");
    a.send(NOW.plus(Duration::from_secs(1)), &batch);
    assert_eq!(a.stats().sent_messages, 20, "still spared");
    a.send(NOW.plus(GSO_RETRY), &batch);
    assert_eq!(a.stats().sent_messages, 21, "asked again, as one run");
    assert_eq!((a.stats().gso_refused, a.stats().sent), (1, 30));
    assert_eq!(receive(&mut b, 30).len(), 30);
}

#[test]
fn what_cannot_be_sent_is_counted_and_the_rest_goes() {
    let (mut a, mut b) = pair("127.0.0.1:0");
    let mut batch = batch_of(b.local(), 0, &[100]);
    // No datagram is that long.
    batch.push(LinkId(1), b.local(), 0, vec![0; 66_000].into());
    // Port 0 is nobody's.
    batch.push(LinkId(2), "127.0.0.1:0".parse().unwrap(), 0, vec![0; 50].into());
    // Another family is another socket's business.
    batch.push(LinkId(3), "[::1]:9".parse().unwrap(), 0, vec![0; 50].into());
    batch.push(LinkId(4), b.local(), 0, vec![0; 60].into());
    a.send(NOW, &batch);
    let stats = a.stats();
    assert_eq!((stats.sent, stats.too_big, stats.unreachable), (2, 1, 1));
    assert_eq!(receive(&mut b, 2).len(), 2);
}

#[test]
fn drops_of_the_local_kernel_are_told_apart() {
    let (mut a, mut b) = pair("127.0.0.1:0");
    // A buffer too small for what follows.
    set(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096).unwrap();
    let batch = batch_of(b.local(), 0, &[1200; 64]);
    a.send_one(NOW, b.local(), 0, vec![1; 100].into());
    for _ in 0..20 {
        a.send(NOW, &batch);
    }
    let first = receive(&mut b, usize::MAX).len();
    // The count rides on the next datagram that comes through.
    a.send_one(NOW, b.local(), 0, vec![2; 100].into());
    receive(&mut b, 1);
    let drops = b.stats().kernel_drops;
    assert!(drops > 0, "{first} received, none known as dropped");
}

#[test]
fn buffers_are_large_where_the_system_allows() {
    let (a, _) = pair("127.0.0.1:0");
    let buffers = a.buffers();
    assert!(buffers.receive > 0 && buffers.send > 0, "{buffers:?}");
}

#[test]
fn a_datagram_without_a_byte_is_counted_and_survived() {
    let (mut a, mut b) = pair("127.0.0.1:0");
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    other.send_to(&[], b.local()).unwrap();
    a.send_one(NOW, b.local(), 0, vec![1; 10].into());
    assert_eq!(receive(&mut b, 1).len(), 1);
    assert_eq!((b.stats().empty, b.stats().received), (1, 1));
}

#[test]
fn what_was_cut_short_is_used_as_far_as_it_is_whole() {
    assert_eq!(intact(0, 3000, Some(1000)), (3000, 1000));
    assert_eq!(intact(0, 3000, None), (3000, 3000));
    assert_eq!(intact(0, 0, None), (0, 1));
    assert_eq!(intact(libc::MSG_TRUNC, 2500, Some(1000)), (2000, 1000));
    assert_eq!(intact(libc::MSG_TRUNC, 3000, Some(1000)), (2000, 1000), "it may have been longer");
    assert_eq!(intact(libc::MSG_TRUNC, 3000, None), (0, 3000));
    assert_eq!(intact(libc::MSG_CTRUNC, 3000, None).0, 0, "one datagram or three?");
}

/// Runs `test` with a socket whose way to the address it is given leads over a veth pair; what
/// arrives there nobody reads.
fn beside_a_veth(test: impl FnOnce(UdpSocket, SocketAddr) + Send + 'static) {
    isolated(|| {
        let other = Site::new();
        ip(&format!("link add near type veth peer name far netns {}", other.id()));
        ip("addr add 192.168.1.1/24 dev near");
        ip("link set near up");
        let mut far = other.run(|| {
            ip("addr add 192.168.1.2/24 dev far");
            ip("link set far up");
            UdpSocket::bind("192.168.1.2:0".parse().unwrap()).unwrap()
        });
        // A neighbour that is known: nothing waits for ARP.
        let mut near = UdpSocket::bind("192.168.1.1:0".parse().unwrap()).unwrap();
        let known = (0..10).any(|_| {
            near.send_one(NOW, far.local(), 0, vec![0].into());
            !receive(&mut far, 1).is_empty()
        });
        assert!(known, "the pair does not carry: {:?}", near.stats());
        near.stats = UdpStats::default();
        test(near, far.local());
    });
}

/// A line so slow, and a send buffer so small, that the buffer is full soon.
fn narrow(socket: &UdpSocket, rate: &str) {
    let line = format!("qdisc add dev near root tbf rate {rate} burst 16kb limit 16mb");
    let done = std::process::Command::new("tc").args(line.split(' ')).status().unwrap();
    assert!(done.success());
    set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 64 << 10).unwrap();
}

#[test]
fn what_a_full_send_buffer_refuses_goes_when_there_is_room() {
    beside_a_veth(|mut socket, to| {
        narrow(&socket, "40mbit");
        let batch = batch_of(to, 0, &[1200; 400]);
        socket.send(NOW, &batch);
        let stats = socket.stats();
        assert!(socket.holds_back() && socket.wants_room() && stats.full == 1, "{stats:?}");
        assert_eq!((stats.sent + stats.held, stats.blocked), (400, 0), "{stats:?}");
        assert_eq!(socket.held_bytes() as u64, 1200 * stats.held);
        // QUIC's datagrams go behind what waits.
        socket.send_one(NOW, to, 0, vec![0x40; 900].into());
        assert_eq!(socket.stats().held, stats.held + 1);
        let poller = Poller::new().unwrap();
        poller.watch(socket.as_fd(), 0).unwrap();
        poller.watch_room(socket.as_fd(), 0, true).unwrap();
        while socket.holds_back() {
            let mut room = false;
            let wait = poller.wait_each(Some(Duration::from_secs(5)), |_, is| room = is.room);
            wait.unwrap();
            assert!(room, "the line stands still: {:?}", socket.stats());
            socket.handle_writable(NOW);
        }
        let stats = socket.stats();
        assert_eq!((stats.sent, stats.blocked, socket.held_bytes()), (401, 0, 0), "{stats:?}");
        assert!(socket.poll_lost().is_none() && !socket.wants_room());
    });
}

#[test]
fn a_line_that_stands_still_is_given_up_and_its_losses_are_known_as_local() {
    beside_a_veth(|mut socket, to| {
        narrow(&socket, "8kbit");
        let mut batch = TxBatch::default();
        for i in 0..400 {
            let kind = if i % 2 == 0 { Kind::Data as u8 } else { Kind::Ack as u8 };
            batch.push(LinkId(0), to, 0, vec![kind; 1200].into());
        }
        socket.send(NOW, &batch);
        assert!(socket.holds_back());
        socket.handle_timeout(NOW.plus(RETRY));
        assert!(socket.holds_back(), "tried in vain, and waiting again");
        let again = socket.poll_timeout().unwrap();
        assert_eq!(again, NOW.plus(RETRY * 2));
        socket.handle_timeout(NOW.plus(HOLD));
        let stats = socket.stats();
        assert!(!socket.holds_back() && socket.wants_room() && socket.held_bytes() == 0);
        assert_eq!(stats.sent + stats.blocked, 400, "{stats:?}");
        let (link, lost) = socket.poll_lost().unwrap();
        assert_eq!(link, LinkId(0));
        assert!(lost.abs_diff(stats.blocked / 2) <= 1, "{lost} of {}", stats.blocked);
        assert!(socket.poll_timeout().is_none(), "no clock is asked for in vain");
        // Nothing is kept for a line that stands.
        socket.send(NOW.plus(HOLD), &batch);
        assert_eq!((socket.held_bytes(), socket.holds_back()), (0, false));
        assert_eq!(socket.stats().blocked, stats.blocked + 400);
    });
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    beside_a_veth(|mut socket, to| {
        narrow(&socket, "8kbit");
        let batch = batch_of(to, 0, &[1200; 400]);
        for _ in 0..10 {
            socket.send(NOW, &batch);
            assert!(socket.held_bytes() <= BYTES);
        }
        assert!(socket.stats().blocked > 0);
    });
}

#[test]
fn a_path_that_shrinks_costs_what_is_too_big_and_nothing_else() {
    beside_a_veth(|mut socket, to| {
        let large = batch_of(to, 0, &[1400; 20]);
        let small = batch_of(to, 0, &[900; 20]);
        let send = |socket: &mut UdpSocket| {
            socket.send(NOW, &large);
            socket.send(NOW, &small);
            let stats = socket.stats();
            (stats.sent, stats.too_big, stats.sent_messages)
        };
        assert_eq!(send(&mut socket), (40, 0, 2));
        ip("link set near mtu 1000");
        let (sent, too_big, _) = send(&mut socket);
        assert_eq!((sent, too_big), (60, 20), "{:?}", socket.stats());
        assert_eq!(socket.too_big().get(&to), Some(&20));
        ip("link set near mtu 1500");
        let before = socket.stats().sent_messages;
        let (sent, too_big, messages) = send(&mut socket);
        assert_eq!((sent, too_big), (100, 20));
        assert_eq!(messages - before, 2, "runs go whole again at once: GSO was not to blame");
        let stats = socket.stats();
        assert_eq!((stats.gso_refused, stats.unreachable, stats.blocked), (0, 0, 0), "{stats:?}");
    });
}
