//! The configuration file: TOML in, checked values or every problem at once out.
//!
//! Nothing here opens a file. Unknown names are refused with the nearest known one; each problem says
//! where, what and the fix. Secrets are never in the file, only the paths of theirs. Every key with its
//! meaning is in `docs/config.md`; [`keys::TABLES`] is the list both are held against.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub mod change;
pub mod class;
pub mod keys;
pub mod profile;
mod read;
pub mod tariff;
mod value;

pub use read::{ConfigError, Problem};
use read::{Reader, Section};
use tariff::Tariff;
pub use value::{NODE_NAME_RULE, dscp_by_name, is_node_name, protocol_by_name};

use crate::id::Lane;
use crate::route::policy::{ClassSpec, Fallback, Limits, Objective};
use crate::unit::{Price, Ratio};

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from, for reading it again.
    pub file: PathBuf,
    /// `[node]`: who this node is.
    pub node: NodeConfig,
    /// `[underlay]`: where it is reached.
    pub underlay: UnderlayConfig,
    /// `[overlay]`: its interface.
    pub overlay: OverlayConfig,
    /// `[forward]`: how packets are worked on.
    pub forward: ForwardConfig,
    /// `[[peer]]`: nodes known beforehand.
    pub peers: Vec<PeerConfig>,
    /// `[relay]`: consent to relaying.
    pub relay: RelayConfig,
    /// `[uplink]`: what sending costs, and how much may be sent.
    pub uplink: UplinkConfig,
    /// `[[class]]`: kinds of traffic, first match wins; the last takes everything.
    pub classes: Vec<ClassSpec>,
    /// `[probe]`: how often links are measured.
    pub probe: ProbeConfig,
    /// `[route]`: when paths move.
    pub route: RouteConfig,
    /// `[metrics]`: where `/metrics` is served.
    pub metrics: MetricsConfig,
    /// `[admin]`: where the command line reaches the daemon.
    pub admin: AdminConfig,
    /// `[log]`: what is logged, and how.
    pub log: LogConfig,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The name its certificate carries.
    pub name: String,
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
    /// Certificates of the CAs it trusts, PEM.
    pub ca: Vec<PathBuf>,
    /// Lists of certificates these have revoked.
    pub crl: Vec<PathBuf>,
    /// Directory for what must outlive a restart.
    pub state: PathBuf,
}

/// Where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayConfig {
    /// The UDP address it listens on and sends from.
    pub listen: SocketAddr,
    /// Endpoints others should try, where they differ from what they see.
    pub advertise: Vec<SocketAddr>,
}

/// The TUN interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Its name.
    pub interface: String,
    /// Largest inner packet, bytes.
    pub mtu: u16,
}

/// How packets are worked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Data threads; `None` where the machine decides.
    pub lanes: Option<u8>,
}

/// A node known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The name its certificate must carry.
    pub name: String,
    /// `host:port`, looked up again at every attempt.
    pub endpoint: String,
}

/// Consent to relaying. Both default to yes; the certificate may forbid relaying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Whether others' packets may cross this node.
    pub relay: bool,
    /// Whether this node's packets may cross others.
    pub use_relays: bool,
    /// Most of one source that crosses this node, bit/s of frames. `None`: no quota.
    pub max_rate_per_source_bps: Option<u64>,
}

/// What sending costs, and how much may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Price of a gigabyte sent where no tariff holds.
    pub price: Price,
    /// Prices by hour and day, first match wins.
    pub tariffs: Vec<Tariff>,
    /// Minutes that the tariffs' hours and the month are before UTC.
    pub utc_offset_min: i16,
    /// Most to be spent a month, millionths of the currency; `None`: nothing is bounded.
    pub budget: Option<u64>,
    /// Most that is sent over an uplink, in bit/s of UDP payload; `None` where the file says `"off"`.
    pub max_rate_bps: Option<u64>,
}

impl UplinkConfig {
    /// Price of a gigabyte sent at this time.
    pub fn price_at(&self, unix_s: u64) -> Price {
        tariff::price_at(&self.tariffs, self.price, self.utc_offset_min, unix_s)
    }
}

/// How often links are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Between probes of a link that carries traffic.
    pub in_use: Duration,
    /// Between probes of any other link.
    pub idle: Duration,
    /// Age from which a reading of a link in use is not used any more.
    pub stale_in_use: Duration,
    /// The same for any other link.
    pub stale_idle: Duration,
}

/// When paths move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Between full recomputations.
    pub recompute: Duration,
    /// How much better a path must be to replace the one in force.
    pub margin: Ratio,
    /// How long a path that came into force is kept whatever appears beside it.
    pub hold_down: Duration,
    /// Whether everything is measured, computed and shown, and traffic goes straight all the same.
    pub observe: bool,
}

/// Where `/metrics` and `/healthz` are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// The TCP address; `None` where the file says `"off"`.
    pub listen: Option<SocketAddr>,
}

/// Where the command line reaches the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The unix socket's path.
    pub socket: PathBuf,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level shown.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// The daemon cannot go on.
    Error,
    /// Something is wrong, the others are served.
    Warn,
    /// One line per change of state.
    Info,
    /// Every transition.
    Debug,
    /// Every packet.
    Trace,
}

impl LogLevel {
    /// The word in configuration and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Default path of the configuration file.
pub const DEFAULT_FILE: &str = "/etc/thalweg/thalweg.toml";

/// Default path of the admin socket.
pub const DEFAULT_SOCKET: &str = "/run/thalweg/thalweg.sock";

/// Largest inner packet that fits a 1500-byte IPv4 underlay unfragmented (`docs/wire.md`).
pub const LARGEST_MTU: u16 = 1386;

/// Least cap of an uplink's rate, bit/s.
pub const LEAST_MAX_RATE_BPS: u64 = 100_000;

impl Config {
    /// Reads the text of a configuration. `file` is named in problems, and relative paths in the text
    /// start from its directory.
    ///
    /// # Errors
    /// Every problem found, in the order of the file.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(file, text);
        let (document, faults) = DeTable::parse_recoverable(text);
        for fault in &faults {
            let at = fault.span().unwrap_or(0..0);
            reader.problem(&at, format!("not TOML: {}", fault.message()), "mend the syntax");
        }
        if !faults.is_empty() {
            // Values after a syntax error are guesses; complaining about those would mislead.
            return Err(ConfigError(reader.problems));
        }
        let config = read_all(&mut reader, document.get_ref(), file);
        let mut problems = reader.problems;
        problems.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError(problems)),
        }
    }

    /// Things that are allowed but that an operator should know of, one sentence each.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(listen) = self.metrics.listen.filter(|a| !a.ip().is_loopback()) {
            remarks
                .push(format!("[metrics] listen = {listen}: whoever reaches it reads all metrics"));
        }
        if self.overlay.mtu < 1280 {
            remarks.push(format!(
                "[overlay] mtu = {}: IPv6 inside needs at least 1280",
                self.overlay.mtu
            ));
        }
        if self.route.observe {
            remarks.push(
                "[route] observe = true: paths are computed and shown, and traffic goes straight"
                    .into(),
            );
        }
        for class in &self.classes {
            let policy = &class.policy;
            let budget = policy.objective == Objective::Cost && self.uplink.budget.is_some();
            let limited = policy.limits != Limits::default() || !policy.avoid.is_empty() || budget;
            if policy.fallback != Fallback::default() && !limited {
                remarks.push(format!(
                    "[[class]] `{}` fallback = \"{}\": it has no limits, so nothing ever falls back",
                    class.name,
                    policy.fallback.name()
                ));
            }
        }
        if self.peers.is_empty() {
            remarks.push("no [[peer]]: this node waits until others dial it".into());
        }
        remarks
    }
}

fn read_all(reader: &mut Reader<'_>, root: &DeTable<'_>, file: &Path) -> Option<Config> {
    reader.check_tables(root);
    let base = file.parent().unwrap_or(Path::new(""));
    let node = reader.table(root, "node");
    let node = read_node(reader, &node, base);
    let underlay = reader.table(root, "underlay");
    let underlay = read_underlay(reader, &underlay);
    let overlay = reader.table(root, "overlay");
    let overlay = read_overlay(reader, &overlay);
    let forward = reader.table(root, "forward");
    let forward = ForwardConfig { lanes: forward.read(reader, "lanes", lanes) };
    let peers = reader.tables(root, "peer");
    let peers = read_peers(reader, &peers, node.as_ref().map(|n| n.name.as_str()));
    let relay = reader.table(root, "relay");
    let relay = RelayConfig {
        relay: relay.read(reader, "relay", value::boolean).unwrap_or(true),
        use_relays: relay.read(reader, "use_relays", value::boolean).unwrap_or(true),
        max_rate_per_source_bps: relay.read(reader, "max_rate_per_source", max_rate).flatten(),
    };
    let uplink = reader.table(root, "uplink");
    let uplink = UplinkConfig {
        price: uplink.read(reader, "price_per_gb", value::price).unwrap_or_default(),
        tariffs: {
            let sections = reader.tables(root, "tariff");
            tariff::read(reader, &sections)
        },
        utc_offset_min: uplink.read(reader, "utc_offset", tariff::offset).unwrap_or(0),
        budget: uplink.read(reader, "monthly_budget", tariff::budget),
        max_rate_bps: uplink.read(reader, "max_rate", max_rate).flatten(),
    };
    let classes = reader.tables(root, "class");
    let classes = class::read(reader, &classes);
    let probe = reader.table(root, "probe");
    let probe = read_probe(reader, &probe);
    let route = reader.table(root, "route");
    let route = read_route(reader, &route);
    let metrics = reader.table(root, "metrics");
    let metrics = MetricsConfig {
        listen: metrics
            .read(reader, "listen", |v| match v.as_str() {
                Some("off") => Ok(None),
                _ => value::socket(v).map(Some),
            })
            .unwrap_or_else(|| Some(SocketAddr::from(([127, 0, 0, 1], 9460)))),
    };
    let admin = reader.table(root, "admin");
    let admin = AdminConfig {
        socket: admin
            .read(reader, "socket", value::string)
            .map_or_else(|| DEFAULT_SOCKET.into(), |path| base.join(path)),
    };
    let log = reader.table(root, "log");
    let log = read_log(reader, &log);
    Some(Config {
        file: file.to_owned(),
        node: node?,
        underlay,
        overlay,
        forward,
        peers,
        relay,
        uplink,
        classes,
        probe,
        route,
        metrics,
        admin,
        log,
    })
}

fn read_node(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    base: &Path,
) -> Option<NodeConfig> {
    let name = section.need(reader, "name", "\"paris\"", value::node_name);
    let certificate =
        section.need(reader, "certificate", "\"/etc/thalweg/pki/paris.crt\"", value::string);
    let key = section.need(reader, "key", "\"/etc/thalweg/pki/paris.key\"", value::string);
    let ca = section.need(reader, "ca", "[\"/etc/thalweg/pki/ca.crt\"]", |v| {
        let list = value::list(v, value::string)?;
        if list.is_empty() {
            return Err(value::Bad::new("is an empty list", "name at least one CA certificate"));
        }
        Ok(list)
    });
    let crl = section.read(reader, "crl", |v| value::list(v, value::string)).unwrap_or_default();
    let state = section.read(reader, "state", value::string);
    Some(NodeConfig {
        name: name?,
        certificate: base.join(certificate?),
        key: base.join(key?),
        ca: ca?.into_iter().map(|path| base.join(path)).collect(),
        crl: crl.into_iter().map(|path| base.join(path)).collect(),
        state: state.map_or_else(|| "/var/lib/thalweg".into(), |path| base.join(path)),
    })
}

fn read_underlay(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> UnderlayConfig {
    let listen = section
        .read(reader, "listen", value::socket)
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 4600)));
    let advertise: Vec<SocketAddr> =
        section.read(reader, "advertise", |v| value::list(v, value::socket)).unwrap_or_default();
    if let Some(bad) = advertise.iter().find(|a| a.ip().is_unspecified() || a.port() == 0) {
        let what = format!("[underlay] advertise holds {bad}, which nobody can dial");
        let fix = "write an address and port that others reach, like \"203.0.113.5:4600\"";
        reader.problem(&section.place("advertise"), what, fix);
    }
    UnderlayConfig { listen, advertise }
}

fn read_overlay(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> OverlayConfig {
    let interface = section.read(reader, "interface", |v| {
        let text = value::string(v)?;
        // IFNAMSIZ is 16 with the terminating zero; the kernel refuses these characters.
        let good = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%')
            && text != "."
            && text != "..";
        good.then_some(()).ok_or_else(|| {
            value::Bad::new(
                format!("\"{text}\" is no interface name"),
                "use 1 to 15 letters, digits, hyphens, dots or underscores",
            )
        })?;
        Ok(text)
    });
    let mtu = section.read(reader, "mtu", |v| match value::integer(v)? {
        mtu @ 576..=1386 => Ok(mtu as u16),
        mtu => Err(value::Bad::new(
            format!("{mtu} does not fit"),
            "write 576 to 1386: what an underlay of 1500 bytes leaves after headers",
        )),
    });
    OverlayConfig {
        interface: interface.unwrap_or_else(|| "thalweg0".into()),
        mtu: mtu.unwrap_or(1340),
    }
}

fn lanes(value: &toml::de::DeValue<'_>) -> value::Read<u8> {
    let lanes = value::integer(value)?;
    let limit = Lane::LIMIT;
    match u8::try_from(lanes) {
        Ok(lanes @ 1..) if lanes <= limit => Ok(lanes),
        _ => {
            let fix = format!("write 1 to {limit}, at most as many as there are processors");
            Err(value::Bad::new(format!("{lanes} is no number of lanes"), fix))
        }
    }
}

/// A rate, or `"off"`. Below the least nothing is left for packets: probes and feedback alone may take
/// 32 kbit/s of each link.
fn max_rate(value: &toml::de::DeValue<'_>) -> value::Read<Option<u64>> {
    if value.as_str() == Some("off") {
        return Ok(None);
    }
    match value::rate(value)? {
        bps if bps >= LEAST_MAX_RATE_BPS => Ok(Some(bps)),
        _ => {
            let fix = "write \"100 kbit/s\" or more, or \"off\"";
            Err(value::Bad::new("leaves no room for packets", fix))
        }
    }
}

fn read_peers(
    reader: &mut Reader<'_>,
    sections: &[Section<'_, '_>],
    own: Option<&str>,
) -> Vec<PeerConfig> {
    let mut peers: Vec<PeerConfig> = Vec::new();
    for section in sections {
        let name = section.need(reader, "name", "\"paris\"", value::node_name);
        let endpoint =
            section.need(reader, "endpoint", "\"paris.example.net:4600\"", value::endpoint);
        let (Some(name), Some(endpoint)) = (name, endpoint) else { continue };
        if Some(name.as_str()) == own {
            let what = format!("[[peer]] `{name}` is this node itself");
            reader.problem(&section.place("name"), what, "leave this [[peer]] out");
        }
        let twice = peers.iter().any(|p| p.name == name && p.endpoint == endpoint);
        if twice {
            let what = format!("[[peer]] `{name}` at {endpoint} is there twice");
            reader.problem(&section.place("name"), what, "leave one of them out");
        }
        peers.push(PeerConfig { name, endpoint });
    }
    peers
}

fn read_probe(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> ProbeConfig {
    let probe = ProbeConfig {
        in_use: between(reader, section, "in_use", 200, 10, 60_000),
        idle: between(reader, section, "idle", 5_000, 10, 600_000),
        stale_in_use: between(reader, section, "stale_in_use", 3_000, 100, 600_000),
        stale_idle: between(reader, section, "stale_idle", 60_000, 100, 3_600_000),
    };
    for (interval, stale, name, stale_name) in [
        (probe.in_use, probe.stale_in_use, "in_use", "stale_in_use"),
        (probe.idle, probe.stale_idle, "idle", "stale_idle"),
    ] {
        // One lost probe must not make a reading stale.
        if stale < interval * 2 {
            let what = format!(
                "[probe] {stale_name} ({}) is less than twice {name} ({})",
                humantime::format_duration(stale),
                humantime::format_duration(interval)
            );
            let fix =
                format!("raise `{stale_name}` or lower `{name}`: one lost probe must not count");
            let place = if section.is_given(stale_name) { stale_name } else { name };
            reader.problem(&section.place(place), what, fix);
        }
    }
    probe
}

fn read_route(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> RouteConfig {
    let margin = section.read(reader, "margin", |v| {
        let margin = value::ratio(v)?;
        if margin > Ratio::from_ppm(500_000) {
            let fix = "write at most \"50%\"; above 5 % most of the gain is thrown away";
            return Err(value::Bad::new(format!("is {margin}"), fix));
        }
        Ok(margin)
    });
    RouteConfig {
        recompute: between(reader, section, "recompute", 300_000, 1_000, 86_400_000),
        margin: margin.unwrap_or(Ratio::from_ppm(30_000)),
        hold_down: between(reader, section, "hold_down", 30_000, 0, 86_400_000),
        observe: section.read(reader, "observe", value::boolean).unwrap_or(false),
    }
}

fn read_log(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> LogConfig {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.name(), level));
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig {
        level: section.read(reader, "level", |v| value::word(v, &levels)).unwrap_or(Info),
        format: section
            .read(reader, "format", |v| value::word(v, &formats))
            .unwrap_or(LogFormat::Auto),
    }
}

/// A duration within bounds, all in milliseconds.
fn between(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    key: &'static str,
    default_ms: u64,
    least_ms: u64,
    most_ms: u64,
) -> Duration {
    let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
    let read = section.read(reader, key, |v| {
        let span = value::duration(v)?;
        if (least..=most).contains(&span) {
            return Ok(span);
        }
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        let what = format!("is {}", humantime::format_duration(span));
        Err(value::Bad::new(what, format!("write \"{least}\" to \"{most}\"")))
    });
    read.unwrap_or(Duration::from_millis(default_ms))
}

#[cfg(test)]
mod tests;
