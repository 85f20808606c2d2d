//! The namespaces floor: real sockets and real daemons over an emulated Internet.
//!
//! Each site is a network namespace whose one way out is a TUN device; the other end of all these
//! devices is held by one emulator ([`wan::Wan`]), which carries every packet over the link model of
//! its (source, destination) pair. Namespaces are made with plain system calls and mounted where
//! `ip netns` finds them, under names that carry our process number; they go when dropped, and what
//! a killed run left behind is swept at the next start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::link::LinkParams;

pub mod fidelity;
pub mod fleet;
pub mod lab;
pub mod stop;
pub mod sys;
pub mod tcp;
pub mod traffic;
pub mod wan;
pub mod watch;

const NETNS_DIR: &str = "/run/netns";

/// Why the floor cannot be entered here.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// Namespaces and TUN devices are root's.
    #[error(
        "this needs root: network namespaces and TUN devices (try: sudo -E env PATH=\"$PATH\" ...)"
    )]
    NotRoot,
    /// No TUN device to open.
    #[error("this needs /dev/net/tun, which is missing (try: modprobe tun)")]
    NoTun,
    /// The kernel refuses.
    #[error("cannot make a network namespace: {0}")]
    NoNamespace(io::Error),
}

/// Checks in one step that the floor can be entered, so that whoever cannot gets one clear line.
pub fn check_floor() -> Result<(), FloorError> {
    if !sys::is_root() {
        return Err(FloorError::NotRoot);
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(FloorError::NoTun);
    }
    std::thread::scope(|s| s.spawn(sys::unshare_net).join())
        .unwrap_or_else(|_| Err(io::Error::other("thread")))
        .map_err(FloorError::NoNamespace)
}

/// A network namespace of our own, gone when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a namespace called `tw<pid>-<n>-<label>`, with its loopback up.
    pub fn new(label: &str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tw{}-{n}-{label}", std::process::id());
        fs::create_dir_all(NETNS_DIR)?;
        sys::make_shared(Path::new(NETNS_DIR))?;
        let path = Path::new(NETNS_DIR).join(&name);
        fs::File::create_new(&path)?;
        let made = std::thread::scope(|s| {
            let make = || {
                sys::unshare_net()?;
                sys::interface_up("lo")?;
                sys::bind_mount(Path::new("/proc/thread-self/ns/net"), &path)
            };
            s.spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("thread")))
        });
        let opened = made.and_then(|()| fs::File::open(&path));
        match opened {
            Ok(file) => Ok(Self { name, path, fd: file.into() }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A descriptor of it, for starting processes inside.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Does `work` on a thread inside the namespace. Sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let fd = self.fd();
        std::thread::scope(|s| {
            s.spawn(move || {
                sys::enter_net(fd)?;
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the work in the namespace panicked")))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // Either may already be gone; there is nobody left to tell.
    let _ = sys::unmount(path);
    let _ = fs::remove_file(path);
}

/// Removes namespaces of laboratories that no longer live. Returns how many.
pub fn sweep() -> usize {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return 0 };
    let mut swept = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix("tw")?.split_once('-')?.0.parse().ok());
        if pid.is_some_and(|pid| !sys::is_alive(pid)) {
            remove(&entry.path());
            swept += 1;
        }
    }
    swept
}

/// A site: a namespace with its one interface to the emulated Internet.
#[derive(Debug)]
pub struct SiteNet {
    /// The namespace.
    pub ns: Namespace,
    /// Its underlay address.
    pub address: Ipv4Addr,
}

/// The interface's name in every site.
pub const WAN_INTERFACE: &str = "inet0";

/// Underlay MTU, as on most of the Internet.
pub const WAN_MTU: u32 = 1500;

/// Packets that may wait for the emulator to read them: 0.2 s at 60,000 per second. The default of
/// 500 would drop what the emulator never saw.
const WAN_QUEUE: u32 = 12_000;

/// The underlay address of a site: in 198.18.0.0/15, which is set apart for benchmarks (RFC 2544).
pub fn underlay_address(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, site as u8 + 1, 1)
}

impl SiteNet {
    /// Most sites one emulator serves: one octet of the address tells them apart.
    pub const LIMIT: usize = 250;

    /// Makes the site and gives its interface's other end, which is the emulator's.
    pub fn new(site: usize, label: &str) -> io::Result<(Self, OwnedFd)> {
        if site >= Self::LIMIT {
            return Err(io::Error::other("too many sites"));
        }
        let ns = Namespace::new(label)?;
        let address = underlay_address(site);
        let tun = ns.run(|| {
            let tun = sys::open_tun(WAN_INTERFACE)?;
            sys::configure(WAN_INTERFACE, address, WAN_MTU, WAN_QUEUE)?;
            Ok(tun)
        })?;
        Ok((Self { ns, address }, tun))
    }
}

/// Sites with the emulated Internet between them. Ends and cleans when dropped.
#[derive(Debug)]
pub struct Floor {
    /// The emulator; dropped before the namespaces whose devices it holds.
    pub wan: wan::Wan,
    /// The sites, by index.
    pub sites: Vec<SiteNet>,
}

impl Floor {
    /// Makes one site per label and starts the emulator between them.
    pub fn new(
        labels: &[&str],
        links: &BTreeMap<(usize, usize), LinkParams>,
        seed: u64,
    ) -> io::Result<Self> {
        let (mut sites, mut devices) = (Vec::new(), Vec::new());
        for (i, label) in labels.iter().enumerate() {
            let (site, device) = SiteNet::new(i, label)?;
            sites.push(site);
            devices.push(device);
        }
        Ok(Self { wan: wan::Wan::start(devices, links, seed)?, sites })
    }
}

/// Whether a test may use namespaces. Without root it says that it skips, unless the environment
/// demands them (`THALWEG_REQUIRE_NETNS=1`), in which case it fails.
#[doc(hidden)]
pub fn test_floor() -> bool {
    match check_floor() {
        Ok(()) => true,
        Err(why) => {
            let required = std::env::var_os("THALWEG_REQUIRE_NETNS").is_some_and(|v| v == "1");
            assert!(!required, "namespaces are required here: {why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}
