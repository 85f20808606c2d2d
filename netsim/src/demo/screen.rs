//! The demo's live picture: redrawn on a terminal, one line at a time elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use crate::netns::sys;
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
        let mut text = String::new();
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
            "\n{:<34}{:>24}{:>24}",
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
            let _ = writeln!(text, "{path:<34}{:>24}{:>24}", side(direct), side(overlay));
        }
        text.push('\n');
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let size = sys::terminal_size(if self.to_stderr { stderr.as_fd() } else { stdout.as_fd() });
        let picture = format!("\x1b[H\x1b[J{}", self.fit(&text, size.unwrap_or((160, 50))));
        // A terminal that went away ends the run by a signal, not here.
        if self.to_stderr {
            let _ = stderr.lock().write_all(picture.as_bytes());
        } else {
            let _ = stdout.lock().write_all(picture.as_bytes());
            let _ = stdout.lock().flush();
        }
    }

    /// The picture and as much of the latest news as the terminal holds without scrolling.
    fn fit(&self, text: &str, (columns, rows): (usize, usize)) -> String {
        let picture: Vec<&str> = text.lines().take(rows - 1).collect();
        let room = rows - 1 - picture.len();
        let news = self.news.iter().skip(self.news.len().saturating_sub(room));
        let lines = picture.into_iter().chain(news.map(String::as_str));
        lines.map(|l| l.chars().take(columns).collect::<String>() + "\n").collect()
    }
}

fn show(q: &Quality) -> String {
    match (q.p50_ms, q.loss) {
        (Some(p50), Some(loss)) => format!("{p50:.1}  {:5.2}", loss * 100.0),
        (None, Some(_)) => "nothing arrives".into(),
        _ => "n/a".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_never_scrolls_and_keeps_the_latest_news() {
        let mut screen = Screen { to_stderr: false, live: true, news: VecDeque::new() };
        for i in 0..20 {
            screen.news(f64::from(i), &"x".repeat(200));
        }
        let shown = screen.fit("one\ntwo\nthree\n", (40, 8));
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!((lines.len(), lines[0]), (7, "one"));
        assert!(lines.iter().all(|l| l.chars().count() <= 40));
        assert!(lines[6].contains("19.0 s"));
        assert_eq!(screen.fit("one\ntwo\nthree\n", (40, 2)), "one\n");
    }
}
