//! What differs between two configurations, and which of it a running daemon takes over.
//!
//! One list says of every key whether it may change while packets flow. What may not stays as it was
//! until the next start, and is named: a reload never does half of something.

use super::Config;

/// A key whose value differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table's name, without brackets.
    pub table: &'static str,
    /// The key; empty where the whole table is compared.
    pub key: &'static str,
    /// Whether a running daemon takes it over.
    pub live: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = super::keys::find(self.table).map_or_else(String::new, |t| t.heading());
        write!(f, "{table}")?;
        if self.key.is_empty() { Ok(()) } else { write!(f, " {}", self.key) }
    }
}

/// One row of the list.
struct Row {
    table: &'static str,
    key: &'static str,
    live: bool,
    same: fn(&Config, &Config) -> bool,
}

macro_rules! rows {
    ($($when:ident $table:literal $key:literal $($field:ident).+;)*) => {
        &[$(Row {
            table: $table,
            key: $key,
            live: rows!(@$when),
            same: |a, b| a.$($field).+ == b.$($field).+,
        }),*]
    };
    (@live) => { true };
    (@start) => { false };
}

const ROWS: &[Row] = rows! {
    start "node" "name" node.name;
    start "node" "certificate" node.certificate;
    start "node" "key" node.key;
    start "node" "ca" node.ca;
    start "node" "crl" node.crl;
    start "node" "state" node.state;
    start "underlay" "listen" underlay.listen;
    live "underlay" "advertise" underlay.advertise;
    start "overlay" "interface" overlay.interface;
    start "overlay" "mtu" overlay.mtu;
    start "forward" "lanes" forward.lanes;
    live "peer" "" peers;
    live "relay" "relay" relay.relay;
    live "relay" "use_relays" relay.use_relays;
    start "relay" "max_rate_per_source" relay.max_rate_per_source_bps;
    live "uplink" "price_per_gb" uplink.price;
    live "uplink" "utc_offset" uplink.utc_offset_min;
    live "uplink" "monthly_budget" uplink.budget;
    live "uplink" "max_rate" uplink.max_rate_bps;
    live "tariff" "" uplink.tariffs;
    live "class" "" classes;
    live "probe" "in_use" probe.in_use;
    live "probe" "idle" probe.idle;
    live "probe" "stale_in_use" probe.stale_in_use;
    live "probe" "stale_idle" probe.stale_idle;
    live "route" "recompute" route.recompute;
    live "route" "margin" route.margin;
    live "route" "hold_down" route.hold_down;
    live "route" "observe" route.observe;
    live "metrics" "listen" metrics.listen;
    start "admin" "socket" admin.socket;
    live "log" "level" log.level;
    start "log" "format" log.format;
};

/// Every key whose value differs, in the order of the file's documentation.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let differs = ROWS.iter().filter(|row| !(row.same)(old, new));
    differs.map(|row| Change { table: row.table, key: row.key, live: row.live }).collect()
}

impl Config {
    /// What is in force after a running daemon with this configuration took `new` over: its keys,
    /// except those that need a start.
    pub fn taking_over(&self, new: &Self) -> Self {
        let mut merged = new.clone();
        merged.node.clone_from(&self.node);
        merged.underlay.listen = self.underlay.listen;
        merged.overlay.clone_from(&self.overlay);
        merged.forward = self.forward;
        merged.admin.clone_from(&self.admin);
        merged.log.format = self.log.format;
        merged
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::keys;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/thalweg/t.toml")).unwrap_or_else(|e| panic!("{e}"))
    }

    const LEAST: &str = "[node]\nname = \"a\"\ncertificate = \"c\"\nkey = \"k\"\nca = [\"x\"]\n";

    #[test]
    fn every_key_there_is_has_its_row() {
        for table in keys::TABLES {
            let rows: Vec<_> = ROWS.iter().filter(|r| r.table == table.name).collect();
            if table.repeated {
                assert_eq!((rows.len(), rows[0].key), (1, ""), "{}", table.name);
                continue;
            }
            let listed: Vec<_> = table.keys.iter().map(|k| k.name).collect();
            let compared: Vec<_> = rows.iter().map(|r| r.key).collect();
            assert_eq!(compared, listed, "[{}]", table.name);
        }
        assert!(ROWS.iter().all(|r| keys::find(r.table).is_some()));
    }

    #[test]
    fn what_differs_is_named_and_what_needs_a_start_stays() {
        let old = parse(LEAST);
        let text = LEAST.replace("\"a\"", "\"b\"")
            + "[overlay]\nmtu = 1300\n[route]\nmargin = \"4%\"\n[log]\nlevel = \"warn\"\n\
               format = \"json\"\n[[class]]\nprofile = \"gaming\"\n\
               [underlay]\nlisten = \"0.0.0.0:1\"\nadvertise = [\"192.0.2.1:4600\"]\n";
        let new = parse(&text);
        let said = |list: Vec<Change>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let live = ["[underlay] advertise", "[[class]]", "[route] margin", "[log] level"];
        let start = ["[node] name", "[underlay] listen", "[overlay] mtu", "[log] format"];
        let (now, later): (Vec<_>, Vec<_>) = changes(&old, &new).into_iter().partition(|c| c.live);
        assert_eq!(
            (said(now), said(later)),
            (live.map(String::from).into(), start.map(String::from).into())
        );
        let merged = old.taking_over(&new);
        assert_eq!(said(changes(&merged, &new)), start);
        assert_eq!(said(changes(&old, &merged)), live);
        assert!(changes(&new, &new).is_empty());
    }
}
