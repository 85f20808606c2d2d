#![allow(unsafe_code)]
//! The system calls of the namespaces floor: the only file of the laboratory with `unsafe` in it.
//!
//! Thin, safe wrappers with owned descriptors and `io::Result`; what they are for is said where they
//! are used. Source: the man pages of the calls, named at each.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Turns the usual −1 into the error it stands for.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether the process may do everything here: its effective user is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Nanoseconds of `CLOCK_MONOTONIC`: one clock for all processes of this machine.
pub fn monotonic_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is valid for writing; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Processor time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    // SAFETY: all-zero is a valid timespec, which the call fills.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until the monotonic clock shows `ns`; returns early on a signal.
pub fn sleep_until_ns(ns: u64) {
    let ts = timespec(ns);
    // SAFETY: `ts` is valid; no remainder is asked for with TIMER_ABSTIME.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &ts,
            std::ptr::null_mut(),
        );
    }
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// Puts the calling thread into a new network namespace (unshare(2)).
pub fn unshare_net() -> io::Result<()> {
    // SAFETY: changes kernel state of this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Puts the calling thread into the network namespace behind `fd` (setns(2)).
pub fn enter_net(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: changes kernel state of this thread only; `fd` is open.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Binds `from` over `to` (mount(2) with MS_BIND).
pub fn bind_mount(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (path(from)?, path(to)?);
    // SAFETY: both strings live through the call; type and data may be null for MS_BIND.
    check(unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
    })
    .map(drop)
}

/// Makes a directory a mount point of its own that is shared, as `ip netns add` does at its first use.
/// Were it left to `ip`, it would bind the directory over itself above mounts already in it, and
/// those could not be taken away any more.
pub fn make_shared(dir: &Path) -> io::Result<()> {
    let text = path(dir)?;
    let share = || {
        // SAFETY: the string lives through the call; nothing else is looked at for MS_SHARED.
        check(unsafe {
            libc::mount(
                c"".as_ptr(),
                text.as_ptr(),
                c"none".as_ptr(),
                libc::MS_SHARED | libc::MS_REC,
                std::ptr::null(),
            )
        })
    };
    match share() {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            bind_mount(dir, dir)?;
            share().map(drop)
        }
        result => result.map(drop),
    }
}

/// Takes a mount away, now or when its last user is gone (umount2(2) with MNT_DETACH).
pub fn unmount(at: &Path) -> io::Result<()> {
    let at = path(at)?;
    // SAFETY: the string lives through the call.
    check(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

fn path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Makes `command` start in the namespace behind `ns`, with real-time priority `level` where that is
/// allowed (0: as it is), and end (SIGTERM) when the thread that starts it ends, so that nothing outlives a killed
/// laboratory.
pub fn start_in_net(command: &mut Command, ns: BorrowedFd<'_>, level: i32) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let ns = ns.try_clone_to_owned()?;
    // SAFETY: between fork and exec only system calls that touch no memory of ours are made: setns,
    // prctl, sched_setscheduler and sigprocmask.
    unsafe {
        command.pre_exec(move || {
            check(libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
            if level > 0 {
                // Where it is refused, priority stays as it was.
                let param = libc::sched_param { sched_priority: level };
                libc::sched_setscheduler(0, libc::SCHED_RR, &param);
            }
            let mut none: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
            Ok(())
        });
    }
    Ok(())
}

/// Sends a signal to a process we started.
pub fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill has no memory effects.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// Whether a process of this number exists.
pub fn is_alive(pid: u32) -> bool {
    match signal(pid, 0) {
        Ok(()) => true,
        Err(e) => e.raw_os_error() == Some(libc::EPERM),
    }
}

/// Blocks SIGINT, SIGTERM and SIGHUP in this thread and those it starts, and gives a descriptor
/// that becomes readable when one arrives (signalfd(2)).
pub fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the new descriptor is ours.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        check(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Asks for real-time scheduling of the calling thread (SCHED_RR), or else the best niceness, and
/// the finest timers. Returns whether real time was granted.
pub fn raise_priority(level: i32) -> bool {
    let param = libc::sched_param { sched_priority: level };
    // SAFETY: all three calls act on this thread and take values or a valid pointer.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1usize, 0usize, 0usize, 0usize);
        let flags = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        if libc::sched_setscheduler(0, flags, &param) == 0 {
            return true;
        }
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
    false
}

/// Opens a TUN device of this name in the calling thread's namespace: plain IP packets, no virtio
/// header, so that the kernel has segmented and checksummed whatever comes out. Non-blocking.
pub fn open_tun(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: the path is a valid C string; the new descriptor is ours alone.
    let fd = unsafe {
        let fd =
            libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK);
        OwnedFd::from_raw_fd(check(fd)?)
    };
    let mut req = ifreq(name)?;
    req.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut req) })?;
    Ok(fd)
}

/// Brings `name` up in the calling thread's namespace.
pub fn interface_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut req = ifreq(name)?;
    interface_ioctl(&socket, libc::SIOCGIFFLAGS, &mut req)?;
    // SAFETY: the kernel has just filled this member.
    unsafe { req.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    interface_ioctl(&socket, libc::SIOCSIFFLAGS, &mut req)
}

/// Gives `name` an address with an all-ones mask, an MTU and a transmit queue, brings it up and
/// points the default route at it, in the calling thread's namespace (netdevice(7), route(8)).
pub fn configure(name: &str, address: Ipv4Addr, mtu: u32, queue: u32) -> io::Result<()> {
    let socket = control_socket()?;
    let mut req = ifreq(name)?;
    req.ifr_ifru.ifru_addr = sockaddr(address);
    interface_ioctl(&socket, libc::SIOCSIFADDR, &mut req)?;
    req.ifr_ifru.ifru_netmask = sockaddr(Ipv4Addr::BROADCAST);
    interface_ioctl(&socket, libc::SIOCSIFNETMASK, &mut req)?;
    req.ifr_ifru.ifru_mtu = mtu as libc::c_int;
    interface_ioctl(&socket, libc::SIOCSIFMTU, &mut req)?;
    req.ifr_ifru.ifru_metric = queue as libc::c_int;
    interface_ioctl(&socket, libc::SIOCSIFTXQLEN, &mut req)?;
    interface_up(name)?;
    let device = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: rtentry is plain data for which zeroes are valid; the name outlives the call.
    unsafe {
        let mut route: libc::rtentry = mem::zeroed();
        route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_flags = libc::RTF_UP;
        route.rt_dev = device.as_ptr().cast_mut();
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route))?;
    }
    Ok(())
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is ours alone.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn interface_ioctl(
    socket: &OwnedFd,
    request: libc::c_ulong,
    req: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: these requests read and write one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request as _, req) }).map(drop)
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data for which zeroes are valid.
    let mut req: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(req)
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: sockaddr_in is plain data, of the size of sockaddr, which it is an instance of.
    unsafe {
        let mut sin: libc::sockaddr_in = mem::zeroed();
        sin.sin_family = libc::AF_INET as libc::sa_family_t;
        sin.sin_addr.s_addr = u32::from(address).to_be();
        mem::transmute(sin)
    }
}

/// Reads once. A full pipe or an empty one is `WouldBlock`.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for writing its whole length.
    let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Writes once.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for reading its whole length.
    let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// An eventfd: written by one thread to wake another.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is ours alone.
    unsafe {
        let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A set of descriptors to wait for (epoll(7)), with waits finer than a millisecond.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
    ready: Vec<u64>,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the new descriptor is ours alone.
        let epoll =
            unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { epoll, ready: Vec::new() })
    }

    /// Waits for `fd` to become readable too; `token` names it.
    pub fn add(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: the event lives through the call.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        check(result).map(drop)
    }

    /// Waits at most `timeout` (none: for ever) and gives the tokens that are readable.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<&[u64]> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let span = timeout.map(|t| timespec(t.as_nanos().min(u128::from(u64::MAX / 2)) as u64));
        let span_ptr = span.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: epoll_pwait2(2) writes at most 64 events into an array of 64, reads the timespec
        // (8 + 8 bytes on 64-bit machines, where the laboratory runs) and no signal mask.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                span_ptr,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        self.ready.clear();
        match check(n as libc::c_int) {
            Ok(n) => self.ready.extend(events[..n as usize].iter().map(|e| e.u64)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(&self.ready)
    }
}

/// Clock ticks per second, the unit of processor time in /proc (sysconf(3)).
pub fn ticks_per_second() -> f64 {
    // SAFETY: takes and returns a number.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// Columns and rows of the terminal behind a descriptor (ioctl_tty(2)); none where it is none.
pub fn terminal_size(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    // SAFETY: TIOCGWINSZ fills one winsize, which is plain data and lives through the call.
    let size = unsafe {
        let mut size: libc::winsize = mem::zeroed();
        check(libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size)).ok()?;
        size
    };
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some((columns, rows))
}
