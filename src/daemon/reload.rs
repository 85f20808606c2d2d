//! The configuration read again while packets flow: the whole file or nothing of it.
//!
//! Everything that can fail comes first: the text, the files it names, the address of `/metrics`. Only
//! then is anything changed, and what remains cannot fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::admin::Ask;
use super::http::HttpServer;
use super::pki::identity::check_files;
use crate::config::change::changes;
use crate::config::{Config, PeerConfig};
use crate::report::{Configured, Reloaded};

/// A good file, and what it changes.
#[derive(Debug)]
pub struct Read {
    /// What is to be in force: the file's keys, except those that need a start.
    pub config: Config,
    /// What to tell the operator.
    pub told: Reloaded,
}

/// Reads the file again that `in_force` came from, with every file it names.
///
/// # Errors
/// Every problem, each with where, what and the fix.
pub fn read(in_force: &Config, now_unix_s: u64) -> Result<Read, Vec<String>> {
    let file = &in_force.file;
    let text = std::fs::read_to_string(file)
        .map_err(|e| vec![format!("{}: cannot be read: {e}", file.display())])?;
    let new = Config::parse(&text, file)
        .map_err(|e| e.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let remarks = check_files(&new, now_unix_s)?;
    let (live, restart): (Vec<_>, Vec<_>) =
        changes(in_force, &new).into_iter().partition(|change| change.live);
    let named = |list: Vec<_>| list.iter().map(ToString::to_string).collect();
    let told = Reloaded {
        file: file.display().to_string(),
        applied: named(live),
        restart: named(restart),
        remarks,
    };
    Ok(Read { config: in_force.taking_over(&new), told })
}

/// What is told of the configuration in force.
#[derive(Debug)]
pub struct Standing(Configured);

impl Standing {
    /// The daemon starts with this configuration.
    pub fn new(config: &Config, now_unix_s: u64) -> Self {
        Self(Configured {
            file: config.file.display().to_string(),
            read_unix_s: now_unix_s,
            last_successful: true,
            ..Configured::default()
        })
    }

    /// The file was read again.
    pub fn on_read(&mut self, outcome: &Result<Reloaded, Vec<String>>, now_unix_s: u64) {
        match outcome {
            Ok(told) => {
                self.0.read_unix_s = now_unix_s;
                self.0.last_successful = true;
                self.0.problem = None;
                self.0.restart.clone_from(&told.restart);
            }
            Err(problems) => {
                self.0.last_successful = false;
                self.0.problem = problems.first().cloned();
            }
        }
    }

    /// As it is shown.
    pub fn shown(&self) -> Configured {
        self.0.clone()
    }
}

/// `/metrics`, where it is served.
#[derive(Debug)]
pub struct Scrapes {
    asks: mpsc::Sender<Ask>,
    serving: Option<(SocketAddr, JoinHandle<()>)>,
}

impl Scrapes {
    /// Serves at an address, or nowhere.
    ///
    /// # Errors
    /// An address that is taken or not ours.
    pub async fn start(
        listen: Option<SocketAddr>,
        asks: mpsc::Sender<Ask>,
    ) -> std::io::Result<Self> {
        let mut scrapes = Self { asks, serving: None };
        scrapes.move_to(listen).await?;
        Ok(scrapes)
    }

    /// Serves at another address, or nowhere.
    ///
    /// # Errors
    /// As [`Scrapes::start`]; it then serves where it did.
    pub async fn move_to(&mut self, listen: Option<SocketAddr>) -> std::io::Result<()> {
        let before = self.serving.as_ref().map(|(at, _)| *at);
        if before == listen {
            return Ok(());
        }
        let Some(listen) = listen else {
            self.stop().await;
            return Ok(());
        };
        let server = match HttpServer::bind(listen).await {
            Ok(server) => server,
            // The old address may be in the way of the new one: a wildcard and one of its addresses.
            Err(first) if before.is_some_and(|at| at.port() == listen.port()) => {
                self.stop().await;
                match HttpServer::bind(listen).await {
                    Ok(server) => server,
                    Err(_) => {
                        if let Some(at) = before {
                            let server = HttpServer::bind(at).await?;
                            self.serve(at, server);
                        }
                        return Err(first);
                    }
                }
            }
            Err(error) => return Err(error),
        };
        self.stop().await;
        self.serve(listen, server);
        Ok(())
    }

    fn serve(&mut self, at: SocketAddr, server: HttpServer) {
        self.serving = Some((at, tokio::spawn(server.serve(self.asks.clone()))));
    }

    /// Waits until the socket is closed.
    async fn stop(&mut self) {
        if let Some((_, task)) = self.serving.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// A task for each peer whose endpoint is a name.
#[derive(Debug, Default)]
pub struct LookUps(BTreeMap<(String, String), JoinHandle<()>>);

impl LookUps {
    /// Looks up the names of exactly these peers from now on.
    pub fn keep(&mut self, peers: &[PeerConfig], look_up: impl Fn(PeerConfig) -> JoinHandle<()>) {
        let key = |peer: &PeerConfig| (peer.name.clone(), peer.endpoint.clone());
        let named = peers.iter().filter(|p| p.endpoint.parse::<SocketAddr>().is_err());
        let mut wanted: BTreeMap<_, _> = named.map(|peer| (key(peer), peer)).collect();
        self.0.retain(|key, task| {
            let stays = wanted.remove(key).is_some();
            if !stays {
                task.abort();
            }
            stays
        });
        for (key, peer) in wanted {
            self.0.insert(key, look_up(peer.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Answer;

    #[test]
    fn scrapes_move_even_onto_their_own_port_and_stay_where_they_were_otherwise() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (asks, mut asked) = mpsc::channel::<Ask>(4);
            tokio::spawn(async move {
                while let Some(ask) = asked.recv().await {
                    let _ = ask.answer.send(Answer::Peers(Vec::new()));
                }
            });
            let free = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let answers = |ip: [u8; 4]| async move {
                tokio::net::TcpStream::connect((std::net::Ipv4Addr::from(ip), port)).await.is_ok()
            };
            let (one, all) = (([127, 0, 0, 1], port).into(), ([0, 0, 0, 0], port).into());
            let mut scrapes = Scrapes::start(Some(one), asks).await.unwrap();
            assert!(answers([127, 0, 0, 1]).await && !answers([127, 0, 0, 2]).await);
            scrapes.move_to(Some(all)).await.unwrap();
            assert!(answers([127, 0, 0, 2]).await);
            let foreign = ([192, 0, 2, 1], port).into();
            let refused = scrapes.move_to(Some(foreign)).await.unwrap_err().to_string();
            assert!(refused.contains("[metrics] listen = 192.0.2.1"), "{refused}");
            assert!(answers([127, 0, 0, 2]).await, "served as before");
            scrapes.move_to(None).await.unwrap();
            assert!(!answers([127, 0, 0, 1]).await);
        });
    }

    #[test]
    fn names_are_looked_up_once_each_and_no_longer_than_they_are_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = |name: &str, endpoint: &str| PeerConfig {
                name: name.into(),
                endpoint: endpoint.into(),
            };
            let started = std::cell::RefCell::new(Vec::new());
            let look_up = |p: PeerConfig| {
                started.borrow_mut().push(p.name);
                tokio::spawn(std::future::pending())
            };
            let (a, b) = (peer("a", "a.example:1"), peer("b", "b.example:1"));
            let mut tasks = LookUps::default();
            tasks.keep(&[a.clone(), peer("c", "192.0.2.1:1")], look_up);
            tasks.keep(&[a, b.clone()], look_up);
            tasks.keep(&[b], look_up);
            assert_eq!(*started.borrow(), ["a", "b"]);
            assert_eq!(tasks.0.len(), 1);
        });
    }
}
