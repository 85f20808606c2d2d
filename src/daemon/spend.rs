//! Money spent on sending, counted by the tariff in force and kept over restarts.
//!
//! What a provider bills are IP packets: UDP payload, and headers of IP and UDP around each datagram.
//! A month whose budget is spent ends relaying for others. A node's own packets have no other way than this
//! uplink, so what becomes of those that were to be cheap is for their class's fallback to say.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::file;
use crate::config::UplinkConfig;
use crate::config::tariff::{month_name, month_of};
use crate::report::Spend;
use crate::unit::Price;

/// IPv4 and UDP headers of a datagram, bytes. IPv6 has 20 more, which few providers' bills show.
const HEADERS: u64 = 28;
/// A price of one unit per gigabyte: so many of its millionths per millionth of a byte.
const GIGABYTE: u128 = 1_000_000_000;

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    month: u32,
    /// Billionths of a millionth of the currency: bytes times millionths per gigabyte.
    spent: u128,
    bytes: u64,
}

/// The account of one uplink.
#[derive(Debug)]
pub struct Account {
    file: PathBuf,
    kept: Kept,
    saved: Kept,
    /// Datagrams and bytes of the data path that were counted already.
    counted: (u64, u64),
    failing: bool,
}

impl Account {
    /// The account whose file lies in the state directory; a month without one begins at zero.
    pub fn open(state: &std::path::Path) -> Self {
        let file = state.join("spend.json");
        let text = std::fs::read(&file).ok();
        let kept = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, kept, saved: kept, counted: (0, 0), failing: false }
    }

    /// The data path has sent so many datagrams with so many bytes of payload since it began.
    pub fn on_sent(&mut self, uplink: &UplinkConfig, unix_s: u64, datagrams: u64, bytes: u64) {
        let month = month_of(uplink.utc_offset_min, unix_s);
        // A clock that was set back does not give a month's budget twice.
        if month > self.kept.month {
            self.kept = Kept { month, ..Kept::default() };
        }
        let (before, payload) = self.counted;
        let fresh = bytes.saturating_sub(payload) + datagrams.saturating_sub(before) * HEADERS;
        self.counted = (datagrams, bytes);
        self.kept.bytes = self.kept.bytes.saturating_add(fresh);
        let Price(millionths) = uplink.price_at(unix_s);
        let cost = u128::from(fresh) * u128::from(millionths);
        self.kept.spent = self.kept.spent.saturating_add(cost);
    }

    /// Whether the month's budget is spent.
    pub fn is_over(&self, uplink: &UplinkConfig) -> bool {
        uplink.budget.is_some_and(|budget| self.kept.spent >= u128::from(budget) * GIGABYTE)
    }

    /// Writes what changed, for the next start.
    pub fn save(&mut self) {
        if self.kept == self.saved {
            return;
        }
        let bytes = serde_json::to_vec(&self.kept).unwrap_or_default();
        match file::replace(&self.file, &bytes, 0o600) {
            Ok(()) => (self.saved, self.failing) = (self.kept, false),
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(file = %self.file.display(), %error, "what was spent cannot be kept");
            }
            Err(_) => {}
        }
    }

    /// As it is shown.
    pub fn shown(&self, uplink: &UplinkConfig, unix_s: u64) -> Spend {
        Spend {
            month: month_name(self.kept.month),
            spent: (self.kept.spent / GIGABYTE) as f64 / 1e6,
            bytes: self.kept.bytes,
            budget: uplink.budget.map(|budget| budget as f64 / 1e6),
            price_per_gb: uplink.price_at(unix_s).as_f64(),
            over_budget: self.is_over(uplink),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tariff::Tariff;

    const NOON: u64 = 1_795_262_400;
    const MONTH: u64 = 31 * 86_400;

    fn uplink() -> UplinkConfig {
        let night = Tariff { from_min: 0, to_min: 360, days: 0x7f, price: Price(10_000) };
        UplinkConfig {
            price: Price(90_000),
            tariffs: vec![night],
            budget: Some(1_000_000),
            ..UplinkConfig::default()
        }
    }

    #[test]
    fn bytes_cost_what_the_hour_says_and_a_new_month_begins_at_zero() {
        let dir = tempfile::tempdir().unwrap();
        let (mut account, uplink) = (Account::open(dir.path()), uplink());
        account.on_sent(&uplink, NOON, 0, 1_000_000_000);
        let told = account.shown(&uplink, NOON);
        assert_eq!((told.month.as_str(), told.spent, told.bytes), ("2026-11", 0.09, 1_000_000_000));
        account.on_sent(&uplink, NOON + 14 * 3600, 1_000_000, 1_972_000_000);
        let told = account.shown(&uplink, NOON + 14 * 3600);
        assert_eq!((told.spent, told.price_per_gb), (0.1, 0.01), "headers and the night's price");
        assert!(!told.over_budget);
        account.on_sent(&uplink, NOON, 1_000_000, 12_000_000_000);
        assert!(account.is_over(&uplink), "{:?}", account.shown(&uplink, NOON));
        account.on_sent(&uplink, NOON + MONTH, 1_000_000, 12_000_000_000);
        let told = account.shown(&uplink, NOON + MONTH);
        assert_eq!((told.month.as_str(), told.spent, told.over_budget), ("2026-12", 0.0, false));
        account.on_sent(&uplink, NOON, 1_000_000, 12_000_000_000);
        assert_eq!(account.shown(&uplink, NOON).month, "2026-12", "a clock set back");
    }

    #[test]
    fn what_was_spent_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut account, uplink) = (Account::open(dir.path()), uplink());
        account.on_sent(&uplink, NOON, 0, 5_000_000_000);
        account.save();
        let mut again = Account::open(dir.path());
        assert_eq!(again.shown(&uplink, NOON), account.shown(&uplink, NOON));
        // The data path counts from zero again.
        again.on_sent(&uplink, NOON, 0, 1_000_000_000);
        assert_eq!(again.shown(&uplink, NOON).bytes, 6_000_000_000);
        std::fs::write(dir.path().join("spend.json"), "{").unwrap();
        assert_eq!(Account::open(dir.path()).shown(&uplink, NOON).bytes, 0);
    }
}
