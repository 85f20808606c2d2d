//! The data thread's way out: nothing is fetched from the forwarder while a send buffer is full.
//!
//! What waits then waits in the forwarder's fair queue, which drops by its own rules. Receiving goes
//! on meanwhile.

use std::os::fd::AsFd as _;

use anyhow::Context as _;

use super::{Data, SOCKETS, UdpSocket};
use crate::time::Instant;

impl Data {
    /// Whether the forwarder's datagrams have to wait.
    pub(super) fn holds_back(&self) -> bool {
        self.sockets.iter().any(UdpSocket::holds_back)
    }

    /// Sends everything the forwarder has, as far as there is room.
    pub(super) fn send_all(&mut self, now: Instant) -> anyhow::Result<()> {
        while !self.holds_back() {
            self.transmit.clear();
            self.forwarder.poll_transmit(&mut self.transmit);
            if self.transmit.runs.is_empty() {
                break;
            }
            for socket in &mut self.sockets {
                socket.send(now, &self.transmit);
            }
        }
        self.heed_sockets(now)
    }

    /// There is room again in some send buffers (a bit each), or time has passed for them.
    pub(super) fn tend_sockets(&mut self, now: Instant, room: u64) -> anyhow::Result<()> {
        if !self.sockets.iter().any(UdpSocket::wants_room) {
            return Ok(());
        }
        for (at, socket) in self.sockets.iter_mut().enumerate() {
            if room & (1 << at) != 0 {
                socket.handle_writable(now);
            }
            socket.handle_timeout(now);
        }
        // What waited in the forwarder is fetched as of now.
        self.forwarder.handle_timeout(now);
        self.carry_out(now)
    }

    /// When sockets want to be tended.
    pub(super) fn sockets_timeout(&self) -> Option<Instant> {
        self.sockets.iter().filter_map(UdpSocket::poll_timeout).min()
    }

    /// Watches for room where there is none, and tells the forwarder what was lost here.
    fn heed_sockets(&mut self, now: Instant) -> anyhow::Result<()> {
        for (at, socket) in self.sockets.iter_mut().enumerate() {
            let (bit, wants) = (1 << at, socket.wants_room());
            if wants != (self.awaiting_room & bit != 0) {
                let token = SOCKETS + at as u64;
                self.poller.watch_room(socket.as_fd(), token, wants).context("epoll")?;
                self.awaiting_room ^= bit;
            }
            while let Some((link, frames)) = socket.poll_lost() {
                self.forwarder.on_local_send_drops(now, link, frames);
            }
            while let Some((link, size)) = socket.poll_too_long() {
                self.forwarder.on_too_long(now, link, size);
            }
        }
        Ok(())
    }
}
