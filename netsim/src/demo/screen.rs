//! The demo's live picture: redrawn on a terminal, one line at a time elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use crate::netns::traffic::{Quality, SharedLedger};

use super::outcome::{Flows, overhead};
use crate::netns::watch::{Move, Watch};

/// Where the picture goes: standard error when standard output is for JSON.
#[derive(Debug)]
pub struct Screen {
    to_stderr: bool,
    live: bool,
    news: VecDeque<String>,
}

/// News lines kept on the live picture.
const NEWS: usize = 14;

impl Screen {
    /// `json`: standard output is kept for it.
    pub fn new(json: bool) -> Self {
        let live =
            if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_stderr: json, live, news: VecDeque::new() }
    }

    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        if self.to_stderr {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// Something happened: a line of news.
    pub fn news(&mut self, at_s: f64, text: &str) {
        let line = format!("{at_s:6.1} s  {text}");
        if self.live {
            self.news.push_back(line);
            while self.news.len() > NEWS {
                self.news.pop_front();
            }
        } else {
            self.say(&line);
        }
    }

    /// A path moved: what, and the daemon's own explanation.
    pub fn moved(&mut self, watch: &Watch, m: &Move) {
        let name = |p: &Option<Vec<usize>>| p.as_ref().map_or("none".into(), |p| watch.name(p));
        let why = m.why.as_ref().map_or("n/a".into(), |why| {
            let costs: Vec<_> = why
                .candidates
                .iter()
                .take(2)
                .map(|c| format!("{} {:.1} ms ({})", c.path.nodes.join(" > "), c.total_ms, c.basis))
                .collect();
            format!("{}  [{}]", why.why, costs.join("; "))
        });
        self.news(m.at_s, &format!("path {} -> {}: {why}", name(&m.before), name(&m.after)));
    }

    /// Redraws the picture, where there is one.
    pub fn draw(&self, at_s: f64, names: &[String], watch: &Watch, flows: &Flows, now_ns: u64) {
        if !self.live {
            return;
        }
        let mut text = String::from("\x1b[H\x1b[J");
        let extra = overhead(watch).map_or("n/a".into(), |x| format!("{:.0} %", x * 100.0));
        let _ = writeln!(
            text,
            "Thalweg demo  {at_s:5.1} s   pairs over a relay: {}   bytes beyond the data: {extra}\n",
            watch.relayed().len()
        );
        let _ = write!(text, "{:>8}", "RTT ms");
        for name in names {
            let _ = write!(text, "{name:>8}");
        }
        text.push('\n');
        for (from, name) in names.iter().enumerate() {
            let _ = write!(text, "{name:>8}");
            for to in 0..names.len() {
                let rtt = watch.rtt_ms(from, to).map_or("n/a".into(), |ms| format!("{ms:.1}"));
                let _ = write!(text, "{:>8}", if from == to { "-".into() } else { rtt });
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\n{:<28}{:>22}{:>22}",
            "last 3 s: path", "direct p50 ms, loss %", "overlay p50 ms, loss %"
        );
        // Packets sent in the last half second may still be under way.
        let window = (now_ns.saturating_sub(3_500_000_000), now_ns.saturating_sub(500_000_000));
        for (pair, (direct, overlay)) in flows {
            let path = watch.paths.get(pair).map_or_else(
                || format!("{} > {}  n/a", names[pair.0], names[pair.1]),
                |p| watch.name(p),
            );
            let side = |ledger: &SharedLedger| show(&ledger.quality(window.0, window.1));
            let _ = writeln!(text, "{path:<28}{:>22}{:>22}", side(direct), side(overlay));
        }
        text.push('\n');
        for line in &self.news {
            text.push_str(line);
            text.push('\n');
        }
        // A terminal that went away ends the run by a signal, not here.
        if self.to_stderr {
            let _ = std::io::stderr().write_all(text.as_bytes());
        } else {
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
    }
}

fn show(q: &Quality) -> String {
    match (q.p50_ms, q.loss) {
        (Some(p50), Some(loss)) => format!("{p50:.1}  {:5.2}", loss * 100.0),
        (None, Some(_)) => "nothing arrives".into(),
        _ => "n/a".into(),
    }
}
