//! The operator's door: a unix socket that takes one question and gives one answer.
//!
//! A connection carries one line of JSON each way and is closed; only where events are followed, one
//! line for each lot of them until the asker leaves. Question: a
//! [`Command`], `{"command":"status"}`. Answer: `{"schema_version":1,
//! "answer":"status","value":{...}}`, or `{"schema_version":1,"error":"..."}` where the question was
//! not understood. Who may open the socket's file (mode 0660) may ask everything, and may have the
//! daemon read its configuration file again; nothing else can be changed through it.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::events::EventLog;
use crate::report::{Answer, Command, SCHEMA_VERSION};

/// A question on its way to the node. Who asks and loses patience drops the receiver.
#[derive(Debug)]
pub struct Ask {
    /// The question.
    pub command: Command,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// Questions waiting for the control loop. More would only grow old there.
pub const ASKS: usize = 32;

/// Longest question, bytes: names and addresses are short.
const LONGEST_QUESTION: u64 = 4096;

/// Longest answer a client reads, bytes: a report of 500 nodes with 8 classes is about 3 MB.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// Of them, those that follow events: they stay, and must not take the others' places.
const FOLLOWERS: usize = 4;

/// Connections served at a time; the next ones wait in the kernel's backlog.
const CLIENTS: usize = 16;

/// Time for each step of a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer as it crosses the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`SCHEMA_VERSION`] of who answered.
    pub schema_version: u32,
    /// The answer.
    #[serde(flatten)]
    pub body: Body,
}

/// What an envelope holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// The question was understood.
    Answer(Answer),
    /// It was not, or nobody answered.
    Error {
        /// Why.
        error: String,
    },
}

/// The listening socket; its file goes when this does.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Makes the socket's file. One left behind by a daemon that died is replaced; one that answers is
    /// not.
    ///
    /// # Errors
    /// Another daemon at the same path, a path that is no socket, or one that cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(named)?;
        }
        if let Ok(about) = std::fs::symlink_metadata(path) {
            if !about.file_type().is_socket() {
                return Err(named(io::Error::other("is there and is no socket")));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(named(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another daemon answers there: stop it, or give [admin] another `socket`",
                )));
            }
            std::fs::remove_file(path).map_err(named)?;
        }
        let listener = UnixListener::bind(path).map_err(named)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(named)?;
        Ok(socket)
    }

    /// Serves questions until the future is dropped.
    pub async fn serve(self, asks: mpsc::Sender<Ask>, log: EventLog) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        let followers = Arc::new(Semaphore::new(FOLLOWERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (asks, log, followers) =
                        (asks.clone(), log.clone(), Arc::clone(&followers));
                    tokio::spawn(async move {
                        if let Err(error) = serve_one(stream, &asks, &log, &followers).await {
                            tracing::debug!(%error, "admin client went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin socket cannot accept");
                    // Out of descriptors, most likely: trying at once would spin.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is gone already is what we want.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(
    mut stream: UnixStream,
    asks: &mpsc::Sender<Ask>,
    log: &EventLog,
    followers: &Semaphore,
) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut question = Vec::new();
    let mut limited = BufReader::new(read.take(LONGEST_QUESTION));
    timeout(PATIENCE, limited.read_until(b'\n', &mut question)).await??;
    let asked = if question.last() == Some(&b'\n') {
        serde_json::from_slice(&question)
            .map_err(|error| format!("the question is not understood: {error}"))
    } else {
        Err(format!("a question is one line of at most {LONGEST_QUESTION} bytes"))
    };
    let body = match asked {
        Ok(Command::Events { follow: false }) => Ok(Answer::Events(log.after(0))),
        Ok(Command::Events { follow: true }) => match followers.try_acquire() {
            Ok(_place) => return follow(limited.into_inner().into_inner(), write, log).await,
            Err(_) => Err(format!("{FOLLOWERS} others follow already; try again later")),
        },
        Ok(command) => ask(asks, command).await,
        Err(error) => Err(error),
    };
    let body = body.map_or_else(|error| Body::Error { error }, Body::Answer);
    timeout(PATIENCE, write.write_all(&line(body)?)).await??;
    timeout(PATIENCE, write.shutdown()).await?
}

/// An answer as it crosses the socket.
fn line(body: Body) -> io::Result<Vec<u8>> {
    let envelope = Envelope { schema_version: SCHEMA_VERSION, body };
    let mut line = serde_json::to_vec(&envelope).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

/// Tells what happened and what happens, until the asker leaves or reads too slowly.
async fn follow(
    mut read: ReadHalf<'_>,
    mut write: WriteHalf<'_>,
    log: &EventLog,
) -> io::Result<()> {
    let mut last = 0;
    let mut ignored = [0; 64];
    loop {
        let news = tokio::select! {
            news = log.next(last) => news,
            read = read.read(&mut ignored) => match read? {
                0 => return Ok(()),
                _ => continue,
            },
        };
        last = news.events.last().map_or(last, |row| row.number);
        let line = line(Body::Answer(Answer::Events(news)))?;
        timeout(PATIENCE, write.write_all(&line)).await??;
    }
}

/// Asks the node and waits for its answer.
///
/// # Errors
/// A node that is too busy or shutting down, in words.
pub async fn ask(asks: &mpsc::Sender<Ask>, command: Command) -> Result<Answer, String> {
    let (answer, answered) = oneshot::channel();
    let put = timeout(PATIENCE, asks.send(Ask { command, answer })).await;
    match put {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err("the node is shutting down".into()),
        Err(_) => return Err("the node is too busy to answer".into()),
    }
    match timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err("the node is shutting down".into()),
        Err(_) => Err("the node is too busy to answer".into()),
    }
}

/// Asks a running daemon from another process: the command line's side.
///
/// # Errors
/// A daemon that is not reachable or breaks off.
pub async fn query(socket: &Path, command: &Command) -> io::Result<Envelope> {
    let mut stream = timeout(PATIENCE, UnixStream::connect(socket)).await??;
    let mut line = serde_json::to_vec(command).map_err(io::Error::other)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await??;
    let mut text = Vec::new();
    let mut limited = stream.take(LONGEST_ANSWER);
    // The daemon waits twice for the node, then writes.
    timeout(PATIENCE * 4, limited.read_to_end(&mut text)).await??;
    serde_json::from_slice(&text).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not understood: {e}"))
    })
}

/// Follows what happens at a running daemon: each lot of events goes to `each`, until that says stop
/// or the daemon ends.
///
/// # Errors
/// As [`query`].
pub fn follow_blocking(
    socket: &Path,
    mut each: impl FnMut(Envelope) -> ControlFlow<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = timeout(PATIENCE, UnixStream::connect(socket)).await??;
        let question = serde_json::to_vec(&Command::Events { follow: true });
        let mut question = question.map_err(io::Error::other)?;
        question.push(b'\n');
        timeout(PATIENCE, stream.write_all(&question)).await??;
        let mut lines = BufReader::new(stream.take(u64::MAX));
        let mut line = Vec::new();
        loop {
            line.clear();
            lines.get_mut().set_limit(LONGEST_ANSWER);
            if lines.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            let envelope = serde_json::from_slice(&line).map_err(|e| {
                let what = format!("the answer is not understood: {e}");
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            if each(envelope).is_break() {
                return Ok(());
            }
        }
    })
}

/// As [`query`], for a thread that has nothing else to do.
///
/// # Errors
/// As there.
pub fn query_blocking(socket: &Path, command: &Command) -> io::Result<Envelope> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(query(socket, command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A node that knows its name and nothing else.
    async fn answer_all(mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            let answer = match ask.command {
                Command::Status => {
                    let status = Status { name: "paris".into(), ..Status::default() };
                    Answer::Status(Box::new(status))
                }
                _ => Answer::NotFound("no such node".into()),
            };
            let _ = ask.answer.send(answer);
        }
    }

    async fn raw(path: &Path, question: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(question).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A peer that closes with our bytes unread resets; what it said before still arrives.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    #[test]
    fn a_question_gets_the_nodes_answer_and_bad_ones_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/t.sock");
        runtime().block_on(async {
            let socket = AdminSocket::bind(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
            let (asks, asked) = mpsc::channel(ASKS);
            tokio::spawn(answer_all(asked));
            let server = tokio::spawn(socket.serve(asks, EventLog::default()));
            let envelope = query(&path, &Command::Status).await.unwrap();
            assert_eq!(envelope.schema_version, SCHEMA_VERSION);
            let Body::Answer(Answer::Status(status)) = envelope.body else { panic!("a status") };
            assert_eq!(status.name, "paris");
            let envelope = query(&path, &Command::Peers).await.unwrap();
            assert_eq!(envelope.body, Body::Answer(Answer::NotFound("no such node".into())));
            let text = String::from_utf8(raw(&path, b"{\"command\":\"reboot\"}\n").await).unwrap();
            assert!(text.starts_with(r#"{"schema_version":1,"error":"the question is not un"#));
            let long = vec![b'x'; 5000];
            assert!(String::from_utf8_lossy(&raw(&path, &long).await).contains("one line"));
            assert!(String::from_utf8_lossy(&raw(&path, b"").await).contains("one line"));
            server.abort();
            let _ = server.await;
            assert!(!path.exists(), "the file goes with the server");
        });
    }

    #[test]
    fn more_clients_than_places_are_all_served_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        runtime().block_on(async {
            let (asks, asked) = mpsc::channel(ASKS);
            tokio::spawn(answer_all(asked));
            tokio::spawn(AdminSocket::bind(&path).unwrap().serve(asks, EventLog::default()));
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..3 * CLIENTS {
                let path = path.clone();
                all.spawn(async move { query(&path, &Command::Status).await });
            }
            for envelope in all.join_all().await {
                assert!(matches!(envelope.unwrap().body, Body::Answer(Answer::Status(_))));
            }
        });
    }

    #[test]
    fn a_node_that_is_gone_is_told_and_a_daemon_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        runtime().block_on(async {
            assert!(query(&path, &Command::Status).await.is_err());
            let (asks, asked) = mpsc::channel(ASKS);
            drop(asked);
            tokio::spawn(AdminSocket::bind(&path).unwrap().serve(asks, EventLog::default()));
            let envelope = query(&path, &Command::Status).await.unwrap();
            let error = "the node is shutting down".into();
            assert_eq!(envelope.body, Body::Error { error });
        });
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        runtime().block_on(async {
            let living = AdminSocket::bind(&path).unwrap();
            let second = AdminSocket::bind(&path).unwrap_err();
            assert!(second.to_string().contains("another daemon answers there"), "{second}");
            drop(living);
            std::fs::write(&path, "precious").unwrap();
            assert!(AdminSocket::bind(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        });
    }

    #[test]
    fn who_follows_is_told_what_was_and_what_comes_and_takes_nobodys_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        runtime().block_on(async {
            let (asks, asked) = mpsc::channel(ASKS);
            tokio::spawn(answer_all(asked));
            let log = EventLog::default();
            log.push(1.0, "link_up", Some("lyon".into()), "link up".into());
            tokio::spawn(AdminSocket::bind(&path).unwrap().serve(asks, log.clone()));
            let envelope = query(&path, &Command::Events { follow: false }).await.unwrap();
            let Body::Answer(Answer::Events(held)) = envelope.body else { panic!("events") };
            assert_eq!(held.events.len(), 1);
            let mut followers = Vec::new();
            for _ in 0..FOLLOWERS {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(b"{\"command\":\"events\",\"follow\":true}\n").await.unwrap();
                let mut lines = BufReader::new(stream);
                let mut line = String::new();
                lines.read_line(&mut line).await.unwrap();
                assert!(line.contains("\"number\":1"), "{line}");
                followers.push(lines);
            }
            let envelope = query(&path, &Command::Events { follow: true }).await.unwrap();
            assert!(matches!(envelope.body, Body::Error { .. }), "no place left: {envelope:?}");
            log.push(2.0, "link_down", None, "link down".into());
            for lines in &mut followers {
                let mut line = String::new();
                lines.read_line(&mut line).await.unwrap();
                assert!(line.contains("\"number\":2") && !line.contains("\"number\":1,"), "{line}");
            }
            assert!(query(&path, &Command::Status).await.is_ok(), "others are served meanwhile");
            drop(followers);
            // Places come back when who followed leaves.
            let mut stream = UnixStream::connect(&path).await.unwrap();
            loop {
                stream.write_all(b"{\"command\":\"events\",\"follow\":true}\n").await.unwrap();
                let mut line = String::new();
                BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
                if line.contains("\"number\":2") {
                    break;
                }
                stream = UnixStream::connect(&path).await.unwrap();
            }
        });
    }
}
