//! The socket quinn sees: two queues to the thread that owns the real one.
//!
//! Overlay frames and QUIC share one port, and the data thread receives for both: what carries the
//! QUIC bit comes here through a bounded queue, and what quinn sends goes back through another. A
//! full queue drops, as the network would; QUIC repairs its own.
//!
//! quinn sees the endpoint a peer had at first, IPv4 ones in their IPv6-mapped form so that one quinn
//! serves both families, and keeps seeing it wherever the peer goes (`ways.rs`).
//!
//! The trait is quinn 0.11's and changes in 0.12; this file is all that knows it.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::ways::Ways;

/// One QUIC datagram on its way between quinn and the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicDatagram {
    /// Where it came from or goes to.
    pub endpoint: SocketAddr,
    /// The two ECN bits.
    pub ecn: u8,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// Takes what quinn sends. Returns without waiting; what finds no room is lost.
pub type Transmitter = Box<dyn Fn(QuicDatagram) + Send + Sync>;

/// Datagrams from the data thread that quinn has not taken yet. A few hundred handshakes at once;
/// more would only be older when they are read.
pub const INBOUND: usize = 1024;

/// What quinn is given for a socket.
pub struct QueueSocket {
    inbound: Mutex<mpsc::Receiver<QuicDatagram>>,
    transmit: Transmitter,
    ways: Mutex<Ways>,
    port: u16,
}

impl QueueSocket {
    /// A socket between these queues that says it is bound to this port.
    pub fn new(
        inbound: mpsc::Receiver<QuicDatagram>,
        transmit: Transmitter,
        port: u16,
    ) -> Arc<Self> {
        let (inbound, ways) = (Mutex::new(inbound), Mutex::default());
        Arc::new(Self { inbound, transmit, ways, port })
    }

    /// The name under which quinn dials an endpoint.
    pub(super) fn name(&self, endpoint: SocketAddr) -> SocketAddr {
        self.ways().name(endpoint)
    }

    /// Where quinn's peer of this name is.
    pub(super) fn endpoint(&self, name: SocketAddr) -> SocketAddr {
        self.ways().endpoint(name)
    }

    /// A connection with this name is in use.
    pub(super) fn keep(&self, name: SocketAddr) {
        self.ways().keep(name);
    }

    /// None with this name is in use any more.
    pub(super) fn forget(&self, name: SocketAddr) {
        self.ways().forget(name);
    }

    /// The peer of this name is at this endpoint now.
    pub(super) fn on_moved(&self, name: SocketAddr, endpoint: SocketAddr) {
        self.ways().on_moved(name, endpoint);
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for QueueSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSocket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for QueueSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let endpoint = self.ways().outbound(transmit.destination, transmit.contents);
        let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
        // One segment a transmit (`max_transmit_segments`), whatever comes.
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for payload in transmit.contents.chunks(size) {
            (self.transmit)(QuicDatagram { endpoint, ecn, payload: payload.to_vec() });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < bufs.len().min(meta.len()) {
            match inbound.poll_recv(cx) {
                Poll::Ready(Some(datagram)) => {
                    let len = datagram.payload.len();
                    // Longer than anything QUIC agreed to: not for us.
                    let Some(room) = bufs[count].get_mut(..len) else { continue };
                    room.copy_from_slice(&datagram.payload);
                    meta[count] = RecvMeta {
                        addr: self.ways().inbound(datagram.endpoint, &datagram.payload),
                        len,
                        stride: len.max(1),
                        ecn: EcnCodepoint::from_bits(datagram.ecn),
                        dst_ip: None,
                    };
                    count += 1;
                }
                Poll::Ready(None) if count == 0 => {
                    let gone = io::Error::new(io::ErrorKind::BrokenPipe, "data thread has ended");
                    return Poll::Ready(Err(gone));
                }
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv6Addr::UNSPECIFIED, self.port).into())
    }

    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The endpoint as quinn knows it.
pub fn mapped(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => endpoint,
    }
}

/// The endpoint as the socket knows it.
pub fn unmapped(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => endpoint,
        },
        SocketAddr::V4(_) => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_their_identity_through_the_mapped_form() {
        for text in ["192.0.2.7:4600", "[2001:db8::1]:4600"] {
            let endpoint: SocketAddr = text.parse().unwrap();
            assert!(mapped(endpoint).is_ipv6());
            assert_eq!(unmapped(mapped(endpoint)), endpoint);
        }
    }

    #[test]
    fn a_datagram_too_long_for_its_buffer_is_passed_over_and_the_next_one_read() {
        let (tx, rx) = mpsc::channel(4);
        let socket = QueueSocket::new(rx, Box::new(|_| {}), 1);
        let endpoint = "192.0.2.7:4600".parse().unwrap();
        for len in [20, 5] {
            tx.try_send(QuicDatagram { endpoint, ecn: 2, payload: vec![7; len] }).unwrap();
        }
        let mut memory = [0; 10];
        let mut meta = [RecvMeta::default()];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let got = socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut memory)], &mut meta);
        assert!(matches!(got, Poll::Ready(Ok(1))));
        assert_eq!((meta[0].len, meta[0].addr), (5, mapped(endpoint)));
        drop(tx);
        let got = socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut memory)], &mut meta);
        assert!(matches!(got, Poll::Ready(Err(_))), "a dead data thread is an error");
    }
}
