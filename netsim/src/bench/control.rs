//! `netsim bench control`: whether packets keep flowing while the control side works hard.
//!
//! One steady flow from A to B, and its delay and loss while nothing else happens, while `/metrics`
//! is scraped without pause, while a third daemon is killed and started over and over, and while a
//! table of 500 nodes is installed ten times a second. The last has no door from outside, so it runs
//! the data path alone in this process, with keys and tables made by hand.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use thalweg::daemon::clock::Clock;
use thalweg::daemon::data::{self, DataDoor, DataNews, LaneParts};
use thalweg::daemon::tun::Tun;
use thalweg::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use thalweg::forward::{ForwardConfig, Forwarder};
use thalweg::id::{Class, Lane, LinkId, NodeId};
use thalweg::route::policy::{ClassSpec, Delivery, Match, Policy};
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::Secret;

use super::ground::{A, B, Case, Ground, R, ip, lay, overlay_way};
use super::load::{self, Way};
use super::{BenchReport, Sheet};
use crate::netns::fleet::{PORT, overlay_address};
use crate::netns::stop::Stop;
use crate::netns::traffic::Quality;
use crate::netns::{SiteNet, sys};

/// Packets a second of the steady flow, and their bytes of UDP payload.
const STEADY: (u32, usize) = (5000, 200);
/// The daemon's own default.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9460);
/// A restarted daemon lives this long: its handshake takes a few tens of milliseconds.
const LIFE: Duration = Duration::from_millis(300);
const NODES: u16 = 500;
const BETWEEN_TABLES: Duration = Duration::from_millis(100);

/// Runs it. None if told to stop.
///
/// # Errors
/// Namespaces that cannot be made; daemons or data paths across which no packet comes.
pub fn run(runs: usize, quick: bool, stop: &Stop) -> anyhow::Result<Option<BenchReport>> {
    let length = Duration::from_secs(if quick { 2 } else { 5 });
    let mut sheet = Sheet::default();
    let mut daemons = Ground::daemons_and_third()?.ready()?;
    let tables = Tables::start()?;
    for _ in 0..runs {
        for case in ["idle", "scrape", "reconnect", "table500"] {
            if stop.asked() {
                return Ok(None);
            }
            let (quality, events) = match case {
                "idle" => (steady(daemons.way(), length)?, None),
                "scrape" => scrape(daemons.way(), length)?,
                "reconnect" => reconnect(&mut daemons, length)?,
                _ => {
                    let before = steady(tables.way(), length)?;
                    sheet.note(case, "before_p99_ms", "ms", before.p99_ms);
                    sheet.note(case, "before_lost", "packets", lost(&before));
                    tables.busy(length)?
                }
            };
            sheet.note(case, "p99_ms", "ms", quality.p99_ms);
            sheet.note(case, "lost", "packets", lost(&quality));
            if case != "idle" {
                sheet.note(case, "events_per_s", "1/s", events);
            }
        }
    }
    Ok(Some(sheet.report("control")))
}

fn steady(way: Way<'_>, length: Duration) -> io::Result<Quality> {
    load::steady(way, STEADY.0, STEADY.1, length)
}

fn lost(quality: &Quality) -> Option<f64> {
    (quality.sent > 0).then(|| (quality.sent - quality.received) as f64)
}

/// The flow while `work` is done again and again on this thread; how often a second it was.
fn beside(
    way: Way<'_>,
    length: Duration,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(Quality, Option<f64>)> {
    std::thread::scope(|s| {
        let began = sys::monotonic_ns();
        let flow = s.spawn(|| steady(way, length));
        let mut count = 0.0;
        while !flow.is_finished() {
            work()?;
            count += 1.0;
        }
        let seconds = (sys::monotonic_ns() - began) as f64 / 1e9;
        let quality = flow.join().map_err(|_| io::Error::other("the flow panicked"))??;
        Ok((quality, Some(count / seconds)))
    })
}

fn scrape(way: Way<'_>, length: Duration) -> anyhow::Result<(Quality, Option<f64>)> {
    beside(way, length, || {
        let text = way.a.run(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text)?;
            Ok(text)
        });
        let text = text.context("scraping")?;
        anyhow::ensure!(text.starts_with(b"HTTP/1.1 200"), "no metrics in an answer to a scrape");
        Ok(())
    })
}

fn reconnect(daemons: &mut Ground, length: Duration) -> anyhow::Result<(Quality, Option<f64>)> {
    let (fleet, sites) = daemons.fleet().context("no daemons")?;
    let met = |fleet: &crate::netns::fleet::Fleet| {
        fleet.report(R).is_some_and(|r| r.status.peers_connected > 0)
    };
    let mut handshakes = 0;
    let (quality, restarts) = beside(overlay_way(sites), length, || {
        fleet.kill(R);
        fleet.start(sites, R)?;
        load::sleep(LIFE);
        handshakes += u32::from(met(fleet));
        Ok(())
    })?;
    fleet.kill(R);
    anyhow::ensure!(handshakes > 0, "the third daemon never met A");
    Ok((quality, restarts))
}

/// Two data paths in this process, one of which knows 500 nodes. They end when dropped.
struct Tables {
    a: DataDoor,
    b: DataDoor,
    _news: [DataNews; 2],
    snapshots: [Snapshot; 2],
    /// Where frames to nodes that are not there go.
    _nowhere: OwnedFd,
    sites: Vec<SiteNet>,
}

impl Tables {
    fn start() -> anyhow::Result<Self> {
        let sites = lay(Case::Direct, "tab")?;
        let nowhere = sites[A].ns.run(|| sys::open_tun("nowhere"))?;
        ip(Some(&sites[A].ns), "link set nowhere up")?;
        ip(Some(&sites[A].ns), "route add 198.19.0.0/16 dev nowhere")?;
        let [a, b] = [A, B].map(|i| SocketAddr::new(sites[i].address.into(), PORT));
        let (node_a, node_b) = (node(1)?, node(2)?);
        let of_b = Snapshot {
            peers: vec![peer(2, 1, a)?].into(),
            routes: table(1, &[1], 1)?,
            tuning: None,
        };
        let mut peers = vec![peer(1, 2, b)?];
        for other in 3..=NODES {
            let endpoint = Ipv4Addr::new(198, 19, (other >> 8) as u8, other as u8);
            peers.push(peer(1, other, SocketAddr::new(endpoint.into(), PORT))?);
        }
        let peers = Arc::new(peers);
        let others: Vec<u16> = (2..=NODES).collect();
        // Both differ from each other in every route.
        let snapshots = [1, 2].map(|ms| {
            table(ms, &others, 2).map(|routes| Snapshot {
                peers: peers.clone(),
                routes,
                tuning: None,
            })
        });
        let [one, two] = snapshots;
        let snapshots = [one?, two?];
        let (door_a, news_a) = start_node(&sites[A], A, node_a, a)?;
        let (door_b, news_b) = start_node(&sites[B], B, node_b, b)?;
        door_a.install(&snapshots[0]);
        door_b.install(&of_b);
        let tables = Self {
            a: door_a,
            b: door_b,
            _news: [news_a, news_b],
            snapshots,
            _nowhere: nowhere,
            sites,
        };
        for _ in 0..100 {
            if matches!(load::round_trips(tables.way(), 5), Ok(Some(_))) {
                return Ok(tables);
            }
        }
        anyhow::bail!("no packet crossed the data paths: {:?}", tables.a.stats().forward)
    }

    fn way(&self) -> Way<'_> {
        overlay_way(&self.sites)
    }

    fn busy(&self, length: Duration) -> anyhow::Result<(Quality, Option<f64>)> {
        let mut turn = 0;
        beside(self.way(), length, || {
            turn += 1;
            self.a.install(&self.snapshots[turn % 2]);
            load::sleep(BETWEEN_TABLES);
            Ok(())
        })
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.a.stop();
        self.b.stop();
    }
}

fn node(number: u16) -> anyhow::Result<NodeId> {
    NodeId::new(number).context("no node number")
}

/// Overlay address of a node; A and B keep those of the other benches.
fn overlay(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low).into()
}

fn peer(own: u16, other: u16, endpoint: SocketAddr) -> anyhow::Result<PeerEntry> {
    let index = |to: u16, from: u16| u32::from(to) << 20 | u32::from(from) << 8;
    // Any bytes in which pairs differ.
    let mut secret = [0; 32];
    secret[..2].copy_from_slice(&own.min(other).to_be_bytes());
    secret[2..4].copy_from_slice(&own.max(other).to_be_bytes());
    Ok(PeerEntry {
        node: node(other)?,
        generation: 1,
        secret: Secret::new(secret),
        networks: vec![overlay(other).into()],
        links: vec![LinkEntry {
            link: LinkId(if other > own { other - 2 } else { 0 }),
            endpoint,
            receive_index: index(own, other),
            transmit_index: index(other, own),
            lanes: 1,
            mtu: None,
        }],
    })
}

/// Direct paths to `others`, each with a backup over the node `over`.
fn table(ms: u64, others: &[u16], over: u16) -> anyhow::Result<Arc<RouteTable>> {
    let mut table = RouteTable { generation: ms, ..RouteTable::default() };
    let delay = Duration::from_millis(ms);
    for &other in others {
        table.prefixes.insert(overlay(other).into(), node(other)?);
        let link = LinkId(other.saturating_sub(2));
        let primary = Path { link, nodes: vec![node(other)?], delay };
        let relayed = Path { link: LinkId(0), nodes: vec![node(over)?, node(other)?], delay };
        let backup = (other != over).then_some(relayed);
        table.routes.insert((node(other)?, Class(0)), Route { backup, ..Route::alone(primary) });
    }
    Ok(Arc::new(table))
}

fn start_node(
    site: &SiteNet,
    index: usize,
    node: NodeId,
    listen: SocketAddr,
) -> anyhow::Result<(DataDoor, DataNews)> {
    let opened = site.ns.run(|| Ok((data::bind(listen, 1)?, Tun::open("thalweg0")?)));
    let (mut sockets, tun) = opened.context("socket and device")?;
    let sockets = sockets.pop().context("no socket")?;
    let own = overlay_address(index);
    ip(Some(&site.ns), &format!("addr add {own}/16 dev thalweg0"))?;
    ip(Some(&site.ns), "link set thalweg0 mtu 1340 up")?;
    let clock = Clock::start();
    let config = ForwardConfig {
        node,
        boot: 1,
        mtu: 1340,
        classes: vec![ClassSpec {
            name: "all".to_owned(),
            matches: Match::default(),
            policy: Policy::default(),
            delivery: Delivery { budget: Duration::from_millis(500), ..Delivery::NONE },
            marking: Default::default(),
        }],
        networks: vec![IpAddr::V4(own).into()],
        relay: true,
        tun_udp: tun.takes_udp_segments(),
        lane: Lane::ONLY,
        max_rate_bps: None,
    };
    let forwarder = Forwarder::new(config, node.get().into(), clock.now());
    data::start(clock, vec![LaneParts { forwarder, sockets, tun }])
}
