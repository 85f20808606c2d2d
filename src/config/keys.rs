//! Every table and key of the configuration file, in one list.
//!
//! The reader refuses what is not here, suggests what is near, and a test holds the documentation
//! and the defaults against it.

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// What is taken where the key is not given, as written in the file; empty where the key must be
    /// given or where leaving it out has a meaning of its own.
    pub default: &'static str,
}

/// One table, written `[name]`, or `[[name]]` where it may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// As written in the file.
    pub name: &'static str,
    /// Whether it is written `[[name]]`.
    pub repeated: bool,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Table {
    /// The heading as written in the file.
    pub fn heading(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

const fn key(name: &'static str, default: &'static str) -> Key {
    Key { name, default }
}

const fn table(name: &'static str, repeated: bool, keys: &'static [Key]) -> Table {
    Table { name, repeated, keys }
}

/// Every table.
pub const TABLES: &[Table] = &[
    table(
        "node",
        false,
        &[
            key("name", ""),
            key("certificate", ""),
            key("key", ""),
            key("ca", ""),
            key("crl", "[]"),
            key("state", "\"/var/lib/thalweg\""),
        ],
    ),
    table("underlay", false, &[key("listen", "\"0.0.0.0:4600\""), key("advertise", "[]")]),
    table("overlay", false, &[key("interface", "\"thalweg0\""), key("mtu", "1340")]),
    table("forward", false, &[key("lanes", "")]),
    table("peer", true, &[key("name", ""), key("endpoint", "")]),
    table(
        "relay",
        false,
        &[key("relay", "true"), key("use_relays", "true"), key("max_rate_per_source", "\"off\"")],
    ),
    table(
        "uplink",
        false,
        &[
            key("price_per_gb", "0.0"),
            key("utc_offset", "\"+00:00\""),
            key("monthly_budget", ""),
            key("max_rate", "\"off\""),
        ],
    ),
    table("tariff", true, &[key("hours", ""), key("days", ""), key("price_per_gb", "")]),
    table(
        "class",
        true,
        &[
            key("name", ""),
            key("profile", ""),
            key("prefixes", "[]"),
            key("dscp", ""),
            key("protocols", "[]"),
            key("ports", "[]"),
            key("objective", "\"latency\""),
            key("max_latency", ""),
            key("max_jitter", ""),
            key("max_loss", ""),
            key("max_price", ""),
            key("avoid", "[]"),
            key("prefer", "[]"),
            key("fallback", "\"hold\""),
            key("repair_budget", "\"500ms\""),
            key("residual", "\"0.001%\""),
            key("repair_share", ""),
            key("repair_rate", ""),
            key("reorder", "\"0ms\""),
            key("outer_dscp", "\"copy\""),
        ],
    ),
    table(
        "probe",
        false,
        &[
            key("in_use", "\"200ms\""),
            key("idle", "\"5s\""),
            key("stale_in_use", "\"3s\""),
            key("stale_idle", "\"60s\""),
        ],
    ),
    table(
        "route",
        false,
        &[
            key("recompute", "\"5m\""),
            key("margin", "\"3%\""),
            key("hold_down", "\"30s\""),
            key("observe", "false"),
        ],
    ),
    table("metrics", false, &[key("listen", "\"127.0.0.1:9460\"")]),
    table("admin", false, &[key("socket", "\"/run/thalweg/thalweg.sock\"")]),
    table("log", false, &[key("level", "\"info\""), key("format", "\"auto\"")]),
];

/// The table of this name.
pub(super) fn find(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// The known name nearest to a wrong one, where one is near enough to be meant.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::normalized_damerau_levenshtein(wrong, name), name))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
