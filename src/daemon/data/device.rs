//! The TUN device as the data thread has it: it may vanish while packets go on being relayed, and
//! come back.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use crate::buf::{Blocks, TunBatch, TunWrites};
use crate::daemon::tun::{Tun, TunStats};

/// A TUN device, or the place of one.
#[derive(Debug)]
pub(super) struct Device {
    tun: Option<Tun>,
    /// What devices before this one counted, and what happened between them.
    before: TunStats,
}

impl Device {
    pub(super) fn new(tun: Tun) -> Self {
        Self { tun: Some(tun), before: TunStats::default() }
    }

    /// Takes the place of the one that vanished.
    pub(super) fn replace(&mut self, tun: Tun) {
        self.close();
        self.before.reopened += 1;
        self.tun = Some(tun);
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.tun.as_ref().map(|tun| tun.as_fd())
    }

    /// Reads what waits; replaces what the batch held.
    ///
    /// # Errors
    /// The device has just vanished, and is closed now.
    pub(super) fn recv(&mut self, blocks: &mut Blocks, batch: &mut TunBatch) -> io::Result<()> {
        let Some(tun) = &mut self.tun else {
            batch.clear();
            return Ok(());
        };
        tun.recv(blocks, batch).map(|_| ()).inspect_err(|_| self.close())
    }

    /// Writes every packet of the batch; without a device they are counted.
    ///
    /// # Errors
    /// The device has just vanished, and is closed now.
    pub(super) fn send(&mut self, batch: &TunWrites) -> io::Result<()> {
        let Some(tun) = &mut self.tun else {
            self.before.absent += batch.packets.len() as u64;
            return Ok(());
        };
        tun.send(batch).inspect_err(|_| self.close())
    }

    pub(super) fn stats(&self) -> TunStats {
        self.tun.as_ref().map_or(self.before, |tun| self.before.plus(tun.stats()))
    }

    fn close(&mut self) {
        if let Some(tun) = self.tun.take() {
            self.before = self.before.plus(tun.stats());
        }
    }
}
