//! What the operator decided anew, taken over between two packets.
//!
//! It comes with the routes that were made under it, so that no packet is sorted by one list of classes
//! and sent by another's table. Links, keys, numbers and queues go on as they are.

use std::sync::Arc;

use crate::time::Instant;

use super::Forwarder;
use super::budget::Budgets;
use super::pace::Credit;
use super::snapshot::Tuning;

impl Forwarder {
    /// Takes over what is not in force yet.
    pub(super) fn retune(&mut self, now: Instant, tuning: &Arc<Tuning>) {
        if self.tuning.as_ref().is_some_and(|held| Arc::ptr_eq(held, tuning)) {
            return;
        }
        if self.config.classes != tuning.classes {
            self.classifier = self.classifier.with(&tuning.classes);
            self.config.classes.clone_from(&tuning.classes);
            for link in self.links.iter_mut().flatten().chain(self.retired.values_mut()) {
                link.budgets = Budgets::of(&self.config.classes, now);
            }
        }
        self.config.relay = tuning.relay;
        if self.config.max_rate_bps != tuning.max_rate_bps {
            self.config.max_rate_bps = tuning.max_rate_bps;
            self.uplink = Self::uplink(&self.config, now);
        }
        self.tuning = Some(Arc::clone(tuning));
    }

    /// This lane's part of what the operator allows on the uplink.
    pub(super) fn uplink(config: &super::ForwardConfig, now: Instant) -> Option<(u64, Credit)> {
        let lanes = u64::from(config.lane.count());
        config.max_rate_bps.map(|bps| ((bps / 8 / lanes).max(1), Credit::new(now)))
    }
}
