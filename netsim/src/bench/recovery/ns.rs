//! Cells of the table with real daemons: sockets, TUN devices and a clock that is nobody's to stop.
//!
//! A flow from A to B through the tunnel, over an emulated line that loses both ways. What the virtual
//! floor shows over a million packets is shown here over tens of thousands: this tells whether the
//! program keeps what its machines promise. Delays hold what the machine itself adds (some tenths of a
//! millisecond where it is quiet), so that a tight deadline is missed a little more often.

use std::net::SocketAddr;
use std::time::Duration;

use thalweg::wire::data::OVERHEAD;

use super::super::Sheet;
use super::super::pair::{LineSpec, Pair, Reading};
use super::chain::{OUTER, Outcome};
use super::{CHOICE, Cell, Lengths, holes, iid, note};
use crate::netns::stop::Stop;
use crate::netns::traffic::{FlowSpec, Ledger, Traffic};

const PORT: u16 = 9000;

const FULL: Lengths = Lengths { settle: Duration::from_secs(5), measure: Duration::from_secs(30) };
const QUICK: Lengths = Lengths { settle: Duration::from_secs(2), measure: Duration::from_secs(4) };

/// The cells with a figure to reach that have one hop, and slower flows.
fn cells(quick: bool) -> Vec<Cell> {
    let mut cells: Vec<Cell> = CHOICE.into_iter().filter(|cell| cell.hops == 1).collect();
    cells.extend([iid(0.05, 40, 100, 100), holes(8, 40, 50, 100)]);
    if quick {
        // Clean; two rounds, none; holes; slow flows.
        cells = [0, 1, 3, 7, 11, 12].map(|i| cells[i]).to_vec();
    }
    cells
}

/// Measures every wanted cell once.
pub(super) fn run(
    sheet: &mut Sheet,
    wanted: &dyn Fn(&str) -> bool,
    quick: bool,
    seed: u64,
    stop: &Stop,
) {
    let lengths = if quick { QUICK } else { FULL };
    for cell in cells(quick).into_iter().filter(|cell| wanted(&cell.name())) {
        let found = measure(&cell, lengths, seed, stop);
        if stop.asked() {
            return;
        }
        match found {
            Ok(outcome) => note(sheet, &cell, &outcome.unwrap_or_default()),
            Err(error) => {
                eprintln!("{}: {error:#}", cell.name());
                for metric in ["residual", "overhead", "framing", "feedback_bytes"] {
                    sheet.note(&cell.name(), metric, "share", None);
                }
            }
        }
    }
}

fn measure(
    cell: &Cell,
    lengths: Lengths,
    seed: u64,
    stop: &Stop,
) -> anyhow::Result<Option<Outcome>> {
    let rtt = Duration::from_millis(cell.rtt_ms);
    let line = LineSpec { rtt, params: cell.line() };
    let deadline = Duration::from_millis(cell.deadline_ms);
    let pair = Pair::with_tunnel(&line, &class(deadline, Duration::ZERO), seed)?;
    let way = pair.inside();
    let flow = FlowSpec {
        from: way.from,
        to: SocketAddr::new(way.to, PORT),
        pps: cell.pps as u32,
        size: cell.load(0).payload,
        dscp: 0,
        payload: Vec::new(),
        span: None,
    };
    let traffic = Traffic::start(&[(way.a, way.b, flow)])?;
    if stop.wait(lengths.settle) {
        return Ok(None);
    }
    pair.forget();
    let before = pair.read(&cell.name())?;
    if stop.wait(lengths.measure) {
        return Ok(None);
    }
    let after = pair.read(&cell.name())?;
    let ledgers = traffic.finish(deadline + rtt + Duration::from_millis(200));
    let mut outcome = Outcome::empty();
    ledgers[0].with(|ledger| {
        count(ledger, (before.at_ns(), after.at_ns()), rtt / 2, deadline, &mut outcome);
    });
    bytes(&before, &after, &mut outcome)?;
    Ok(Some(outcome))
}

/// The one class of both daemons.
pub(super) fn class(budget: Duration, reorder: Duration) -> toml::Table {
    let ms = |span: Duration| format!("{}ms", span.as_millis());
    let (budget, reorder) = (ms(budget), ms(reorder));
    toml::toml! {
        [[class]]
        name = "bench"
        repair_budget = budget
        reorder = reorder
    }
}

fn count(
    ledger: &Ledger,
    window: (u64, u64),
    one_way: Duration,
    deadline: Duration,
    outcome: &mut Outcome,
) {
    let quality = ledger.quality(window.0, window.1);
    let delays = ledger.delays_us(&[window]);
    let limit_us = (one_way + deadline).as_micros();
    let in_time = delays.iter().filter(|us| u128::from(**us) <= limit_us).count() as u64;
    outcome.sent = quality.sent;
    outcome.missing = quality.sent - in_time;
    outcome.twice = quality.duplicates;
    for us in delays {
        outcome.note_delay(Duration::from_micros(us.into()).saturating_sub(one_way));
    }
}

/// Bytes with outer headers. Frames of one flow are of one length, so repair has as much of them as
/// what was sent first; frames of feedback are what came back on the line besides probes.
fn bytes(before: &Reading, after: &Reading, outcome: &mut Outcome) -> anyhow::Result<()> {
    let counted = || Some((after.sent_since(before)?, after.back_since(before)?));
    let Some((sent, back)) = counted() else { anyhow::bail!("a daemon does not answer") };
    let plain = sent.data + sent.framing;
    outcome.inner = sent.data;
    outcome.first = plain + sent.framing / OVERHEAD as u64 * OUTER as u64;
    let scale = outcome.first as f64 / plain.max(1) as f64;
    outcome.repair = (sent.repair as f64 * scale).round() as u64;
    let frames = after.back_line.offered - before.back_line.offered;
    let probes = after.probes.saturating_sub(before.probes);
    outcome.feedback = back.feedback + frames.saturating_sub(probes) * OUTER as u64;
    Ok(())
}
