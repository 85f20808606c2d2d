//! TCP between namespaces: how many bits per second arrive (goodput) within a bounded time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Namespace, sys};

/// One stream to be run.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// Address it is sent from.
    pub from: IpAddr,
    /// Address it is sent to; port 0 lets the kernel choose.
    pub to: IpAddr,
    /// For how long.
    pub length: Duration,
    /// Congestion control by the kernel's name; none: its default.
    pub congestion: Option<String>,
}

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    length: Duration,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Starts sending as fast as TCP lets. Returns once the receiver listens; the connection is made
    /// within the measured time.
    pub fn start(from: &Namespace, to: &Namespace, spec: &StreamSpec) -> io::Result<Self> {
        let listener = to.run(|| {
            let any = SocketAddr::new(spec.to, 0);
            let socket = Socket::new(Domain::for_address(any), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&any.into())?;
            socket.listen(1)?;
            Ok(socket)
        })?;
        let target = listener
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a listener without an address"))?;
        let sender = from.run(|| {
            let socket =
                Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::new(spec.from, 0).into())?;
            if let Some(name) = &spec.congestion {
                socket.set_tcp_congestion(name.as_bytes())?;
            }
            Ok(socket)
        })?;
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let length = spec.length;
        let end_ns = sys::monotonic_ns() + length.as_nanos() as u64;
        let (counted, stopped) = (bytes.clone(), stop.clone());
        let receive = std::thread::Builder::new()
            .name("tcp-receive".into())
            .spawn(move || receive(&listener, end_ns, &counted, &stopped))?;
        let stopped = stop.clone();
        let send = std::thread::Builder::new()
            .name("tcp-send".into())
            .spawn(move || send(sender, target, end_ns, &stopped))?;
        Ok(Self { bytes, stop, length, threads: vec![receive, send] })
    }

    /// Bytes that have arrived so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits for the end; goodput in Mbit/s over the whole time, zero if nothing arrived.
    pub fn finish(mut self) -> f64 {
        self.join();
        let bits = self.bytes.load(Ordering::Relaxed) as f64 * 8.0;
        bits / self.length.as_secs_f64() / 1e6
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic there has been printed; what arrived before it counts.
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// How long is left, never zero (which would mean for ever); none when time is up or we were told.
fn left(end_ns: u64, stop: &AtomicBool) -> Option<Duration> {
    let left = end_ns.saturating_sub(sys::monotonic_ns());
    let ask_again = Duration::from_millis(200);
    (left > 0 && !stop.load(Ordering::Relaxed))
        .then(|| Duration::from_nanos(left).clamp(Duration::from_millis(1), ask_again))
}

fn receive(listener: &Socket, end_ns: u64, bytes: &AtomicU64, stop: &AtomicBool) {
    let mut accepted = None;
    let mut buffer = vec![0u8; 256 << 10];
    while let Some(wait) = left(end_ns, stop) {
        let Some(stream) = &mut accepted else {
            let _ = listener.set_read_timeout(Some(wait));
            accepted = listener.accept().ok().map(|(stream, _)| stream);
            continue;
        };
        let _ = stream.set_read_timeout(Some(wait));
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => _ = bytes.fetch_add(n as u64, Ordering::Relaxed),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
    // Whoever still sends is told at once.
    if let Some(stream) = accepted {
        let _ = stream.set_linger(Some(Duration::ZERO));
    }
}

fn send(mut socket: Socket, target: SocketAddr, end_ns: u64, stop: &AtomicBool) {
    while let Some(wait) = left(end_ns, stop) {
        // A connect in blocking mode honours the send timeout, and a second one waits on.
        let _ = socket.set_write_timeout(Some(wait));
        match socket.connect(&target.into()).map_err(|e| e.raw_os_error()) {
            Ok(()) | Err(Some(libc::EISCONN)) => break,
            Err(Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR)) => {}
            Err(_) => return,
        }
    }
    let chunk = vec![0x5a; 128 << 10];
    while let Some(wait) = left(end_ns, stop) {
        let _ = socket.set_write_timeout(Some(wait));
        match socket.write(&chunk) {
            Ok(_) => {}
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
    let _ = socket.set_linger(Some(Duration::ZERO));
}
