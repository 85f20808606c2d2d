//! One echo over the overlay, as an application's packet would go: ICMP through the overlay's device.
//!
//! The kernel of the other site answers, so what is measured is the whole way there and back: both
//! devices, both daemons, every relay, repair and queues. A socket of the unprivileged kind is tried
//! first (`net.ipv4.ping_group_range`), then a raw one (`CAP_NET_RAW`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

/// How long an answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// ICMP's words for a question (RFC 792, RFC 4443).
const ASK: [u8; 2] = [8, 128];
/// And for its answer.
const REPLY: [u8; 2] = [0, 129];

/// Asks an address, from one of ours, with this DSCP. The round trip, or why there is none.
///
/// # Errors
/// No right to send echoes, no route, or no answer in time, in words.
pub async fn ping(own: IpAddr, to: IpAddr, dscp: u8, token: u64) -> Result<Duration, String> {
    let socket = open(own, to, dscp).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the daemon may not send echoes: give it CAP_NET_RAW, or \
                                            its group a place in net.ipv4.ping_group_range"
                .to_owned()
        }
        _ => format!("no echo to {to}: {error}"),
    })?;
    let v6 = to.is_ipv6();
    let question = question(v6, token);
    let sent_at = Instant::now();
    socket.send(&question).await.map_err(|error| format!("no echo to {to}: {error}"))?;
    let answered = async {
        let mut buffer = [0; 512];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&buffer[..length], v6, token) {
                return Ok(sent_at.elapsed());
            }
        }
    };
    match timeout(PATIENCE, answered).await {
        Ok(Ok(rtt)) => Ok(rtt),
        Ok(Err(error)) => {
            let error: io::Error = error;
            Err(format!("{to}: {error}"))
        }
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn open(own: IpAddr, to: IpAddr, dscp: u8) -> io::Result<UdpSocket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    let traffic_class = u32::from(dscp & 63) << 2;
    match to {
        IpAddr::V4(_) => socket.set_tos_v4(traffic_class)?,
        IpAddr::V6(_) => socket.set_tclass_v6(traffic_class)?,
    }
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

/// An echo request that carries the token in its data: a socket of the unprivileged kind gives the
/// identifier itself.
fn question(v6: bool, token: u64) -> Vec<u8> {
    let mut packet = vec![ASK[usize::from(v6)], 0, 0, 0];
    packet.extend_from_slice(&token.to_be_bytes()[..4]);
    packet.extend_from_slice(b"thalweg ");
    packet.extend_from_slice(&token.to_be_bytes());
    packet.resize(64, 0);
    if !v6 {
        // The kernel sums ICMPv6 itself, and ICMP on sockets of the unprivileged kind alone.
        let sum =
            packet.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Whether this is the answer. A raw IPv4 socket gives the IP header as well.
fn answers(packet: &[u8], v6: bool, token: u64) -> bool {
    let packet = match packet.first() {
        Some(first) if !v6 && first >> 4 == 4 => {
            packet.get(usize::from(first & 15) * 4..).unwrap_or_default()
        }
        _ => packet,
    };
    packet.first() == Some(&REPLY[usize::from(v6)])
        && packet.get(8..16) == Some(b"thalweg ")
        && packet.get(16..24) == Some(&token.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::namespace::{ip, isolated};

    #[test]
    fn an_answer_is_known_by_its_token_with_and_without_the_ip_header() {
        let mut reply = question(false, 7);
        assert!(!answers(&reply, false, 7), "a question is no answer");
        reply[0] = 0;
        assert!(answers(&reply, false, 7) && !answers(&reply, false, 8));
        let mut raw = vec![0x45];
        raw.resize(20, 0);
        raw.extend_from_slice(&reply);
        assert!(answers(&raw, false, 7));
        assert!(!answers(&[0x4f], false, 7) && !answers(&[], true, 7));
        // RFC 1071: a sum over the whole with its checksum is all ones.
        let asked = question(false, u64::MAX - 3);
        let sum = asked.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn who_is_there_answers_and_who_is_not_does_not() {
        isolated(|| {
            ip("link set lo up");
            ip("addr add 10.77.0.1/32 dev lo");
            ip("addr add fd77::1/128 dev lo nodad");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                for own in ["10.77.0.1", "fd77::1"] {
                    let own: IpAddr = own.parse().unwrap();
                    // An echo is a datagram, and the kernel may let one go.
                    let mut asked = ping(own, own, 46, 99).await;
                    for token in 100..103 {
                        if asked.is_err() {
                            asked = ping(own, own, 46, token).await;
                        }
                    }
                    let rtt = asked.unwrap_or_else(|e| panic!("{own}: {e}"));
                    assert!(rtt < Duration::from_secs(1), "{rtt:?}");
                }
                let own = "10.77.0.1".parse().unwrap();
                let error = ping(own, "10.88.0.1".parse().unwrap(), 0, 1).await.unwrap_err();
                assert!(error.starts_with("no echo to 10.88.0.1: "), "{error}");
            });
        });
    }
}
