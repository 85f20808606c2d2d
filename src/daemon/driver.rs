//! The control thread: from a configuration to a running node, and its loop.
//!
//! ```text
//! Config → papers → TUN, sockets → Forwarder on the data thread ─ events ─┐
//!                                        ▲ snapshots, probes              ▼
//!        streams ◄── Quic ◄─────────── control loop ──► Node ── routes ─► netlink, state file
//!                                        ▲ questions: admin socket, /metrics
//! ```
//!
//! Each input is one `handle_*` of the node, followed by everything it wants done; then the loop
//! waits. A signal has the node withdraw, streams say farewell, and takes routes, addresses and
//! device away.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::admin::{ASKS, AdminSocket, Ask};
use super::clock::{Clock, machine_seconds, not_before, unix_seconds, unix_time_s};
use super::data::{self, DataDoor, DataNews, LaneParts};
use super::device::Device;
use super::events::EventLog;
use super::news::{say, told};
use super::notify::Manager;
use super::papers::{LOOK, Papers, take_lists};
use super::ping::ping;
use super::pki::Identity;
use super::pki::verify::{Anchors, WallTrust, date};
use super::poller::step_back;
use super::quic::Quic;
use super::quic::socket::QueueSocket;
use super::reload::{self, LookUps, Scrapes, Standing};
use super::signal::{Asked, Signals};
use super::spend::Account;
use super::state::{Kept, StateFile};
use super::{log, tally};
use crate::config::{Config, PeerConfig};
use crate::control::ControlInput;
use crate::forward::event::ForwardEvent;
use crate::forward::{ForwardConfig, Forwarder};
use crate::id::Lane;
use crate::node::{self, Node, NodeConfig, NodeEvent, ProbeTimes, Seed};
use crate::report::{Answer, Command, Echo, Reloaded};
use crate::session::trust::Certified;
use crate::time::Instant;

/// A member not heard of for this long is forgotten: long enough for a site's holidays.
const MEMBER_EXPIRY: Duration = Duration::from_secs(30 * 86_400);
/// How long leaving may take in all, in steps of this: telling the node's peers, then the streams'
/// farewells, then the data thread's end.
const FAREWELL: Duration = Duration::from_millis(500);
/// Between look-ups of a peer's name.
const LOOK_UP: Duration = Duration::from_secs(30);
/// Peers' endpoints that look-ups found and the loop has not taken.
const SEEDS: usize = 64;

/// Runs the daemon, with what it kept, until a signal ends it. Blocks.
///
/// # Errors
/// What keeps it from starting, or a device or socket that broke while it ran. Everything it had set
/// up is removed again.
pub fn run(config: Config, kept: Kept) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let signals = Signals::take()?;
        let (driver, ended) = Driver::start(config, kept).await?;
        driver.drive(signals, ended).await
    });
    // A name look-up may still hang in the system's resolver: not waited for.
    runtime.shutdown_background();
    result
}

/// Resolves when the data thread has ended.
type Ended = oneshot::Receiver<anyhow::Result<()>>;

struct Driver {
    clock: Clock,
    node: Node,
    own: Certified,
    data: DataDoor,
    events: mpsc::Receiver<ForwardEvent>,
    quic: Quic,
    inputs: mpsc::Receiver<ControlInput>,
    asks: mpsc::Receiver<Ask>,
    seeds: mpsc::Receiver<Seed>,
    device: Device,
    tun_lost: mpsc::Receiver<io::Error>,
    state: StateFile,
    papers: Papers,
    /// When the files of trust are looked at next.
    look_at: tokio::time::Instant,
    anchors: Arc<Anchors>,
    withdrawn: bool,
    /// The configuration in force.
    config: Config,
    standing: Standing,
    scrapes: Scrapes,
    look_ups: LookUps,
    seeds_in: mpsc::Sender<Seed>,
    log: EventLog,
    account: Account,
    /// Whether the month's budget is spent.
    over_budget: bool,
}

impl Driver {
    async fn start(config: Config, kept: Kept) -> anyhow::Result<(Self, Ended)> {
        let clock = Clock::start();
        let anchors = Arc::new(Anchors::load(&config.node.ca)?);
        let state = StateFile::open(&config.node.state)?;
        look_at_clock(kept.known_time());
        let restored = kept.restored;
        take_lists(&config.node.crl, &anchors).map_err(|why| anyhow!(why))?;
        let papers = Identity::load(&config.node, &anchors, unix_seconds())?;
        let own = papers.certified.clone();
        let boot = unix_seconds().max(restored.boot.saturating_add(1));

        let (asks_in, asks) = mpsc::channel(ASKS);
        let admin = AdminSocket::bind(&config.admin.socket).context("admin socket")?;
        let scrapes =
            Scrapes::start(config.metrics.listen, asks_in.clone()).await.context("metrics")?;
        let overlay = &config.overlay;
        let wanted = config.forward.lanes.unwrap_or_else(usual_lanes);
        let (device, tuns) =
            Device::open(&overlay.interface, wanted, overlay.mtu, &own.addresses).await?;
        let lanes = tuns.len() as u8;
        let sockets = data::bind(config.underlay.listen, lanes)?;
        let port = sockets[0][0].local().port();
        for socket in &sockets[0] {
            let (address, buffers) = (socket.local(), socket.buffers());
            tracing::info!(%address, ?buffers, lanes, "listening");
        }

        let forward = ForwardConfig {
            node: own.node,
            boot,
            mtu: config.overlay.mtu.into(),
            classes: config.classes.clone(),
            networks: own.networks().collect(),
            relay: config.relay.relay && own.relay,
            tun_udp: tuns[0].takes_udp_segments(),
            lane: Lane::ONLY,
            max_rate_bps: config.uplink.max_rate_bps,
        };
        let relayed = config.relay.max_rate_per_source_bps;
        let parts = Lane::all(lanes).zip(sockets.into_iter().zip(tuns));
        let parts = parts.map(|(lane, (sockets, tun))| {
            let config = ForwardConfig { lane, ..forward.clone() };
            let mut forwarder = Forwarder::new(config, random(), clock.now());
            forwarder.limit_relaying(relayed);
            LaneParts { forwarder, sockets, tun }
        });
        let (data, news) = data::start(clock, parts.collect())?;
        // After the data thread's start, which would inherit it.
        if let Err(error) = step_back() {
            tracing::debug!(%error, "the control thread keeps its priority");
        }
        let DataNews { events, quic: inbound, tun_lost, ended } = news;
        let door = data.clone();
        let socket = QueueSocket::new(inbound, Box::new(move |d| door.quic(d)), port);
        let (quic, inputs) = Quic::start(&papers, &anchors, socket)?;

        let (seeds_in, seeds) = mpsc::channel(SEEDS);
        let known = config.peers.iter().map(seed).collect();
        let mut look_ups = LookUps::default();
        look_ups.keep(&config.peers, |peer| tokio::spawn(look_up(peer, seeds_in.clone())));
        let identity = identity(&papers, &anchors);
        let mut account = Account::open(&config.node.state);
        account.on_sent(&config.uplink, machine_seconds(), 0, 0);
        let over_budget = account.is_over(&config.uplink);
        let node = decided(&config, known, boot, over_budget);
        let node = NodeConfig { lanes, ..node };
        let mut node = Node::new(node, identity, &restored, random(), clock.now());
        if let Some(model) = state.model() {
            tracing::info!(origin = ?model.origin(), "forecasts by the model of the state directory");
            node.handle_model(model);
        }
        let log = EventLog::default();
        tokio::spawn(admin.serve(asks_in, log.clone()));
        tracing::info!(
            name = %own.name, node = %own.node, addresses = ?own.addresses,
            interface = %config.overlay.interface, version = env!("CARGO_PKG_VERSION"), "started"
        );
        let driver = Self {
            clock,
            node,
            own,
            data,
            events,
            quic,
            inputs,
            asks,
            seeds,
            device,
            tun_lost,
            state,
            papers: Papers::new(&config.node, &papers.certified),
            look_at: tokio::time::Instant::now(),
            anchors,
            withdrawn: false,
            standing: Standing::new(&config, unix_seconds()),
            config,
            scrapes,
            look_ups,
            seeds_in,
            log,
            account,
            over_budget,
        };
        Ok((driver, ended))
    }

    async fn drive(mut self, mut signals: Signals, mut ended: Ended) -> anyhow::Result<()> {
        self.carry_out().await;
        let manager = Manager::from_env();
        manager.ready();
        let mut alive_at = tokio::time::Instant::now();
        let result = loop {
            let alive = async {
                match manager.alive_every {
                    Some(_) => tokio::time::sleep_until(alive_at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alive => {
                    manager.alive();
                    alive_at = tokio::time::Instant::now() + manager.alive_every.unwrap_or_default();
                }
                asked = signals.next() => match asked {
                    Asked::End(signal) => {
                        tracing::info!(signal, "ending");
                        break Ok(());
                    }
                    Asked::Reload => {
                        // A refusal is in the log.
                        let _ = self.reload().await;
                        self.carry_out().await;
                    }
                },
                ended = &mut ended => {
                    // A thread that panicked sends nothing.
                    let ended = ended.unwrap_or_else(|_| Err(anyhow!("the data thread is gone")));
                    break ended.and(Err(anyhow!("the data thread has ended")));
                }
                () = self.turn() => {}
            }
        };
        if let Err(error) = &result {
            tracing::error!("{error:#}");
        }
        manager.ending();
        self.finish(result.is_ok().then_some(ended)).await;
        result
    }

    /// Waits for one input, has the node handle it, and does what comes of it. May be dropped while
    /// it waits, not later: what follows the wait does not wait for anything but netlink.
    async fn turn(&mut self) {
        let sleep = async {
            match self.node.poll_timeout().and_then(|d| self.clock.to_std(d.at)) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let reopen = async {
            match self.device.reopen_at() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        enum Input {
            Event(ForwardEvent),
            Control(ControlInput),
            Ask(Ask),
            Seed(Seed),
            TunLost(io::Error),
            Reopen,
            Papers,
            Timeout,
        }
        let input = tokio::select! {
            Some(event) = self.events.recv() => Input::Event(event),
            Some(input) = self.inputs.recv() => Input::Control(input),
            Some(ask) = self.asks.recv() => Input::Ask(ask),
            Some(seed) = self.seeds.recv() => Input::Seed(seed),
            Some(error) = self.tun_lost.recv() => Input::TunLost(error),
            () = reopen => Input::Reopen,
            () = tokio::time::sleep_until(self.look_at) => Input::Papers,
            () = sleep => Input::Timeout,
        };
        let now = self.clock.now();
        match input {
            Input::Event(event) => self.node.handle_event(now, event),
            Input::Control(input) => self.node.handle_control(now, input),
            Input::Seed(seed) => self.node.handle_seed(now, &seed),
            Input::Timeout => self.node.handle_timeout(now),
            Input::TunLost(error) => {
                self.device.on_lost(&error);
                self.note("device_lost", None, format!("the TUN device is gone: {error}"));
            }
            Input::Reopen => {
                if let Some(queues) = self.device.reopen().await {
                    self.data.give_tun(queues);
                    self.note("device_back", None, "the TUN device is back".into());
                }
            }
            Input::Papers => {
                self.look_at_papers(now);
                self.settle_account(now);
            }
            Input::Ask(Ask { command: Command::Reload, answer }) => {
                let outcome = self.reload().await;
                let _ = answer.send(outcome.map_or_else(Answer::Refused, Answer::Reload));
            }
            Input::Ask(Ask { command, answer }) => {
                let mut said = self.node.handle_command(now, &command);
                tally::complete(&mut said, &self.data.stats(), self.quic.refused());
                tally::configured(&mut said, &self.standing);
                tally::routed(&mut said, self.device.routes_refused());
                tally::spent(&mut said, self.account.shown(&self.config.uplink, machine_seconds()));
                match said {
                    Answer::Ping(echo) => self.ask_echo(*echo, &command, answer),
                    // Who asked may have lost patience.
                    said => drop(answer.send(said)),
                }
            }
        }
        self.carry_out().await;
    }

    /// Sends one echo, and the answer to who asked when it came.
    fn ask_echo(&self, mut echo: Echo, asked: &Command, answer: oneshot::Sender<Answer>) {
        let dscp = match asked {
            Command::Ping { dscp: Some(dscp), .. } => *dscp,
            _ => 0,
        };
        let to = echo.address;
        let alike = |own: &&IpAddr| to.is_some_and(|to| to.is_ipv6() == own.is_ipv6());
        let own = self.own.addresses.iter().find(alike).copied();
        tokio::spawn(async move {
            let asked = match own.zip(to) {
                Some((own, to)) => ping(own, to, dscp, random()).await,
                None => Err("no address of one family at both ends".to_owned()),
            };
            match asked {
                Ok(rtt) => echo.rtt_ms = Some(rtt.as_secs_f64() * 1e3),
                Err(why) => echo.why = Some(why),
            }
            let _ = answer.send(Answer::Ping(Box::new(echo)));
        });
    }

    /// Keeps what happened for who asks.
    fn note(&self, kind: &str, node: Option<String>, text: String) {
        self.log.push(unix_time_s(), kind, node, text);
    }

    /// Reads the configuration again and takes over what can be while packets flow.
    async fn reload(&mut self) -> Result<Reloaded, Vec<String>> {
        let outcome = match reload::read(&self.config, unix_seconds()) {
            Ok(read) => match self.scrapes.move_to(read.config.metrics.listen).await {
                Ok(()) => Ok(read),
                Err(error) => Err(vec![format!("{error}; free the address or write another")]),
            },
            Err(problems) => Err(problems),
        };
        let outcome = outcome.map(|read| {
            self.take_over(read.config);
            read.told
        });
        self.standing.on_read(&outcome, unix_seconds());
        match &outcome {
            Ok(told) => {
                let (applied, restart) = (&told.applied, &told.restart);
                tracing::info!(?applied, wait_for_restart = ?restart, "configuration reloaded");
                told.remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
                let text = format!("in force now: {}", told.applied.join(", "));
                self.note("reloaded", None, text);
            }
            Err(problems) => {
                let first = problems.first().cloned().unwrap_or_default();
                self.note("reload_refused", None, first);
                for problem in problems {
                    tracing::error!("configuration not reloaded, the one before stays: {problem}");
                }
            }
        }
        outcome
    }

    /// Puts a checked configuration in force. Cannot fail.
    fn take_over(&mut self, config: Config) {
        if config.log.level != self.config.log.level {
            log::relevel(config.log.level);
        }
        let seeds_in = &self.seeds_in;
        let look_up = |peer| tokio::spawn(look_up(peer, seeds_in.clone()));
        self.look_ups.keep(&config.peers, look_up);
        let known = config.peers.iter().map(seed).collect();
        // The boot counter and the number of lanes stay.
        self.over_budget = self.account.is_over(&config.uplink);
        let node = decided(&config, known, 0, self.over_budget);
        self.node.handle_config(self.clock.now(), node, config.uplink.max_rate_bps);
        self.config = config;
    }

    /// Counts what was sent at this hour's price; says the price where it changed, and ends relaying
    /// where the month's budget is spent.
    fn settle_account(&mut self, now: Instant) {
        let (uplink, unix_s) = (&self.config.uplink, machine_seconds());
        let udp = self.data.stats().udp;
        self.account.on_sent(uplink, unix_s, udp.sent, udp.sent_bytes);
        self.account.save();
        let price = uplink.price_at(unix_s);
        if price != self.node.price() {
            tracing::info!(price_per_gb = price.as_f64(), "the price of sending changed");
            self.note("price", None, format!("a gigabyte costs {} now", price.as_f64()));
            self.node.handle_price(now, price);
        }
        let over = self.account.is_over(uplink);
        if over != self.over_budget {
            let text = match over {
                true => {
                    "the month's budget is spent: no more relaying for others, and cheap traffic falls back"
                }
                false => "within the month's budget again",
            };
            tracing::warn!("{text}");
            self.note("budget", None, text.to_owned());
            self.take_over(self.config.clone());
        }
    }

    /// Takes over what changed among certificates, CAs and lists of revoked certificates.
    fn look_at_papers(&mut self, now: Instant) {
        self.look_at += LOOK;
        let change = self.papers.look(&self.anchors, unix_seconds());
        if change.trust {
            tracing::info!(revoked = self.anchors.revoked(), "CAs and revocations taken over");
            self.node.handle_trust(now);
        }
        if let Some(papers) = change.identity {
            if let Err(error) = self.quic.renew(&papers, &self.anchors) {
                return tracing::warn!(%error, "the renewed certificate is not usable for TLS");
            }
            let until = date(papers.certified.not_after);
            tracing::info!(until, "the renewed certificate is in force");
            self.node.handle_identity(now, identity(&papers, &self.anchors));
        }
    }

    /// Everything the node wants done after one `handle_*`.
    async fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_control() {
            self.quic.carry_out(output);
        }
        while let Some(snapshot) = self.node.poll_snapshot() {
            let others = snapshot.routes.owners().filter(|(_, node)| *node != self.own.node);
            let routes: BTreeSet<IpNet> = others.map(|(net, _)| net).collect();
            self.data.install(&snapshot);
            let links = snapshot.peers.iter().flat_map(|peer| &peer.links);
            let underlay = links.map(|link| link.endpoint.ip()).collect();
            self.device.install(routes, underlay).await;
        }
        while let Some(probe) = self.node.poll_send() {
            self.data.probe(probe);
        }
        while let Some(event) = self.node.poll_event() {
            match event {
                NodeEvent::Persist(bytes) => {
                    // A failure is in the log, and no reason to end.
                    self.state.save(&bytes);
                }
                NodeEvent::Withdrawn => self.withdrawn = true,
                event => {
                    say(&event);
                    let named = |node| self.node.name_of(node);
                    let class = |class| self.node.class_name(class);
                    if let Some((kind, node, text)) = told(&event, named, class) {
                        self.note(kind, node, text);
                    }
                }
            }
        }
    }

    /// `ended`: the data thread's end, if it still runs.
    async fn finish(mut self, ended: Option<Ended>) {
        if ended.is_some() {
            self.node.handle_stop(self.clock.now());
            self.carry_out().await;
            let withdraw = async {
                while !self.withdrawn {
                    self.turn().await;
                }
            };
            if tokio::time::timeout(FAREWELL, withdraw).await.is_err() {
                tracing::warn!("not every peer could be told that this node leaves");
            }
            self.quic.close("the daemon is ending", FAREWELL).await;
        }
        self.account.save();
        self.device.withdraw().await;
        self.data.stop();
        if let Some(ended) = ended
            && tokio::time::timeout(FAREWELL, ended).await.is_err()
        {
            tracing::warn!("the data thread does not end");
        }
        tracing::info!("ended");
    }
}

/// Who this node is, for the core.
fn identity(papers: &Identity, anchors: &Arc<Anchors>) -> node::Identity {
    node::Identity {
        certified: papers.certified.clone(),
        certificate: papers.certificate.to_vec(),
        signer: Box::new(papers.signer()),
        trust: Box::new(WallTrust::new(anchors.clone(), unix_seconds)),
    }
}

/// Without a clock at boot certificates are judged by the latest time that is known to have been.
fn look_at_clock(floor: u64) {
    let clock = machine_seconds();
    if clock < floor {
        tracing::warn!(
            "the clock of this machine says {}, but it was {} already when this node last started or \
             this program was made: until the clock passes that, certificates are judged as of then; \
             set the clock",
            date(clock),
            date(floor)
        );
    }
    not_before(floor);
}

/// Lanes where the operator gives no number: half of the processors, since applications and the
/// kernel's own work on packets want some, and no more than four, which pays where one peer sends
/// more than a few Gbit/s.
fn usual_lanes() -> u8 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, 4) as u8
}

/// What the node is told of the operator's configuration. Its data path has one lane.
pub fn node_config(config: &Config, seeds: Vec<Seed>, boot: u64) -> NodeConfig {
    NodeConfig {
        seeds,
        advertise: config.underlay.advertise.clone(),
        classes: config.classes.clone(),
        relay: config.relay.relay,
        use_relays: config.relay.use_relays,
        price: config.uplink.price,
        spent: false,
        probe: ProbeTimes {
            in_use: config.probe.in_use,
            idle: config.probe.idle,
            stale_in_use: config.probe.stale_in_use,
            stale_idle: config.probe.stale_idle,
        },
        lanes: 1,
        recompute: config.route.recompute,
        margin: config.route.margin,
        hold_down: config.route.hold_down,
        observe: config.route.observe,
        member_expiry: MEMBER_EXPIRY,
        boot_floor: boot,
    }
}

/// The same at this hour's price, and with what follows where the budget is spent.
fn decided(config: &Config, seeds: Vec<Seed>, boot: u64, over_budget: bool) -> NodeConfig {
    NodeConfig {
        price: config.uplink.price_at(machine_seconds()),
        relay: config.relay.relay && !over_budget,
        spent: over_budget,
        ..node_config(config, seeds, boot)
    }
}

/// What is known of a peer beforehand: its endpoint, where that needs no look-up.
fn seed(peer: &PeerConfig) -> Seed {
    let endpoint: Option<SocketAddr> = peer.endpoint.parse().ok();
    Seed { name: peer.name.clone(), endpoints: endpoint.into_iter().collect() }
}

/// Looks a peer's name up again and again, and says when it means something new.
async fn look_up(peer: PeerConfig, seeds: mpsc::Sender<Seed>) {
    let mut last: Vec<SocketAddr> = Vec::new();
    let mut failing = false;
    loop {
        match tokio::net::lookup_host(&peer.endpoint).await {
            Ok(found) => {
                failing = false;
                let mut endpoints: Vec<_> = found.collect();
                endpoints.sort();
                endpoints.dedup();
                if !endpoints.is_empty() && endpoints != last {
                    last.clone_from(&endpoints);
                    let seed = Seed { name: peer.name.clone(), endpoints };
                    if seeds.send(seed).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let (name, endpoint) = (&peer.name, &peer.endpoint);
                    tracing::warn!(peer = %name, %endpoint, %error, "name not found; asked again");
                }
            }
        }
        tokio::time::sleep(LOOK_UP).await;
    }
}

/// A seed for dice. From the system's source, so that no two nodes roll alike.
fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    u64::from_ne_bytes(bytes)
}
