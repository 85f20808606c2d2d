//! The memory that packets lie in between the doors: buffers that go back to their pool by
//! themselves.
//!
//! A queued, remembered or held packet owns its bytes; they stay where they were sealed. The pool
//! lends a bounded number and keeps what comes back.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::time::Instant;

/// A packet on its way through this node.
pub struct Frame {
    /// The bytes: a data frame with its route header open, or at the egress the bare inner packet.
    pub bytes: Vec<u8>,
    /// When it came into this node.
    pub arrived: Instant,
    /// Its age then, in ticks of 100 µs.
    pub age: u16,
    home: Arc<Home>,
}

struct Home {
    spare: Mutex<Vec<Vec<u8>>>,
    lent: AtomicUsize,
}

impl Home {
    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes, arrived {})", self.bytes.len(), self.arrived)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.home.lent.fetch_sub(1, Ordering::Relaxed);
        if bytes.capacity() <= KEEP_CAPACITY {
            bytes.clear();
            self.home.spare().push(bytes);
        }
    }
}

/// Where frames come from.
#[derive(Clone)]
pub struct Pool {
    home: Arc<Home>,
    limit: usize,
}

/// Buffers that grew beyond this are not kept.
const KEEP_CAPACITY: usize = 4096;

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} lent)", self.lent(), self.limit)
    }
}

impl Pool {
    /// A pool that lends at most `limit` frames at a time.
    pub fn new(limit: usize) -> Self {
        let home = Home { spare: Mutex::new(Vec::new()), lent: AtomicUsize::new(0) };
        Self { home: Arc::new(home), limit }
    }

    /// Lends an empty frame; `None` where too many are lent.
    pub fn lend(&self, arrived: Instant, age: u16) -> Option<Frame> {
        if self.home.lent.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.home.lent.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let bytes = self.home.spare().pop().unwrap_or_default();
        Some(Frame { bytes, arrived, age, home: Arc::clone(&self.home) })
    }

    /// How many are lent.
    pub fn lent(&self) -> usize {
        self.home.lent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_lent_up_to_the_limit_and_come_back_empty() {
        let pool = Pool::new(2);
        let mut a = pool.lend(Instant::ZERO, 0).unwrap();
        let b = pool.lend(Instant::ZERO, 0).unwrap();
        assert!(pool.lend(Instant::ZERO, 0).is_none());
        a.bytes.extend([1; 2000]);
        drop(a);
        let again = pool.lend(Instant::ZERO, 7).unwrap();
        assert!(again.bytes.is_empty() && again.bytes.capacity() >= 2000, "kept");
        drop((again, b));
        assert_eq!(pool.lent(), 0);
    }
}
