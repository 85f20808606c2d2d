//! Our own links: probed on time, measured in both directions, shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::ProbeTimes;
use super::hop::HopView;
use crate::forward::event::{ForwardEvent, ProbeRequest};
use crate::id::{LinkId, NodeId};
use crate::probe::estimate::{Direction, Estimate, HopFigures};
use crate::probe::forecast::HORIZON;
use crate::probe::loss::Usual;
use crate::probe::model::Model;
use crate::probe::mtu::MtuSearch;
use crate::probe::prober::{Prober, Reading, Reply};
use crate::probe::schedule::{Interest, Schedule, ScheduleConfig};
use crate::quality::{LinkMtu, LinkState};
use crate::report::{DirectionRow, ForecastRow, Histogram, LinkRow};
use crate::rng::Dice;
use crate::time::{Deadline, Instant, micros};
use crate::topology::lsa::LsaLink;
use crate::topology::lsdb::OwnLink;
use crate::unit::{Price, Ratio};

/// How often the state of links in use or armed is looked at for readings that grew too old.
const SWEEP: Duration = Duration::from_secs(1);
/// Of the others, one in so many each time: what is measured four times a minute needs no more.
const SWEEP_PARTS: u64 = 5;
/// What links usually lose is learnt once in so many sweeps.
const USUAL_SWEEPS: u64 = 5;
/// How often it is confirmed what a link carries: where a path in force starts with it, and elsewhere.
/// A large frame each: 0.2 kbit/s, and 7 bit/s, which is 3.3 kbit/s in a mesh of 500.
const SIZE_EVERY: Duration = Duration::from_secs(60);
const SIZE_EVERY_IDLE: Duration = Duration::from_secs(1800);
/// A link counts as used for so long after data went over it, whoever's: a relay's own table knows
/// nothing of it.
const CARRIES: Duration = Duration::from_secs(15);
/// For so long after a link came up, reports tell of frames that were sent while it was down.
const AFTERMATH: Duration = Duration::from_secs(1);
/// How long the answer to a size probe is waited for at most, also before any round trip is known
/// (RFC 8899, section 5.1.1: not much less than a second then). One that comes later counts too.
const SIZE_PATIENCE: Duration = Duration::from_secs(1);
/// Of the frames of a report so many lost, and one in so many: perhaps all that are long. So it is where one
/// was lost that was longer than any that came.
const SUSPECT_LOST: u64 = 3;
const SUSPECT_PART: u64 = 4;

/// One of our links.
#[derive(Debug)]
struct Link {
    peer: NodeId,
    up: bool,
    up_at: Instant,
    estimate: Estimate,
    /// As it was last taken over.
    outward: Option<LinkState>,
    inward: Option<LinkState>,
    probes_sent: u64,
    probes_lost: u64,
    /// How often the peer was followed to another endpoint.
    moves: u64,
    rtt: Histogram,
    hop: HopView,
    /// When data last went over it, as reports have it.
    carried_at: Option<Instant>,
    /// The search for the longest datagram it carries; none where the peer does not answer it.
    mtu: Option<MtuSearch>,
    /// As the forwarder is told it.
    mtu_told: Option<LinkMtu>,
    /// When the search wants the clock.
    mtu_at: Option<Instant>,
}

/// All our links.
#[derive(Debug)]
pub(super) struct Links {
    price: Price,
    model: Arc<Model>,
    schedule: Schedule,
    prober: Prober,
    links: BTreeMap<LinkId, Link>,
    by_peer: BTreeMap<NodeId, LinkId>,
    probes: VecDeque<ProbeRequest>,
    mtu_due: BTreeSet<(Instant, LinkId)>,
    mtu_moved: bool,
    /// What they usually lose, outward and inward.
    usual_loss: (Usual, Usual),
    sweep_at: Instant,
    sweeps: u64,
}

impl Links {
    pub(super) fn new(times: &ProbeTimes, price: Price, dice: Dice, now: Instant) -> Self {
        Self {
            price,
            model: Arc::new(Model::shipped()),
            schedule: Schedule::new(schedule(times), dice, now),
            prober: Prober::new(),
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            probes: VecDeque::new(),
            mtu_due: BTreeSet::new(),
            mtu_moved: false,
            usual_loss: <(Usual, Usual)>::default(),
            sweep_at: now.plus(SWEEP),
            sweeps: 0,
        }
    }

    /// Forecasts are corrected by this model from now on, on every link anew.
    pub(super) fn on_model(&mut self, model: Model) {
        self.model = Arc::new(model);
        for link in self.links.values_mut() {
            link.estimate.on_model(Some(self.model.clone()));
        }
    }

    /// A session uses this link from now on. What was measured of it before still holds. `v6`: whether
    /// its underlay is IPv6, where the peer answers size probes.
    pub(super) fn add(&mut self, now: Instant, link: LinkId, peer: NodeId, v6: Option<bool>) {
        self.by_peer.insert(peer, link);
        let held = self.links.entry(link).or_insert_with(|| Link {
            peer,
            up: false,
            up_at: now,
            estimate: Estimate::new(HORIZON, Some(self.model.clone())),
            outward: None,
            inward: None,
            probes_sent: 0,
            probes_lost: 0,
            moves: 0,
            rtt: Histogram::default(),
            hop: HopView::default(),
            carried_at: None,
            mtu: None,
            mtu_told: None,
            mtu_at: None,
        });
        held.estimate.on_usual_loss(self.usual_loss);
        held.up = false;
        if held.mtu.as_ref().map(MtuSearch::is_v6) != v6 {
            held.mtu = v6.map(|v6| MtuSearch::new(v6, SIZE_EVERY_IDLE, now));
        }
        self.arm(link);
    }

    /// No session uses it any more. Returns its peer.
    pub(super) fn remove(&mut self, link: LinkId) -> Option<NodeId> {
        self.schedule.on_gone(link);
        self.prober.on_gone(link);
        let gone = self.links.remove(&link)?;
        gone.mtu_at.map(|at| self.mtu_due.remove(&(at, link)));
        let peer = gone.peer;
        if self.by_peer.get(&peer) == Some(&link) {
            self.by_peer.remove(&peer);
        }
        Some(peer)
    }

    /// Somebody else lost this peer: links to it that are not watched are asked at once.
    pub(super) fn doubt(&mut self, now: Instant, peer: NodeId) {
        let Some(link) = self.by_peer.get(&peer) else { return };
        if self.links.get(link).is_some_and(|l| l.up) {
            self.schedule.on_doubt(now, *link);
        }
    }

    /// The forwarder's verdict; true where it is a new one.
    pub(super) fn on_verdict(&mut self, now: Instant, link: LinkId, up: bool) -> bool {
        let Some(held) = self.links.get_mut(&link).filter(|l| l.up != up) else { return false };
        held.up = up;
        if up {
            held.up_at = now;
            self.schedule.on_interest(now, link, Interest::Idle);
            if let Some(search) = &mut held.mtu {
                search.on_up(now);
            }
        } else {
            held.estimate.on_down();
            self.prober.on_down(link);
            (held.outward, held.inward) = (None, None);
            self.schedule.on_gone(link);
        }
        self.arm(link);
        true
    }

    /// A size probe was answered.
    pub(super) fn on_size_answered(&mut self, now: Instant, link: LinkId, seq: u32, size: u16) {
        if let Some(search) = self.search(link) {
            search.on_answer(now, seq, size);
            self.arm(link);
        }
    }

    /// This machine did not send a datagram of this length.
    pub(super) fn on_too_long(&mut self, now: Instant, link: LinkId, size: u16) {
        if let Some(search) = self.search(link) {
            search.on_refused(now, size);
            self.arm(link);
        }
    }

    /// The peer is at another endpoint.
    pub(super) fn on_moved(&mut self, now: Instant, link: LinkId, v6: bool) {
        if let Some(held) = self.links.get_mut(&link) {
            held.moves += 1;
        }
        if let Some(search) = self.search(link) {
            search.on_moved(now, v6);
            self.arm(link);
        }
    }

    /// The longest datagram that a link carries, as far as is known.
    pub(super) fn mtu(&self, link: LinkId) -> Option<LinkMtu> {
        self.links.get(&link)?.mtu_told
    }

    /// Whether that changed for a link since it was last asked.
    pub(super) fn take_mtu_moved(&mut self) -> bool {
        std::mem::take(&mut self.mtu_moved)
    }

    fn search(&mut self, link: LinkId) -> Option<&mut MtuSearch> {
        self.links.get_mut(&link)?.mtu.as_mut()
    }

    /// Something happened to the search on a link: when it wants the clock, and what it knows.
    fn arm(&mut self, link: LinkId) {
        let Some(held) = self.links.get_mut(&link) else { return };
        let search = held.mtu.as_ref();
        let at = search.filter(|_| held.up).map(|search| search.poll_timeout().at);
        if at != held.mtu_at {
            held.mtu_at.map(|old| self.mtu_due.remove(&(old, link)));
            at.map(|new| self.mtu_due.insert((new, link)));
            held.mtu_at = at;
        }
        let known = search.and_then(MtuSearch::known);
        self.mtu_moved |= known != held.mtu_told;
        held.mtu_told = known;
    }

    /// Size probes that are due go out.
    fn ask_sizes(&mut self, now: Instant) {
        while let Some(&(_, link)) = self.mtu_due.first().filter(|(at, _)| *at <= now) {
            let patience = self.prober.timeout(link).min(SIZE_PATIENCE);
            let Some(held) = self.links.get_mut(&link) else { return };
            let lost = [held.outward, held.inward].into_iter().flatten();
            let lost: f64 = lost.map(|state| state.present.loss.as_f64()).sum();
            let Some(search) = &mut held.mtu else { return };
            if let Some(ask) = search.poll_ask(now, patience, MtuSearch::tries_at(lost)) {
                self.probes.push_back(ProbeRequest { link, seq: ask.seq, size: Some(ask.size) });
            }
            self.arm(link);
        }
    }

    pub(super) fn on_times(&mut self, now: Instant, times: &ProbeTimes) {
        self.schedule.reconfigure(now, schedule(times));
    }

    pub(super) fn on_price(&mut self, price: Price) {
        self.price = price;
    }

    /// What the paths in force make of the links: those they start with, those their backups do.
    pub(super) fn on_routes(
        &mut self,
        now: Instant,
        used: &BTreeSet<LinkId>,
        armed: &BTreeSet<LinkId>,
    ) {
        for (&link, held) in self.links.iter().filter(|(_, l)| l.up) {
            let carries = held.carried_at.is_some_and(|at| now.since(at) < CARRIES);
            let interest = if carries || used.contains(&link) {
                Interest::Used
            } else if armed.contains(&link) {
                Interest::Armed
            } else {
                Interest::Idle
            };
            self.schedule.on_interest(now, link, interest);
        }
        let mut moved = Vec::new();
        for (&link, held) in &mut self.links {
            let watched = used.contains(&link) || armed.contains(&link);
            let every = if watched { SIZE_EVERY } else { SIZE_EVERY_IDLE };
            if held.mtu.as_mut().is_some_and(|search| search.on_interest(now, every)) {
                moved.push(link);
            }
        }
        moved.into_iter().for_each(|link| self.arm(link));
    }

    /// The forwarder measured something. Returns the link where its state moved.
    pub(super) fn on_measured(&mut self, now: Instant, event: &ForwardEvent) -> Option<LinkId> {
        let (link, reading): (LinkId, Reading) = match *event {
            ForwardEvent::ProbeReply {
                link,
                seq,
                sent_at,
                received_at,
                dwell,
                peer_highest,
                peer_heard,
            } => {
                let reply = Reply { seq, sent_at, received_at, dwell, peer_highest, peer_heard };
                (link, self.prober.on_reply(link, &reply)?)
            }
            ForwardEvent::ProbeHeard { link, seq, .. } => {
                if !self.links.contains_key(&link) {
                    return None;
                }
                (link, self.prober.on_heard(link, seq))
            }
            ForwardEvent::HopReport {
                link,
                judged,
                lost,
                residual,
                longest,
                bytes,
                repair_bytes,
                rtt,
                line,
                ..
            } => {
                let held = self.links.get_mut(&link)?;
                held.hop.on_report(now, &line, judged, bytes, repair_bytes);
                if held.up && judged > 0 {
                    held.carried_at = Some(now);
                    self.schedule.on_interest(now, link, Interest::Used);
                }
                let many = lost >= SUSPECT_LOST && lost.saturating_mul(SUSPECT_PART) >= judged;
                // None as long came through: of a thin flow, or of few long packets among short ones, that
                // is all there is to see.
                if many || longest.lost > longest.kept {
                    held.mtu.iter_mut().for_each(|search| search.on_suspect(now));
                    self.arm(link);
                }
                // What was lost while it died, or was down, says nothing of how it is when it lives.
                let held = self.links.get_mut(&link)?;
                if held.up && now.since(held.up_at) >= AFTERMATH {
                    let figures = HopFigures { judged, lost, residual, rtt };
                    held.estimate.on_hop_report(now, &figures);
                }
                return self.take_over(now, link).then_some(link);
            }
            _ => return None,
        };
        let held = self.links.get_mut(&link)?;
        held.estimate.on_reading(now, &reading);
        if let Some(rtt) = reading.rtt {
            held.rtt.observe(rtt);
            self.schedule.on_reading(now, link);
        }
        self.take_over(now, link).then_some(link)
    }

    /// The clock reached `now`: probes that are due go out. Returns links whose state moved.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<LinkId> {
        while let Some(link) = self.schedule.poll_due(now) {
            let seq = self.prober.probe(now, link);
            self.probes.push_back(ProbeRequest { link, seq, size: None });
            if let Some(held) = self.links.get_mut(&link) {
                held.probes_sent += 1;
            }
        }
        self.ask_sizes(now);
        for (link, count) in self.prober.handle_timeout(now) {
            if let Some(held) = self.links.get_mut(&link) {
                held.probes_lost += u64::from(count);
            }
        }
        if now < self.sweep_at {
            return Vec::new();
        }
        self.sweep_at = now.plus(SWEEP);
        self.sweeps += 1;
        if self.sweeps.is_multiple_of(USUAL_SWEEPS) {
            self.learn_usual_loss(now);
        }
        let part = |link: &LinkId| (u64::from(link.0) + self.sweeps).is_multiple_of(SWEEP_PARTS);
        let close = |link: &LinkId| self.schedule.interest(*link) != Some(Interest::Idle);
        let all = self.links.keys().copied();
        let now_due: Vec<LinkId> = all.filter(|link| part(link) || close(link)).collect();
        now_due.into_iter().filter(|&link| self.take_over(now, link)).collect()
    }

    /// What our links usually lose, where that has moved.
    fn learn_usual_loss(&mut self, now: Instant) {
        let usual = |direction| {
            let up = self.links.values().filter(|link| link.up);
            Usual::of(up.map(|link| link.estimate.loss_seen(now, direction)))
        };
        let (outward, inward) = (usual(Direction::Outward), usual(Direction::Inward));
        if self.usual_loss.0.differs(outward) || self.usual_loss.1.differs(inward) {
            self.usual_loss = (outward, inward);
            for link in self.links.values_mut() {
                link.estimate.on_usual_loss(self.usual_loss);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let sweep = Deadline { at: self.sweep_at, why: "link sweep" };
        let probes = Deadline::earlier(self.schedule.poll_timeout(), self.prober.poll_timeout());
        let sizes = self.mtu_due.first().map(|&(at, _)| Deadline { at, why: "size of datagrams" });
        let probes = Deadline::earlier(probes, sizes);
        Deadline::earlier(probes, (!self.links.is_empty()).then_some(sweep))
    }

    pub(super) fn poll_probe(&mut self) -> Option<ProbeRequest> {
        self.probes.pop_front()
    }

    /// Takes over what is known of a link now; true where it moved enough to weigh paths again.
    fn take_over(&mut self, now: Instant, link: LinkId) -> bool {
        let Some(held) = self.links.get_mut(&link).filter(|l| l.up) else { return false };
        let fresh = self.schedule.freshness(link).unwrap_or(Duration::ZERO);
        // Only sending costs: what the peer pays it says itself.
        let (outward, inward) = held.estimate.states(now, fresh, self.price).unzip();
        let moved = differs(held.outward.as_ref(), outward.as_ref());
        if moved {
            held.outward = outward;
        }
        // The inward direction matters to others alone, who hear it from the originator.
        held.inward = inward;
        moved
    }

    /// The other end of a link.
    pub(super) fn peer(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link).map(|held| held.peer)
    }

    /// Whether it carries traffic, or what a path in use starts with.
    pub(super) fn is_used(&self, link: LinkId) -> bool {
        self.schedule.interest(link) == Some(Interest::Used)
    }

    /// What is told of a link.
    pub(super) fn told(&self, link: LinkId) -> Option<LsaLink> {
        let held = self.links.get(&link)?;
        let (up, outward, inward) = (held.up, held.outward, held.inward);
        Some(LsaLink { neighbour: held.peer, up, outward, inward })
    }

    /// Our links as the graph takes them in.
    pub(super) fn own_links(&self) -> Vec<OwnLink> {
        let own = |(&link, l): (&LinkId, &Link)| OwnLink {
            link,
            peer: l.peer,
            up: l.up,
            outward: l.outward,
            inward: l.inward,
        };
        self.links.iter().map(own).collect()
    }

    /// The link to a peer, if it works.
    pub(super) fn up_to(&self, peer: NodeId) -> Option<LinkId> {
        let link = *self.by_peer.get(&peer)?;
        self.links.get(&link).filter(|held| held.up).map(|_| link)
    }

    /// Links that work, with their peers.
    pub(super) fn up(&self) -> impl Iterator<Item = (LinkId, NodeId)> {
        self.links.iter().filter(|(_, l)| l.up).map(|(&link, l)| (link, l.peer))
    }

    /// Adds what was measured to a link's row.
    pub(super) fn fill_row(&self, now: Instant, link: LinkId, row: &mut LinkRow) {
        let Some(held) = self.links.get(&link) else { return };
        row.in_use = self.schedule.interest(link) == Some(Interest::Used);
        row.price_per_gb = self.price.as_f64();
        row.probes_sent = Some(held.probes_sent);
        row.probes_lost = Some(held.probes_lost);
        row.moves = Some(held.moves);
        row.rtt_s = held.rtt;
        row.hop = held.hop.row(now);
        row.mtu = held.mtu.as_ref().and_then(MtuSearch::path_mtu);
        let slot = held.estimate.slot();
        row.rtt_slot_ms = slot.map(|(_, least)| ms(least));
        row.rtt_slots = slot.map_or(0, |(count, _)| count);
        let Some(view) = held.estimate.view(now) else { return };
        row.rtt_least_ms = Some(ms(view.rtt_least));
        row.rtt_median_ms = Some(ms(view.rtt_median));
        row.rtt_p95_ms = Some(ms(view.rtt_p95));
        row.residual_loss_ratio = view.residual.map(|r| r.as_f64());
        let fresh = self.schedule.freshness(link).unwrap_or(Duration::ZERO);
        // What was seen of this link alone, without what is usual.
        let direction = |which, loss: Ratio| {
            let state = held.estimate.state(now, which, Duration::MAX, self.price);
            DirectionRow {
                delay_ms: state.map(|s| ms(s.present.delay)),
                jitter_ms: state.map(|s| ms(s.present.jitter)),
                loss_ratio: state.map(|_| loss.as_f64()),
                age_s: Some(view.age.as_secs_f64()),
                stale: view.age > fresh,
            }
        };
        row.outbound = direction(Direction::Outward, view.loss_outward);
        row.inbound = direction(Direction::Inward, view.loss_inward);
        let skill = held.estimate.skill();
        // Half of a round trip, as everything one way.
        let judged = |us: f64| (skill.judged > 0).then_some(us / 2e3);
        row.forecast = held.estimate.forecast().map(|f| ForecastRow {
            level_ms: ms(f.level) / 2.0,
            low_ms: ms(f.low) / 2.0,
            high_ms: ms(f.high) / 2.0,
            confidence_ratio: f.confidence.as_f64(),
            error_ms: judged(skill.error_us),
            error_persistence_ms: judged(skill.persistence_us),
        });
    }
}

/// Whether a state differs enough from the one taken over to weigh paths again: a delay by 3 % and
/// half a millisecond (one level, as the originator has it), a loss by a tenth and a tenth of a
/// percent, and whatever else a path is judged by.
fn differs(old: Option<&LinkState>, new: Option<&LinkState>) -> bool {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => return old.is_some() != new.is_some(),
    };
    let delay =
        |a: Duration, b: Duration| micros(a).abs_diff(micros(b)) > (micros(a) / 33).max(500);
    let loss = |a: u32, b: u32| a.abs_diff(b) > (a / 10).max(1_000);
    let quality = |a: &crate::quality::LinkQuality, b: &crate::quality::LinkQuality| {
        delay(a.delay, b.delay)
            || micros(a.jitter).abs_diff(micros(b.jitter)) > (micros(a.jitter) / 2).max(1_000)
            || loss(a.loss.as_ppm(), b.loss.as_ppm())
    };
    let expected = match (&old.expected, &new.expected) {
        (Some(a), Some(b)) => quality(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    let residual = match (old.residual, new.residual) {
        (Some(a), Some(b)) => loss(a.as_ppm(), b.as_ppm()),
        (a, b) => a.is_some() != b.is_some(),
    };
    let trusted = |s: &LinkState| s.confidence >= crate::route::cost::CONFIDENT;
    quality(&old.present, &new.present)
        || expected
        || residual
        || trusted(old) != trusted(new)
        || old.price != new.price
}

/// When links are due, at these times.
fn schedule(times: &ProbeTimes) -> ScheduleConfig {
    let defaults = ScheduleConfig::default();
    ScheduleConfig {
        used: times.in_use,
        armed: times.in_use.max(defaults.armed).min(times.stale_in_use / 2),
        idle: times.idle,
        fresh_used: times.stale_in_use,
        fresh_idle: times.stale_idle,
        ..defaults
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
