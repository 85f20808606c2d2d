//! What a world tells of itself while it runs and after.

use thalweg::forward::Stats;
use thalweg::forward::held::Held;
use thalweg::id::NodeId;
use thalweg::report::{Answer, Command, Report};
use thalweg::route::table::RouteTable;
use thalweg::time::Instant;

use super::site::{self, site_of};
use super::{Carried, Said, World};
use crate::netns::traffic::SharedLedger;
use crate::trace::Trace;

impl World {
    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What each flow's packets met.
    pub fn ledgers(&self) -> &[SharedLedger] {
        &self.ledgers
    }

    /// What the links carried.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// What the nodes said to each other beside their users' packets.
    pub fn said(&self) -> Said {
        self.said
    }

    /// How many links are up, each counted at both of its ends.
    pub fn links_up(&self) -> usize {
        self.hosts.values().map(|host| host.up.len()).sum()
    }

    /// When a site's node last learnt that another site's is gone, if it did.
    pub fn knew_gone(&self, site: usize, gone: usize) -> Option<Instant> {
        self.hosts.get(&site)?.gone.get(&site::node_id(gone)).copied()
    }

    /// The paths in force at a site, and the site of each of their nodes.
    pub fn routes(&self, site: usize) -> Option<&RouteTable> {
        Some(&*self.hosts.get(&site)?.routes)
    }

    /// The site of a node.
    pub fn site_of(node: NodeId) -> usize {
        site_of(node)
    }

    /// The node of a site.
    pub fn node_of(site: usize) -> NodeId {
        site::node_id(site)
    }

    /// The trace so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Sites whose node lives.
    pub fn living(&self) -> Vec<usize> {
        self.hosts.keys().copied().collect()
    }

    /// Everything a node would tell an operator.
    pub fn report(&mut self, site: usize) -> Option<Report> {
        let now = self.now;
        match self.hosts.get_mut(&site)?.node.handle_command(now, &Command::Report) {
            Answer::Report(report) => Some(*report),
            _ => None,
        }
    }

    /// What lies in a node's data path, and what it counts beside.
    pub fn held(&self, site: usize) -> Option<Held> {
        Some(self.hosts.get(&site)?.forward.held())
    }

    /// What a node's data path has counted.
    pub fn stats(&self, site: usize) -> Option<&Stats> {
        Some(self.hosts.get(&site)?.forward.stats())
    }

    /// The sites on the path in force from one site to another for a class, both ends included.
    pub fn path(&mut self, from: usize, to: usize, class: &str) -> Option<Vec<usize>> {
        let now = self.now;
        let name = self.scenario.sites.get(to)?.name.clone();
        let ask = Command::Paths { destination: Some(name) };
        let host = self.hosts.get_mut(&from)?;
        let Answer::Paths(rows) = host.node.handle_command(now, &ask) else { return None };
        let row = rows.into_iter().find(|row| row.class == class)?;
        let view = if row.on_backup { row.backup } else { row.primary }?;
        let nodes = view.nodes.iter().map(|name| self.scenario.site(name));
        [Some(from)].into_iter().chain(nodes).collect()
    }
}
