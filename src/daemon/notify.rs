//! Words to the service manager: ready, reloading, ending, alive.
//!
//! The protocol is `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET` names. Where nobody asks,
//! nothing is sent; where nobody listens, nothing is lost.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who is to be told.
#[derive(Debug)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Between two signs of life.
    pub alive_every: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    pub fn from_env() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        let own = std::env::var("WATCHDOG_PID").ok();
        let own = own.is_none_or(|id| id == std::process::id().to_string());
        let limit = std::env::var("WATCHDOG_USEC").ok().filter(|_| own);
        Self::new(name.as_deref(), limit.and_then(|us| us.parse().ok()))
    }

    /// `name`: the socket's path, or an abstract name after `@`. `limit_us`: who is silent for so long
    /// is taken for dead.
    pub fn new(name: Option<&str>, limit_us: Option<u64>) -> Self {
        let address = name.and_then(|name| match name.strip_prefix('@') {
            Some(abstracted) => SocketAddr::from_abstract_name(abstracted).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let socket = UnixDatagram::unbound().ok().zip(address);
        if let Some((socket, _)) = &socket {
            // A manager that does not read must not stop us.
            let _ = socket.set_nonblocking(true);
        }
        // Half of it, as sd_watchdog_enabled(3) advises.
        let alive_every = limit_us.filter(|&us| us > 0).map(|us| Duration::from_micros(us / 2));
        Self { alive_every: alive_every.filter(|_| socket.is_some()), socket }
    }

    /// The node runs.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The node ends.
    pub fn ending(&self) {
        self.tell("STOPPING=1");
    }

    /// The control loop turns.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(words.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_told_and_who_did_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listening = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(path.to_str(), Some(30_000_000));
        assert_eq!(manager.alive_every, Some(Duration::from_secs(15)));
        manager.ready();
        manager.alive();
        manager.ending();
        let mut buffer = [0; 64];
        for expected in ["READY=1", "WATCHDOG=1", "STOPPING=1"] {
            let length = listening.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        drop(listening);
        manager.ready();
        let nobody = Manager::new(None, Some(1));
        nobody.ready();
        assert_eq!(nobody.alive_every, None);
    }

    #[test]
    fn an_abstract_name_is_understood() {
        let name = format!("thalweg-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listening = UnixDatagram::bind_addr(&address).unwrap();
        Manager::new(Some(&format!("@{name}")), None).ready();
        let mut buffer = [0; 64];
        assert_eq!(listening.recv(&mut buffer).unwrap(), 7);
    }
}
