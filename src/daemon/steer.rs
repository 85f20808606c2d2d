//! Which lane a datagram or packet goes to, decided in the kernel before any thread wakes.
//!
//! *Datagrams*: the sockets of a group share one address, and a classic BPF program picks one by the
//! lane byte of a frame, the sixth (`docs/wire.md`); all that is no frame goes to the first. Linux
//! `socket(7)`, SO_ATTACH_REUSEPORT_CBPF.
//!
//! *Packets*: a TUN device of several queues picks one by an eBPF program that hashes addresses and
//! ports, both ways of a flow alike. Left to itself the kernel would follow the queue that a flow's
//! answers were last written to and forget it after 3 s of silence (`tun_flow_update`,
//! `TUN_FLOW_EXPIRE` in drivers/net/tun.c): a flow could change queues while it runs, and what is
//! in two queues has no order.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::poller::check;
use crate::wire::header::Clear;

/// Has the group of this socket take each frame at the socket of its lane.
///
/// # Errors
/// The socket is in no group, or the kernel lacks the option (before Linux 4.5).
pub fn sockets(socket: BorrowedFd<'_>, lanes: u8) -> io::Result<()> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const MODULO: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const GIVE: u16 = (libc::BPF_RET | libc::BPF_A) as u16;
    const GIVE_CONSTANT: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // A load beyond the datagram's end gives zero: the first socket.
    let mut program = [
        step(LOAD_BYTE, 0),
        step(AND, 0xf0),
        libc::sock_filter { code: IF_EQUAL, jt: 0, jf: 3, k: 0x10 },
        step(LOAD_BYTE, Clear::LANE_AT as u32),
        step(MODULO, lanes.max(1).into()),
        step(GIVE, 0),
        step(GIVE_CONSTANT, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option takes a sock_fprog, which lives through the call with its program.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Has the TUN device of this queue pick the queue of each packet by its flow.
///
/// # Errors
/// No privilege to load a program (CAP_BPF, where the system asks for it), or no such option
/// (before Linux 4.16).
pub fn queues(tun: BorrowedFd<'_>) -> io::Result<()> {
    let program = load(&by_flow())?;
    let fd: RawFd = program.as_raw_fd();
    // SAFETY: the option takes a pointer to a descriptor, which lives through the call. The device
    // holds the program from then on.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETSTEERINGEBPF, &raw const fd) })?;
    Ok(())
}

/// An instruction of eBPF, as the kernel takes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Step {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

/// The operations used here, as linux/bpf.h codes them. Arithmetic is in 32 bits.
const COPY_64: u8 = 0xbf;
const COPY: u8 = 0xbc;
const SET: u8 = 0xb4;
const XOR: u8 = 0xac;
const AND: u8 = 0x54;
const LEFT: u8 = 0x64;
const RIGHT: u8 = 0x74;
const TIMES: u8 = 0x24;
const LOAD_BYTE: u8 = 0x30;
const LOAD_HALF: u8 = 0x28;
const LOAD_WORD: u8 = 0x20;
const LOAD_HALF_AT: u8 = 0x48;
const IF_EQUAL: u8 = 0x15;
const UNLESS: u8 = 0x55;
const GO: u8 = 0x05;
const END: u8 = 0x95;

/// Fibonacci hashing: 2³² over the golden ratio, odd.
const GOLDEN: i32 = 0x9e37_79b1_u32 as i32;

/// A line of a program: an instruction, one that may jump to a place, or a place.
#[derive(Clone, Copy, Debug)]
enum Line {
    Do(Step),
    Jump(Step, &'static str),
    Place(&'static str),
}

/// The program: register 6 the packet, 7 the hash, 8 where the ports are; loads leave what they read
/// in 0, and end the program with 0 where the packet is too short.
fn by_flow() -> Vec<Step> {
    use Line::{Do, Jump, Place};
    let step = |code, to: u8, from: u8, constant| Step {
        code,
        registers: if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from },
        offset: 0,
        constant,
    };
    let op = |code, to, constant| Do(step(code, to, 0, constant));
    let copy = |code, to, from| Do(step(code, to, from, 0));
    let load = |code, at| Do(step(code, 0, 0, at));
    let jump = |code, constant, place| Jump(step(code, 0, 0, constant), place);
    // Exclusive or: the same both ways.
    let word = |at| [load(LOAD_WORD, at), copy(XOR, 7, 0)];
    let transport = |at| {
        [
            load(LOAD_BYTE, at),
            jump(IF_EQUAL, libc::IPPROTO_TCP, "has ports"),
            jump(IF_EQUAL, libc::IPPROTO_UDP, "has ports"),
            jump(GO, 0, "end"),
        ]
    };
    let mut lines = vec![
        copy(COPY_64, 6, 1),
        op(SET, 7, 0),
        // In IPv6 the ports are behind the fixed header, or not looked for.
        op(SET, 8, 40),
        load(LOAD_BYTE, 0),
        op(RIGHT, 0, 4),
        jump(IF_EQUAL, 6, "v6"),
        jump(UNLESS, 4, "end"),
        load(LOAD_BYTE, 0),
        op(AND, 0, 15),
        op(LEFT, 0, 2),
        copy(COPY, 8, 0),
    ];
    lines.extend([12, 16].into_iter().flat_map(word));
    // All pieces of a fragmented packet go by addresses: only the first has ports.
    lines.extend([load(LOAD_HALF, 6), op(AND, 0, 0x3fff), jump(UNLESS, 0, "end")]);
    lines.extend(transport(9));
    lines.push(Place("v6"));
    lines.extend((8..40).step_by(4).flat_map(word));
    lines.extend(transport(6));
    lines.extend([
        Place("has ports"),
        op(TIMES, 7, GOLDEN),
        Do(step(LOAD_HALF_AT, 0, 8, 0)),
        copy(XOR, 7, 0),
        Do(step(LOAD_HALF_AT, 0, 8, 2)),
        copy(XOR, 7, 0),
        Place("end"),
        op(TIMES, 7, GOLDEN),
        op(RIGHT, 7, 16),
        copy(COPY, 0, 7),
        op(END, 0, 0),
    ]);
    assemble(&lines)
}

/// Instructions alone, jumps counted in instructions from the next one.
fn assemble(lines: &[Line]) -> Vec<Step> {
    let (mut at, mut places) = (0_i16, Vec::new());
    for line in lines {
        match line {
            Line::Place(name) => places.push((*name, at)),
            Line::Do(_) | Line::Jump(..) => at += 1,
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        match *line {
            Line::Place(_) => {}
            Line::Do(step) => steps.push(step),
            Line::Jump(step, name) => {
                let place = places.iter().find(|(place, _)| *place == name);
                let (_, to) = place.expect("every place that is jumped to is there");
                steps.push(Step { offset: to - steps.len() as i16 - 1, ..step });
            }
        }
    }
    steps
}

fn load(program: &[Step]) -> io::Result<OwnedFd> {
    /// The head of the kernel's `union bpf_attr` for loading a program.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        steps: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    let licence = c"Dual MIT/GPL";
    let attributes = Load {
        kind: SOCKET_FILTER,
        count: program.len() as u32,
        steps: program.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    // SAFETY: the attributes, the program and the licence live through the call; the kernel reads
    // as much of each as is said here.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>())
    };
    let fd = check(libc::c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdp};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;
    use crate::buf::{Blocks, RecvBatch, TunBatch, TunPacket, TunWrites};
    use crate::daemon::namespace::{ip, isolated};
    use crate::daemon::poller::Poller;
    use crate::daemon::tun::Tun;
    use crate::daemon::udp::UdpSocket;

    /// Which sockets of a group got which datagrams, by their first and sixth byte.
    fn steered(local: &str, lanes: u8) -> Vec<Vec<(u8, u8)>> {
        let mut group = UdpSocket::bind_group(local.parse().unwrap(), lanes).unwrap();
        assert_eq!(group.len(), usize::from(lanes));
        let to = group[0].local();
        assert!(group.iter().all(|socket| socket.local() == to));
        let sender = StdUdp::bind(SocketAddr::new(to.ip(), 0)).unwrap();
        for first in [0x10, 0x14, 0x1f, 0x40, 0xc3, 0x00] {
            for lane in 0..8 {
                sender.send_to(&[first, 0, 1, 2, 3, lane, 9, 9], to).unwrap();
            }
            // Too short for a lane.
            sender.send_to(&[first, 0, 1], to).unwrap();
        }
        let mut got = Vec::new();
        for socket in &mut group {
            let poller = Poller::new().unwrap();
            poller.watch(socket.as_fd(), 0).unwrap();
            let (mut batch, mut all) = (RecvBatch::default(), Vec::new());
            let mut blocks = Blocks::new(64);
            loop {
                let mut ready = false;
                poller.wait(Some(Duration::from_millis(50)), |_| ready = true).unwrap();
                if !ready {
                    break;
                }
                socket.recv(&mut blocks, &mut batch).unwrap();
                let heads = batch.datagrams.iter().map(|d| &d.bytes);
                all.extend(heads.map(|b| (b[0], b.get(5).copied().unwrap_or(0xff))));
            }
            got.push(all);
        }
        got
    }

    #[test]
    fn frames_come_to_the_socket_of_their_lane_and_all_else_to_the_first() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            if local.starts_with('[') && UdpSocket::bind(local.parse().unwrap()).is_err() {
                println!("skipped: no IPv6 loopback here");
                continue;
            }
            let got = steered(local, 3);
            assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 6 * 9, "all came: {got:?}");
            for (lane, datagrams) in got.iter().enumerate() {
                for &(first, byte) in datagrams {
                    let frame = first >> 4 == 1 && byte != 0xff;
                    let want = if frame { usize::from(byte) % 3 } else { 0 };
                    assert_eq!(lane, want, "{local}: {first:#x} {byte}");
                }
            }
        }
    }

    #[test]
    fn a_group_s_address_is_as_taken_as_a_single_socket_s() {
        let group = UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = group[0].local();
        for lanes in [1, 2] {
            let error = UdpSocket::bind_group(address, lanes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "a second daemon");
        }
    }

    /// A device of `queues` queues that answers for everything, and the queue each packet came out of
    /// with its ports.
    fn queues_of(queues: u8, send: impl FnOnce()) -> Vec<(usize, IpAddr, u16)> {
        let mut tuns = Tun::open_queues("steer%d", queues).unwrap();
        assert_eq!(tuns.len(), usize::from(queues), "this system lets us load the program");
        let name = tuns[0].name().to_owned();
        ip(&format!("addr add 10.9.0.1/24 dev {name}"));
        ip(&format!("addr add fd09::1/64 dev {name} nodad"));
        ip(&format!("link set {name} up"));
        send();
        let mut seen = Vec::new();
        let (mut blocks, mut batch) = (Blocks::new(64), TunBatch::default());
        for (queue, tun) in tuns.iter_mut().enumerate() {
            while tun.recv(&mut blocks, &mut batch).unwrap() || !batch.packets.is_empty() {
                for packet in &batch.packets {
                    if let Ok(head) = crate::forward::classify::Head::read(&packet.bytes)
                        && head.protocol == 17
                    {
                        seen.push((queue, head.destination, head.ports.1));
                    }
                }
                if batch.packets.is_empty() {
                    break;
                }
            }
        }
        seen
    }

    #[test]
    fn a_flow_stays_in_its_queue_and_flows_spread_over_all() {
        isolated(|| {
            let seen = queues_of(3, || {
                for (local, remote) in
                    [("10.9.0.1:7000", "10.9.0.2"), ("[fd09::1]:7000", "fd09::2")]
                {
                    let socket = StdUdp::bind(local).unwrap();
                    let remote: IpAddr = remote.parse().unwrap();
                    for _ in 0..4 {
                        for port in 1..=60 {
                            socket.send_to(b"a flow's packet", (remote, port)).unwrap();
                        }
                    }
                }
            });
            assert_eq!(seen.len(), 2 * 4 * 60);
            let mut flows = std::collections::BTreeMap::<_, Vec<usize>>::new();
            for &(queue, to, port) in &seen {
                flows.entry((to, port)).or_default().push(queue);
            }
            assert!(flows.values().all(|q| q.iter().all(|&other| other == q[0])), "{flows:?}");
            for v6 in [false, true] {
                for queue in 0..3 {
                    let of = flows.iter().filter(|(k, q)| k.0.is_ipv6() == v6 && q[0] == queue);
                    let count = of.count();
                    assert!((8..=35).contains(&count), "{count} of 60 flows in queue {queue}");
                }
            }
        });
    }

    #[test]
    fn what_was_written_to_a_queue_moves_no_flow_to_it() {
        isolated(|| {
            let mut tuns = Tun::open_queues("steer%d", 2).unwrap();
            let name = tuns[0].name().to_owned();
            ip(&format!("addr add 10.9.0.1/24 dev {name}"));
            ip(&format!("link set {name} up"));
            let socket = StdUdp::bind("10.9.0.1:7000").unwrap();
            socket.connect("10.9.0.2:7001").unwrap();
            let (mut blocks, mut batch) = (Blocks::new(64), TunBatch::default());
            let mut queue_of_next = || {
                socket.send(b"out").unwrap();
                let found = tuns.iter_mut().position(|tun| {
                    tun.recv(&mut blocks, &mut batch).unwrap();
                    batch.packets.iter().any(|packet| packet.bytes[9] == 17)
                });
                let queue = found.expect("it came out somewhere");
                // The answer goes into the other queue.
                let mut answers = TunWrites::default();
                for (at, TunPacket { mut bytes, offload }) in batch.packets.drain(..).enumerate() {
                    let (source, destination) = bytes[12..20].split_at_mut(4);
                    source.swap_with_slice(destination);
                    let (from, to) = bytes[20..24].split_at_mut(2);
                    from.swap_with_slice(to);
                    answers.pieces.push(bytes);
                    answers.packets.push((at..at + 1, offload));
                }
                tuns[1 - queue].send(&answers).unwrap();
                queue
            };
            let first = queue_of_next();
            assert!((0..20).all(|_| queue_of_next() == first));
        });
    }
}
