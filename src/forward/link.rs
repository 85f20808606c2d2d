//! One link: its keys both ways, its queue, its repair, and the frames it is about to send.
//!
//! Sequence is not nonce: a data frame gets its hop sequence once, when it first leaves the queue;
//! every sending, first or again, takes a fresh counter.

mod narrow;
mod ready;
mod slack;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::buf::{Blocks, TxBatch};
use crate::id::{Class, LinkId, NodeId, StreamId};
use crate::quality::LinkMtu;
use crate::rng::Dice;
use crate::session::keys::{OpenChain, Scope, SealChain, Secret, nonce};
use crate::session::replay::{Allowance, Verdict, Window};
use crate::time::{Deadline, Instant};
use crate::unit::Ratio;
use crate::wire::ack::Ack;
use crate::wire::data::{DataMut, OVERHEAD, ROUTE, hop_aad};
use crate::wire::header::{Clear, RouteHeader, ticks_after, ticks_since};
use crate::wire::{Kind, TAG};

use super::arq::{self, Terms};
use super::budget::Budgets;
use super::coding::{self, CodeTerms, Coder, Uncoder, symbol_of};
use super::event::{ForwardEvent, LineFigures};
use super::forgery::Forgeries;
use super::frame::{Kept, Load};
use super::greet::Greeter;
use super::health::LinkHealth;
use super::pace::{Mode, Pacer};
use super::peer::Peer;
use super::pieces::Joiner;
use super::queue::{Control, FairQueue, QueueLimits};
use super::roam::Roaming;
use super::stats::{DropReason, Stats, count_frame};
pub(super) use ready::seal_own;
use ready::{Ready, open_frame};
use slack::Slacks;

/// Bytes a link keeps for retransmission: 100 ms at 1.3 Gbit/s. Beyond it frames go unprotected.
pub(super) const REPAIR_BYTES: usize = 16 << 20;
/// How often the node hears what the data showed of a link.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Between two marks in time, and how many there may be: beyond a second and a quarter without
/// feedback more of them say nothing new.
const MARK_SPACE: Duration = Duration::from_millis(20);
const MARKS: usize = 64;
/// Loss, and the way one way, from which on what has time for a repair is coded where there is room.
const SPARE_LOSS: f64 = 0.004;
const SPARE_WAY: Duration = Duration::from_millis(5);
/// How long what is coded there waits for its symbols: this, or a twelfth of the round trip. HyStart takes
/// an eighth for a queue, and four milliseconds at least.
const SPARE_WAIT: Duration = Duration::from_millis(2);
/// Symbols for each packet on a full line, at most: twice the loss and this.
const FULL_MORE: f64 = 0.02;
/// Hellos to candidates that may wait: one is asked ten times a second.
const CALLS_LIMIT: usize = 4;
/// Small frames that may wait to be sent. They are answers and questions of ours: few.
const BARE_LIMIT: usize = 256;

/// The sealing half of a link's keys.
#[derive(Debug)]
pub(super) struct Keys {
    seal: SealChain,
    counter: u64,
    open: OpenChain,
    window: Window,
}

impl Keys {
    pub(super) fn new(
        secret: &Secret,
        (own, peer): (NodeId, NodeId),
        (receive_index, transmit_index): (u32, u32),
        now: Instant,
    ) -> Self {
        Self {
            seal: SealChain::new(secret, Scope::hop(own, peer, transmit_index), now),
            counter: 0,
            open: OpenChain::new(secret, Scope::hop(peer, own, receive_index)),
            window: Window::new(),
        }
    }

    /// The window over the counters of received frames.
    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    /// A fresh nonce and the clear header that shows it; `None` once counters are used up.
    fn next(&mut self, now: Instant, kind: Kind, index: u32) -> Option<Clear> {
        if self.counter >= Clear::COUNTER_END {
            return None;
        }
        let (_, epoch) = self.seal.next(now);
        let clear = Clear { kind, epoch, index, counter: self.counter };
        self.counter += 1;
        Some(clear)
    }
}

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) peer: NodeId,
    pub(super) generation: u64,
    pub(super) endpoint: SocketAddr,
    /// The endpoint the node named last: only another one replaces what roaming found.
    pub(super) told: SocketAddr,
    pub(super) roaming: Roaming,
    /// Hellos for candidates, and where those are.
    calls: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) receive_index: u32,
    pub(super) transmit_index: u32,
    pub(super) keys: Keys,
    pub(super) queue: FairQueue<Load>,
    pub(super) sender: arq::Sender<Kept>,
    pub(super) receiver: arq::Receiver,
    coder: Coder,
    slacks: Slacks,
    /// What repair of each class of ours may cost.
    pub(super) budgets: Budgets,
    /// DSCP of the newest source symbol.
    coded_dscp: u8,
    /// Made when the first source symbol comes.
    pub(super) uncoder: Option<Box<Uncoder>>,
    pub(super) pacer: Pacer,
    bare: VecDeque<(Kind, Vec<u8>)>,
    /// What is known of the longest datagram that comes through.
    mtu: Option<LinkMtu>,
    /// The longest frame that is sent in one piece.
    whole: usize,
    /// The next frame that is sent in pieces.
    cut: u32,
    /// Made when the first piece comes.
    pub(super) joiner: Option<Box<Joiner>>,
    pub(super) greeter: Greeter,
    pub(super) health: LinkHealth,
    pub(super) forgeries: Forgeries,
    /// Hop sequences and when they were sent, a few per round trip: by them feedback says what it
    /// confirms.
    marks: VecDeque<(u32, Instant)>,
    /// Highest number among the peer's probes, and how many came.
    pub(super) probes_heard: (u32, u32),
    /// When the last report was made; what came since is in the next.
    reported_at: Instant,
    reported: (u64, u64),
    /// Whether it waits in the forwarder's list of links with something to send.
    pub(super) listed: bool,
}

impl Link {
    /// A link that has carried nothing yet.
    pub(super) fn new(
        id: LinkId,
        peer: NodeId,
        generation: u64,
        endpoint: SocketAddr,
        (receive_index, transmit_index): (u32, u32),
        keys: Keys,
        now: Instant,
    ) -> Self {
        Self {
            id,
            peer,
            generation,
            endpoint,
            told: endpoint,
            roaming: Roaming::default(),
            calls: VecDeque::new(),
            receive_index,
            transmit_index,
            keys,
            queue: FairQueue::new(QueueLimits::default()),
            sender: arq::Sender::new(REPAIR_BYTES),
            receiver: arq::Receiver::new(now),
            coder: Coder::default(),
            slacks: Slacks::default(),
            budgets: Budgets::default(),
            coded_dscp: 0,
            uncoder: None,
            pacer: Pacer::new(now),
            bare: VecDeque::new(),
            mtu: None,
            whole: usize::MAX,
            cut: 0,
            joiner: None,
            greeter: Greeter::default(),
            health: LinkHealth::new(now),
            forgeries: Forgeries::default(),
            marks: VecDeque::new(),
            probes_heard: (0, 0),
            reported_at: now,
            reported: (0, 0),
            listed: false,
        }
    }

    /// A link that was taken away and comes back in the same session. What waited is gone; it has
    /// to prove itself anew.
    pub(super) fn revived(mut self, id: LinkId, endpoint: SocketAddr, now: Instant) -> Self {
        (self.id, self.endpoint, self.told) = (id, endpoint, endpoint);
        self.calls.clear();
        self.queue = FairQueue::new(QueueLimits::default());
        self.bare.clear();
        self.pacer = Pacer::new(now);
        self.health = LinkHealth::new(now);
        self.listed = false;
        self
    }

    /// Queues a small frame, sealed whole, for the next turn. `false` where too many wait.
    pub(super) fn push_bare(&mut self, kind: Kind, body: &[u8]) -> bool {
        self.push_bare_owned(kind, body.to_vec())
    }

    pub(super) fn push_bare_owned(&mut self, kind: Kind, body: Vec<u8>) -> bool {
        let fits = self.bare.len() < BARE_LIMIT;
        if fits {
            self.bare.push_back((kind, body));
        }
        fits
    }

    /// Asks the candidate whether the peer is there.
    pub(super) fn call(&mut self, now: Instant, boot: u64, dice: &mut Dice) {
        if let Some((to, hello)) = self.roaming.ask(now, boot, dice)
            && self.calls.len() < CALLS_LIMIT
        {
            self.calls.push_back((to, hello.to_bytes().to_vec()));
        }
    }

    /// The peer has answered from elsewhere: the link leads there now, over another line for all that
    /// is known.
    pub(super) fn move_to(&mut self, now: Instant, endpoint: SocketAddr) {
        self.endpoint = endpoint;
        self.pacer = Pacer::new(now);
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.bare.is_empty() || !self.calls.is_empty()
    }

    /// Appends what is to be sent, up to about `room` bytes in the batch: repairs, then the queue,
    /// then small frames, which so ride at the end of a run. Returns whether something is left.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        out: &mut TxBatch,
        room: usize,
        peers: &mut BTreeMap<NodeId, Peer>,
        blocks: &mut Blocks,
        stats: &mut Stats,
    ) -> bool {
        while let Some(ack) = self.receiver.poll_feedback(now) {
            let mut body = Vec::with_capacity(Ack::MAX);
            ack.write(&mut body);
            if !self.push_bare_owned(Kind::Ack, body) {
                break;
            }
        }
        self.pace(now);
        while out.bytes() < room && self.pacer.has_credit(now) {
            let budgets = &mut self.budgets;
            let affords = |kept: &Kept, bytes: usize| {
                kept.class.is_none_or(|c| budgets.admits(now, usize::from(c.0), bytes))
            };
            let Some((seq, kept)) = self.sender.poll_repair_within(now, affords) else { break };
            let Some(clear) = self.keys.next(now, Kind::Data, self.transmit_index) else { break };
            let Some(mut frame) = blocks.keep(&kept.bytes) else { break };
            let mut route = kept.route;
            patch(&mut route, now, kept.arrived, kept.age, seq, (false, false));
            seal_hop(&self.keys, clear, &mut frame, &route);
            let whole = frame.len() as u64;
            let tos = kept.dscp << 2 | RouteHeader::ecn_of(&route);
            self.emit(now, out, tos, frame.freeze(), stats);
            self.pacer.on_sent(whole as usize);
            let counted = stats.link_mut(self.id);
            counted.frames_sent += 1;
            counted.retransmits += 1;
            counted.sent.repair += whole;
        }
        self.send_symbols(now, out, stats);
        let before = self.queue.stats();
        let one_way = self.sender.round_trip().one_way();
        let soonest = now.plus(one_way);
        while out.bytes() < room
            && !self.queue.is_empty()
            && self.pacer.admits(now, self.sender.in_flight())
        {
            let Some((load, _)) = self.queue.front(now) else { break };
            let Some(clear) = self.keys.next(now, Kind::Data, self.transmit_index) else { break };
            let (made, more) = match load {
                Load::Relayed(frame) => (Ok(open_frame(frame)), false),
                Load::Own(own) => {
                    let made = seal_own(own, now, peers, blocks, stats);
                    let more = own.packets.left() > 0 && made.is_ok();
                    (made, more)
                }
            };
            let Ready { mut bytes, mut route, class, arrived, age, beyond, dscp } = match made {
                Ok(ready) => ready,
                Err((reason, packets)) => {
                    stats.drop_many(reason, packets as u64);
                    self.queue.served(0, false);
                    continue;
                }
            };
            let whole = bytes.len();
            self.queue.served(whole, more);
            let (seq, asks) = (self.sender.next_sequence(), self.sender.asks_feedback(now));
            let mut terms = terms(&route, soonest, arrived, age, beyond);
            // Only of what wants order the line and its loss are asked, for each packet.
            if let Some(terms) = terms.as_mut().filter(|terms| terms.twice) {
                terms.twice = self.pacer.loses_by_chance(now) && self.sender.copies_pay();
            }
            let coded = terms.and_then(|terms| self.code(now, &route, one_way, terms));
            // What a class cannot pay for is not planned for, at whose cost ever.
            let paid = terms.is_none() || self.affords(now, class, whole, coded.is_some());
            let uncovered = coded.is_some() && !paid;
            let coded = coded.filter(|_| paid);
            patch(&mut route, now, arrived, age, seq, (asks, coded.is_some()));
            seal_hop(&self.keys, clear, &mut bytes, &route);
            let bytes = bytes.freeze();
            let tos = dscp << 2 | RouteHeader::ecn_of(&route);
            self.emit(now, out, tos, bytes.clone(), stats);
            self.pacer.on_sent(whole);
            let counted = stats.link_mut(self.id);
            counted.frames_sent += 1;
            count_frame(&mut counted.sent, Kind::Data, whole, whole - OVERHEAD);
            if let Some(coded) = coded {
                let symbol = symbol_of(&route, &bytes);
                self.coder.push(now, (seq, class), symbol, coded, one_way, self.sender.line());
            }
            if let Some(class) = class {
                self.budgets.on_sent(usize::from(class.0), whole);
            }
            let kept = Kept { bytes, route, class, arrived, age, dscp };
            let symbols = coded.map(|coded| coded.terms.by.minus(one_way).since(now));
            self.sender.push(now, whole, terms, Some(kept), symbols);
            if !paid {
                self.sender.on_unpaid(seq, uncovered);
            }
            self.mark(now, seq);
            if coded.is_some() {
                self.coded_dscp = dscp;
                self.send_symbols(now, out, stats);
            }
        }
        self.send_symbols(now, out, stats);
        let after = self.queue.stats();
        stats.drop_many(DropReason::QueueLate, after.dropped_late - before.dropped_late);
        stats.drop_many(DropReason::QueueSignal, after.dropped_signal - before.dropped_signal);
        while out.bytes() < room {
            let Some((kind, body)) = self.bare.pop_front() else { break };
            let Some(clear) = self.keys.next(now, kind, self.transmit_index) else { break };
            let frame = self.seal_bare(clear, &body);
            let whole = frame.len();
            if kind == Kind::Probe {
                // A size probe asks whether its own length comes through.
                out.push(self.id, self.endpoint, 0, frame);
            } else {
                self.emit(now, out, 0, frame, stats);
            }
            self.pacer.on_sent(whole);
            let counted = stats.link_mut(self.id);
            counted.frames_sent += 1;
            count_frame(&mut counted.sent, kind, whole, 0);
        }
        while out.bytes() < room {
            let Some((to, body)) = self.calls.pop_front() else { break };
            let index = self.transmit_index;
            let Some(clear) = self.keys.next(now, Kind::Hello, index) else { break };
            let frame = self.seal_bare(clear, &body);
            let counted = stats.link_mut(self.id);
            counted.frames_sent += 1;
            count_frame(&mut counted.sent, Kind::Hello, frame.len(), 0);
            out.push(self.id, to, 0, frame);
        }
        self.pacer.on_rest(!self.queue.is_empty() || self.coder.owes(now));
        let counted = stats.link_mut(self.id);
        counted.repair_late = self.sender.counts().too_late;
        counted.marked += after.marked - before.marked;
        counted.pace = self.pacer.stats();
        self.has_work()
    }

    /// How a frame is to be coded, if it is: where no round could save it; and where order is wanted on
    /// a lossy line, although there is time to send it again. Else all behind a loss waits for a round
    /// trip.
    ///
    /// Where the line has room, symbols come fast: a TCP that begins takes a wait for a queue and stops
    /// its doubling (HyStart, RFC 9406). Where it is full, they are few and over many: what sending again
    /// costs, and some per cent. Without them two or three losses of one packet are always under way,
    /// and the round trip is three of the line's. `None` also where symbols bring nothing.
    fn code(
        &mut self,
        now: Instant,
        route: &[u8; RouteHeader::LEN],
        one_way: Duration,
        terms: Terms,
    ) -> Option<CodeTerms> {
        if self.sender.wants_code(now, &terms) || self.doubts_round(now, route, one_way, &terms) {
            // The code's plan is exact enough to need no half in reserve, unlike that of rounds.
            let terms = Terms { target: 2.0 * self.sender.aim(terms.target), ..terms };
            return Some(CodeTerms { terms, most: coding::MOST });
        }
        if one_way < SPARE_WAY || !RouteHeader::ordered_of(route) {
            return None;
        }
        let loss = self.sender.line().rate();
        if loss < SPARE_LOSS {
            return None;
        }
        // What symbols take where there is room, about.
        let (wait, most) = if self.pacer.has_room(now, 2.0 * loss + 0.03) {
            ((one_way / 6).max(SPARE_WAIT), coding::MOST)
        } else if !self.sender.loses_twice() {
            return None;
        } else {
            (one_way * 3 / 2, 2.0 * loss + FULL_MORE)
        };
        let by = now.plus(one_way + wait).min(terms.by);
        // A round trip should mostly pass without any wait: of what is under way less than one is lost.
        let target = (0.25 / self.sender.under_way()).min(loss / 8.0).max(terms.target);
        let coded = CodeTerms { terms: Terms { by, target, ..terms }, most };
        // Where symbols could not help, in holes that are longer than they can bridge, a loss must not
        // wait for them.
        let helps = self.coder.rate(self.sender.line(), by.minus(one_way).since(now), &coded) > 0.0;
        helps.then_some(coded)
    }

    /// Whether rounds leave too much of what such packets lose.
    fn doubts_round(
        &mut self,
        now: Instant,
        route: &[u8; RouteHeader::LEN],
        one_way: Duration,
        terms: &Terms,
    ) -> bool {
        if self.sender.line().is_clean() {
            return false;
        }
        let slack = terms.by.since(now.plus(one_way));
        let usual = self.slacks.usual(route, slack);
        self.sender.doubts_round(slack.max(usual), terms.target)
    }

    /// Whether a frame's class could pay for its repair now: for a symbol where it is to be coded.
    fn affords(&mut self, now: Instant, class: Option<Class>, whole: usize, coded: bool) -> bool {
        let Some(class) = class else { return true };
        let coder = &self.coder;
        let symbol = || Clear::LEN + coder.body_len(whole) + TAG;
        self.budgets.affords(now, class.0.into(), || if coded { symbol() } else { whole })
    }

    /// Sends the repair symbols that are due, within what all repair may take, on the account of the
    /// class that owes most.
    fn send_symbols(&mut self, now: Instant, out: &mut TxBatch, stats: &mut Stats) {
        loop {
            // Without credit they stay owed, before what else waits: on a full line credit is gone with
            // each packet.
            if !self.coder.owes(now) || !self.pacer.has_credit(now) {
                break;
            }
            let Some((class, plan)) = self.coder.poll_symbol(now) else { break };
            let whole = Clear::LEN + plan.body_len() + TAG;
            let budgets = &mut self.budgets;
            let mut refused = false;
            let affords = || {
                refused = class.is_some_and(|c| !budgets.admits(now, usize::from(c.0), whole));
                !refused
            };
            if !self.sender.admits_symbol(now, whole, affords) {
                if refused {
                    let theirs = |kept: &Kept| kept.class == class;
                    self.sender.on_symbol_refused(plan.sequences(), theirs);
                }
                continue;
            }
            let mut body = Vec::with_capacity(whole);
            plan.append(&mut body);
            let Some(clear) = self.keys.next(now, Kind::Repair, self.transmit_index) else { break };
            let frame = self.seal_bare(clear, &body);
            self.emit(now, out, self.coded_dscp << 2, frame, stats);
            self.pacer.on_symbol_sent(whole);
            let counted = stats.link_mut(self.id);
            counted.frames_sent += 1;
            counted.symbols += 1;
            count_frame(&mut counted.sent, Kind::Repair, whole, 0);
        }
    }

    /// What the rate in force asks of the queue and of repair.
    fn pace(&mut self, now: Instant) {
        self.queue.set_control(self.pacer.control().unwrap_or(Control::DEFAULT));
        // Under a rate, repair takes its share of that; without one, it must not add to a queue.
        let standing = match self.pacer.mode() {
            Mode::Free if self.pacer.is_congested(now) => Duration::MAX,
            Mode::Free => self.queue.standing(),
            Mode::Steady | Mode::Shared => Duration::ZERO,
        };
        self.sender.on_standing(standing);
    }

    /// What the sender has learnt goes to the pacer.
    pub(super) fn heed_line(&mut self, now: Instant) {
        let heard = self.sender.poll_heard();
        self.pacer.on_heard(now, &heard, self.sender.in_flight());
    }

    fn seal_bare(&self, clear: Clear, body: &[u8]) -> Bytes {
        let header = clear.to_bytes();
        let mut frame = Vec::with_capacity(Clear::LEN + body.len() + TAG);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(body);
        let key = self.keys.seal.current();
        let nonce = nonce(clear.lane(), StreamId(0), clear.counter);
        let tag = key.seal_in_place(nonce, &header, &mut frame[Clear::LEN..]);
        frame.extend_from_slice(&tag);
        frame.into()
    }

    /// Opens a received frame where it lies: of a data frame the route header, of any other all
    /// that follows the clear header but the tag.
    ///
    /// # Errors
    /// Why it is dropped.
    pub(super) fn open(
        &mut self,
        now: Instant,
        clear: &Clear,
        datagram: &mut [u8],
        spare: &mut Allowance,
    ) -> Result<(), DropReason> {
        let keys = &mut self.keys;
        verdict(keys.window.check(clear.counter))?;
        let Some((key, turn)) = keys.open.key(clear.epoch, now) else {
            return Err(DropReason::UnknownEpoch);
        };
        let nonce = nonce(clear.lane(), StreamId(0), clear.counter);
        let (header, body) =
            datagram.split_first_chunk_mut::<{ Clear::LEN }>().ok_or(DropReason::Malformed)?;
        let opened = if clear.kind == Kind::Data {
            let parts = DataMut::split(body).map_err(|_| DropReason::Malformed)?;
            let aad = hop_aad(header, parts.end_tag);
            key.open_in_place(nonce, &aad, parts.route, parts.hop_tag)
        } else {
            let (text, tag) = body.split_last_chunk_mut::<TAG>().ok_or(DropReason::Malformed)?;
            key.open_in_place(nonce, header, text, tag)
        };
        opened.map_err(|_| DropReason::BadTag)?;
        keys.open.on_authentic(turn, now);
        verdict(keys.window.accept(clear.counter, now, spare))
    }

    /// The peer has answered what we sent at this time.
    pub(super) fn confirm(&mut self, now: Instant, sent_at: Instant) {
        self.keys.seal.confirm(sent_at);
        self.health.on_confirmed(now, sent_at);
    }

    /// A round trip was measured outside the data.
    pub(super) fn on_round_trip(&mut self, now: Instant, rtt: Duration) {
        self.health.on_round_trip(now, rtt);
        self.sender.on_round_trip(now, rtt);
        self.receiver.on_round_trip(rtt);
    }

    /// When the clock is wanted for this link.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let repair = Deadline::earlier(self.sender.poll_timeout(), self.receiver.poll_timeout());
        let repair = Deadline::earlier(repair, self.pacer.poll_timeout());
        let repair = Deadline::earlier(repair, self.coder.poll_timeout());
        let told = Deadline::earlier(self.health.poll_timeout(), self.report_at());
        Deadline::earlier(repair, told)
    }

    /// Whether symbols for a tail are due.
    pub(super) fn has_symbols(&self, now: Instant) -> bool {
        self.coder.poll_timeout().is_some_and(|due| due.at <= now)
    }

    /// A data frame was sent for the first time.
    fn mark(&mut self, now: Instant, seq: u32) {
        self.health.on_sent(now);
        let apart = self.marks.back().is_none_or(|(_, at)| now >= at.plus(MARK_SPACE));
        if apart && self.marks.len() < MARKS {
            self.marks.push_back((seq, now));
        }
    }

    /// Feedback came; what it confirms counts for the link's health.
    pub(super) fn on_feedback(&mut self, now: Instant, ack: &Ack) {
        self.sender.on_feedback(now, ack);
        self.heed_line(now);
        let mut confirmed = None;
        while let Some(&(seq, at)) = self.marks.front() {
            // Serial numbers: not beyond the highest that came.
            if ack.highest.wrapping_sub(seq) >= 1 << 31 {
                break;
            }
            confirmed = Some(at);
            self.marks.pop_front();
        }
        if let Some(sent_at) = confirmed {
            self.confirm(now, sent_at);
        }
        if let Some(rtt) = self.sender.round_trip().smoothed() {
            self.receiver.on_round_trip(rtt);
        }
    }

    /// What the data showed since the last report; `None` before its time, or where nothing went.
    pub(super) fn report(&mut self, now: Instant) -> Option<ForwardEvent> {
        if now.since(self.reported_at) < REPORT_EVERY {
            return None;
        }
        let span = now.since(self.reported_at);
        self.reported_at = now;
        if self.fates() == self.reported {
            return None;
        }
        self.reported = self.fates();
        let (counts, longest) = (self.sender.take_report(), self.sender.take_longest());
        let rtt = self.sender.round_trip();
        let model = self.sender.line();
        let known = model.frames() >= 1.0;
        let line = LineFigures {
            loss: known.then(|| Ratio::from_f64(model.rate())),
            loss_error: known.then(|| Ratio::from_f64(model.error())),
            burst: (model.rate() > 0.0).then(|| model.hole()),
            rtt: rtt.smoothed(),
            rtt_spread: rtt.smoothed().map(|_| rtt.deviation()),
        };
        Some(ForwardEvent::HopReport {
            link: self.id,
            span,
            sent: counts.sent,
            judged: counts.judged,
            lost: counts.lost.saturating_sub(counts.local_drops),
            residual: counts.residual,
            longest,
            bytes: counts.bytes,
            repair_bytes: counts.repair_bytes,
            rtt: rtt.least(),
            line,
        })
    }

    /// How many frames were sent, and how many judged.
    fn fates(&self) -> (u64, u64) {
        let counts = self.sender.counts();
        (counts.sent, counts.judged)
    }

    /// When the next report is due: only where something went since the last.
    fn report_at(&self) -> Option<Deadline> {
        let at = self.reported_at.plus(REPORT_EVERY);
        (self.fates() != self.reported).then_some(Deadline { at, why: "hop report" })
    }

    /// What a packet ages by crossing this link: half its least round trip. Nothing while unknown.
    pub(super) fn transit(&self) -> Duration {
        self.sender.round_trip().one_way()
    }
}

fn verdict(verdict: Verdict) -> Result<(), DropReason> {
    match verdict {
        Verdict::New => Ok(()),
        Verdict::Duplicate => Err(DropReason::Replayed),
        Verdict::TooOld => Err(DropReason::TooOld),
    }
}

/// By when a frame must have reached the next node to be of use, and how surely; `None` where nobody
/// waits for it. `soonest`: when it does if nothing is lost.
///
/// What is left beyond the way itself is shared over the hops. Most packets are lost on one hop at
/// most, so this one may use more than its even share: `1 / (1 + 0.4 · hops after it)`, 56 % of all
/// where two follow. What it leaves the others use.
fn terms(
    route: &[u8; RouteHeader::LEN],
    soonest: Instant,
    arrived: Instant,
    age: u16,
    beyond: u16,
) -> Option<Terms> {
    let budget = RouteHeader::budget_of(route);
    if budget <= age {
        return None;
    }
    let by = ticks_after(arrived, (budget - age).saturating_sub(beyond));
    let (hops, after) = RouteHeader::hops_of(route);
    let by = match u64::from(after) {
        // The last hop has all that is left.
        0 => by,
        after => {
            let slack = by.micros_since(soonest);
            Instant::from_micros(by.as_micros() - slack + slack * 5 / (5 + 2 * after))
        }
    };
    let target = RouteHeader::residual_of(route).as_f64() / f64::from(hops.max(1));
    Some(Terms { by, target, twice: RouteHeader::ordered_of(route) })
}

/// Writes into an open route header what changes with every sending.
fn patch(
    route: &mut [u8; RouteHeader::LEN],
    now: Instant,
    arrived: Instant,
    age: u16,
    seq: u32,
    (asks, coded): (bool, bool),
) {
    RouteHeader::patch_hop(route, seq, asks, coded);
    RouteHeader::patch_age(route, age.saturating_add(ticks_since(now, arrived)));
}

/// Seals a data frame's route header for this hop under a fresh counter.
fn seal_hop(keys: &Keys, clear: Clear, frame: &mut [u8], route: &[u8; RouteHeader::LEN]) {
    let header = clear.to_bytes();
    frame[..ROUTE].copy_from_slice(&header);
    let parts = DataMut::split(&mut frame[ROUTE..]).expect("a queued frame is a data frame");
    *parts.route = *route;
    let aad = hop_aad(&header, parts.end_tag);
    let nonce = nonce(clear.lane(), StreamId(0), clear.counter);
    *parts.hop_tag = keys.seal.current().seal_in_place(nonce, &aad, parts.route);
}
