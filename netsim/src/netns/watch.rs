//! What the daemons say: asked once a second through their admin sockets, compared with the last
//! time, so that every move of a path is noticed and explained in the daemon's own words.

use std::collections::BTreeMap;

use thalweg::report::{Answer, Bytes, Command, Explanation, PathView, Report};

use super::fleet::Fleet;

/// A path as site indices, both ends included.
pub type Path = Vec<usize>;

/// One path that moved.
#[derive(Clone, Debug)]
pub struct Move {
    /// When, seconds from the flows' start.
    pub at_s: f64,
    /// Source and destination.
    pub pair: (usize, usize),
    /// What was in force.
    pub before: Option<Path>,
    /// What is now.
    pub after: Option<Path>,
    /// The source's explanation, if it gave one.
    pub why: Option<Explanation>,
}

/// What the overlay sent, and for what, by the daemons' own count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Bytes by kind, all links of all nodes; none where nobody counted them.
    pub bytes: Option<Bytes>,
    /// Packets that applications handed over, and of those, packets sent over a relay.
    pub packets: Option<(u64, u64)>,
}

/// The latest answers of all daemons, and what followed from their differences.
#[derive(Debug)]
pub struct Watch {
    names: Vec<String>,
    class: String,
    /// The newest report of each node's present process.
    pub reports: Vec<Option<Report>>,
    /// Paths in force, as far as known.
    pub paths: BTreeMap<(usize, usize), Path>,
    /// Moves so far.
    pub moves: Vec<Move>,
    /// Counters of processes that ended.
    retired: Spent,
}

impl Watch {
    /// Watches the paths of one class between the named nodes.
    pub fn new(names: Vec<String>, class: &str) -> Self {
        let reports = names.iter().map(|_| None).collect();
        Self {
            names,
            class: class.to_owned(),
            reports,
            paths: BTreeMap::new(),
            moves: Vec::new(),
            retired: Spent::default(),
        }
    }

    /// Asks everybody. Gives the number of moves that are new.
    pub fn ask(&mut self, fleet: &Fleet, at_s: f64) -> usize {
        let before = self.moves.len();
        for site in 0..self.names.len() {
            // One answer that does not come leaves the last; a process that ended was retired.
            if let Some(report) = fleet.report(site) {
                self.note(site, report, at_s);
            }
        }
        for i in before..self.moves.len() {
            let (from, to) = self.moves[i].pair;
            let question = Command::Explain {
                destination: self.names[to].clone(),
                class: Some(self.class.clone()),
                dscp: None,
                protocol: None,
                port: None,
            };
            if let Ok(Answer::Explain(why)) = fleet.ask(from, &question) {
                self.moves[i].why = Some(*why);
            }
        }
        self.moves.len() - before
    }

    fn note(&mut self, site: usize, report: Report, at_s: f64) {
        for (to, name) in self.names.iter().enumerate().filter(|(to, _)| *to != site) {
            let row = report.paths.iter().find(|r| r.destination == *name && r.class == self.class);
            let view = row.and_then(|r| if r.on_backup { &r.backup } else { &r.primary }.as_ref());
            let after = view.and_then(|v| self.sites_of(site, v));
            let before = match &after {
                Some(path) => self.paths.insert((site, to), path.clone()),
                None => self.paths.remove(&(site, to)),
            };
            // The first path is no move.
            if before != after && before.is_some() {
                self.moves.push(Move { at_s, pair: (site, to), before, after, why: None });
            }
        }
        self.reports[site] = Some(report);
    }

    fn sites_of(&self, from: usize, view: &PathView) -> Option<Path> {
        let mut path = vec![from];
        for node in &view.nodes {
            path.push(self.names.iter().position(|n| n == node)?);
        }
        (path.len() > 1).then_some(path)
    }

    /// A node's process is about to end: asks once more and keeps its counters.
    pub fn retire(&mut self, fleet: &Fleet, site: usize) {
        let last = fleet.report(site).or_else(|| self.reports[site].take());
        self.reports[site] = None;
        if let Some(report) = last {
            self.retired.add(&report);
        }
    }

    /// Everything spent so far.
    pub fn spent(&self) -> Spent {
        let mut spent = self.retired;
        for report in self.reports.iter().flatten() {
            spent.add(report);
        }
        spent
    }

    /// How many nodes a node has a path to, by its own word.
    pub fn reaches(&self, site: usize) -> u32 {
        self.reports[site].as_ref().map_or(0, |r| r.status.destinations_reachable)
    }

    /// Whether a node has a path to another, by its own word.
    pub fn has_path(&self, from: usize, to: usize) -> bool {
        self.paths.contains_key(&(from, to))
    }

    /// Measured round trip between two sites: the median by the first, ms.
    pub fn rtt_ms(&self, from: usize, to: usize) -> Option<f64> {
        let report = self.reports[from].as_ref()?;
        let rows = report.links.iter().filter(|l| l.peer == self.names[to]);
        rows.filter_map(|l| l.rtt_median_ms).reduce(f64::min)
    }

    /// Pairs whose path in force crosses a relay.
    pub fn relayed(&self) -> Vec<(usize, usize)> {
        self.paths.iter().filter(|(_, p)| p.len() > 2).map(|(pair, _)| *pair).collect()
    }

    /// A path in names: `edge1 > cloud > edge2`.
    pub fn name(&self, path: &[usize]) -> String {
        path.iter().map(|s| self.names[*s].as_str()).collect::<Vec<_>>().join(" > ")
    }
}

impl Spent {
    fn add(&mut self, report: &Report) {
        for sent in report.links.iter().filter_map(|l| l.sent) {
            let bytes = self.bytes.get_or_insert_default();
            *bytes = bytes.plus(&sent);
        }
        if let Some(traffic) = report.status.traffic {
            let (all, relayed) = self.packets.get_or_insert_default();
            *all += traffic.ingress.packets;
            *relayed += traffic.ingress_relayed.packets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg::report::PathRow;

    fn report(nodes: &[&str], on_backup: bool) -> Report {
        let view = |nodes: &[&str]| {
            let nodes = nodes.iter().map(|n| (*n).to_owned()).collect();
            Some(PathView { nodes, ..PathView::default() })
        };
        let row = PathRow {
            destination: "c".into(),
            class: "realtime".into(),
            primary: view(nodes),
            backup: view(&["b", "c"]),
            on_backup,
            ..PathRow::default()
        };
        Report { paths: vec![row], ..Report::default() }
    }

    #[test]
    fn the_first_path_is_no_move_and_a_flip_to_the_backup_is_one() {
        let mut watch = Watch::new(["a", "b", "c"].map(String::from).to_vec(), "realtime");
        watch.note(0, report(&["c"], false), 1.0);
        assert!(watch.moves.is_empty());
        assert_eq!(watch.paths[&(0, 2)], [0, 2]);
        watch.note(0, report(&["c"], true), 2.0);
        assert_eq!(watch.moves.len(), 1);
        assert_eq!(watch.moves[0].after, Some(vec![0, 1, 2]));
        assert_eq!(watch.relayed(), [(0, 2)]);
        watch.note(0, Report::default(), 3.0);
        assert_eq!((watch.moves.len(), watch.moves[1].after.clone()), (2, None));
    }
}
