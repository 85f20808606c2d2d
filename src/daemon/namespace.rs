//! Fresh network namespaces for one test.
//!
//! A namespace belongs to a thread of the test alone: it has no name, and goes when the thread
//! (and what it started) has gone, however the test ends.

#![allow(unsafe_code)]

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Runs `test` on a thread in a network namespace of its own. Without the privilege it prints a
/// line and returns `None`; with `THALWEG_REQUIRE_NETNS=1` it fails instead.
pub(crate) fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = std::thread::spawn(move || {
        if let Err(error) = leave() {
            let required = std::env::var_os("THALWEG_REQUIRE_NETNS").is_some_and(|v| v == "1");
            assert!(!required, "cannot make a network namespace: {error}");
            println!("skipped: cannot make a network namespace ({error}); run as root");
            return None;
        }
        Some(test())
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves the calling thread into a namespace of its own.
fn leave() -> std::io::Result<()> {
    // SAFETY: moves only the calling thread, which was made for this, and takes no pointer.
    super::poller::check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(|_| ())
}

/// Another namespace beside the test's: a thread in it that does what it is told.
pub(crate) struct Site {
    id: libc::pid_t,
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

/// Work under way in a site.
pub(crate) struct Pending<T>(Receiver<std::thread::Result<T>>);

impl<T> Pending<T> {
    /// Waits for it; panics as it did.
    pub(crate) fn join(self) -> T {
        match self.0.recv().expect("the site's thread lives") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Site {
    /// A new namespace. Only within [`isolated`].
    pub(crate) fn new() -> Self {
        let (work, inbox) = channel::<Work>();
        let (id_out, id) = channel();
        std::thread::spawn(move || {
            leave().expect("one namespace could be made already");
            // SAFETY: takes nothing and cannot fail.
            id_out.send(unsafe { libc::gettid() }).expect("the maker waits");
            while let Ok(work) = inbox.recv() {
                work();
            }
        });
        Self { id: id.recv().expect("the thread lives"), work }
    }

    /// What `ip link set ... netns` takes for it.
    pub(crate) fn id(&self) -> libc::pid_t {
        self.id
    }

    /// Does this in the namespace, one work after the other.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pending<T> {
        let (out, result) = channel();
        let work = move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let _ = out.send(done);
        };
        self.work.send(Box::new(work)).expect("the site's thread lives");
        Pending(result)
    }

    /// Does this in the namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join()
    }
}

/// Runs `ip` with these words in the caller's namespace.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is there");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {words}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Hands a device of the caller's namespace these bytes as if they were an IP packet.
pub(crate) fn raw_packet(device: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let name = std::ffi::CString::new(device).expect("a device's name");
    // SAFETY: a constant family and kind; the result is checked before it becomes owned.
    let fd = super::poller::check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: a C string that outlives the call.
    to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    // SAFETY: bytes and address outlive the call, and their lengths are given.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
