//! epoll and eventfd: how a data thread waits for sockets, the TUN device, its clock and a nudge.
//!
//! The timeout is a timespec (`epoll_pwait2`, Linux 5.11): a whole millisecond, which is all that
//! plain `epoll_wait` offers, is longer than a hop's feedback delay.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Waits for several descriptors at once.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Something can be read, be it an error.
    pub input: bool,
    /// There is room to write.
    pub room: bool,
}

/// The most descriptors one wait reports; more are reported by the next.
const EVENTS: usize = 16;

impl Poller {
    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// The process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches a descriptor for input (level-triggered) under a token.
    ///
    /// # Errors
    /// The descriptor is already watched, or cannot be.
    pub fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open for the call, and `event` outlives it.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// From now on also (or no longer) watches a descriptor for room to write.
    ///
    /// # Errors
    /// It was not watched.
    pub fn watch_room(&self, fd: BorrowedFd<'_>, token: u64, room: bool) -> io::Result<()> {
        let events = if room { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: both descriptors are open for the call, and `event` outlives it.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_MOD,
                fd.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Stops watching a descriptor.
    ///
    /// # Errors
    /// It was not watched.
    pub fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both descriptors are open; DEL takes no event.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                std::ptr::null_mut(),
            )
        })?;
        Ok(())
    }

    /// Waits until something is ready or the span has passed (`None`: as long as it takes), and
    /// calls `ready` with each token. An interrupted wait ends early with nothing ready.
    ///
    /// # Errors
    /// What the kernel refuses; with valid arguments, nothing.
    pub fn wait(&self, span: Option<Duration>, mut ready: impl FnMut(u64)) -> io::Result<()> {
        self.wait_each(span, |token, _| ready(token))
    }

    /// As [`Poller::wait`], and says what each descriptor is ready for.
    ///
    /// # Errors
    /// As [`Poller::wait`].
    pub fn wait_each(
        &self,
        span: Option<Duration>,
        mut ready: impl FnMut(u64, Readiness),
    ) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let spec = span.map(|span| libc::timespec {
            tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: span.subsec_nanos().into(),
        });
        // SAFETY: `events` holds EVENTS entries, `spec` is a timespec or null, no signal mask.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        for event in &events[..usize::try_from(n).unwrap_or(0)] {
            let events = event.events as libc::c_int;
            // An error is told to whoever reads.
            let input = events & !libc::EPOLLOUT != 0;
            ready(event.u64, Readiness { input, room: events & libc::EPOLLOUT != 0 });
        }
        Ok(())
    }
}

/// A nudge from one thread to another that waits in a [`Poller`]. Clones nudge the same one.
#[derive(Clone, Debug)]
pub struct Nudge {
    event: Arc<OwnedFd>,
}

impl Nudge {
    /// A nudge that has not been given.
    ///
    /// # Errors
    /// The process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self { event: Arc::new(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// Wakes the waiter. Never blocks: a full counter means that it is awake already.
    pub fn give(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes from an array of eight.
        let _ = unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes all nudges given so far, so that the next wait sleeps again.
    pub fn take(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes into an array of eight.
        let _ =
            unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Nudge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Has the calling thread step back where cores are scarce: packets go before everything else.
///
/// # Errors
/// As the system reports; the thread then runs on as it did.
pub fn step_back() -> io::Result<()> {
    shift_nice(CONTROL_NICE)
}

/// Has the calling thread go before those of ordinary priority: a packet otherwise waits while the
/// applications it is for use up their time slice, 5 ms at the median where both cores are busy.
///
/// # Errors
/// As the system reports, mostly for want of CAP_SYS_NICE; the thread then runs on as it did.
pub fn step_forward() -> io::Result<()> {
    shift_nice(DATA_NICE)
}

/// Moves the calling thread's priority, from what the operator gave the process.
fn shift_nice(by: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers. Zero is the calling thread: on Linux priorities are each thread's.
    // The kernel keeps the sum within its bounds; −1 is a nice value as well as an error, and then
    // the sum is off by what nobody feels.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: as above.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice + by) }).map(|_| ())
}

/// A third of the processor's share against a thread of ordinary priority, so never starved.
const CONTROL_NICE: libc::c_int = 5;
/// Nine times the share of a thread of ordinary priority, and its turn at once.
const DATA_NICE: libc::c_int = -10;

/// The result of a system call that answers −1 on failure.
pub(super) fn check(result: libc::c_int) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nudge_wakes_the_waiter_once() {
        let poller = Poller::new().unwrap();
        let nudge = Nudge::new().unwrap();
        poller.watch(nudge.as_fd(), 7).unwrap();
        let far = nudge.clone();
        let thread = std::thread::spawn(move || {
            far.give();
            far.give();
        });
        let mut seen = Vec::new();
        poller.wait(None, |token| seen.push(token)).unwrap();
        assert_eq!(seen, [7]);
        thread.join().unwrap();
        nudge.take();
        seen.clear();
        poller.wait(Some(Duration::ZERO), |token| seen.push(token)).unwrap();
        assert!(seen.is_empty(), "a taken nudge is gone");
        poller.forget(nudge.as_fd()).unwrap();
        nudge.give();
        poller.wait(Some(Duration::from_micros(50)), |token| seen.push(token)).unwrap();
        assert!(seen.is_empty(), "a forgotten descriptor is not reported");
    }
}
