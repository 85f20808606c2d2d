//! What an operator may ask of a running node, and what it answers: plain values, no behaviour.
//!
//! The node fills them, the driver adds what the data path counted, the admin socket and `/metrics` show them, the command line prints them.
//! Two rules hold for every number. It was measured: what has not been is `None`, shown as `n/a`,
//! never a zero. It carries its unit last in its name. The JSON these types make is an interface:
//! a change that could break a reader raises [`SCHEMA_VERSION`].

use serde::{Deserialize, Serialize};

mod link;
mod mesh;
mod path;
mod status;

pub use link::{Bytes, DirectionRow, ForecastRow, HopRow, LinkHeld, LinkRow, LinkState, PaceRow};
pub use mesh::{Matrix, MatrixNode, PeerHeld, PeerRow, PeerState, Stretch};
pub use path::{Candidate, CostPart, Echo, Explanation, LimitVerdict, PathRow, PathView, Trace};
pub use status::{
    Configured, Doors, DropRow, EventRow, Events, Histogram, LaneRow, Memory, Reloaded, Spend,
    Status, Traffic, Volume,
};

/// Version of the JSON made from this module. Added fields do not raise it; changed or removed ones do.
pub const SCHEMA_VERSION: u32 = 1;

/// A question to a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// One screen about this node.
    Status,
    /// Every node it knows.
    Peers,
    /// Every link it has.
    Links,
    /// Paths in force.
    Paths {
        /// Only to this destination: a node's name or number, or an address.
        #[serde(default)]
        destination: Option<String>,
    },
    /// Why packets to a destination go where they go.
    Explain {
        /// A node's name or number, or an address.
        destination: String,
        /// Which class, by name. Where it is not given, the one that takes packets like those below.
        #[serde(default)]
        class: Option<String>,
        /// Packets with this DSCP; 0 where none is given.
        #[serde(default)]
        dscp: Option<u8>,
        /// Packets of this transport protocol; one that no class asks for where none is given.
        #[serde(default)]
        protocol: Option<u8>,
        /// TCP or UDP packets with this port at one end; one that no class asks for where none is given.
        #[serde(default)]
        port: Option<u16>,
    },
    /// Every link of the mesh, as this node knows it.
    Matrix,
    /// The path of packets to a destination, hop by hop.
    Trace {
        /// As in [`Command::Explain`].
        destination: String,
        /// As there.
        #[serde(default)]
        class: Option<String>,
        /// As there.
        #[serde(default)]
        dscp: Option<u8>,
        /// As there.
        #[serde(default)]
        protocol: Option<u8>,
        /// As there.
        #[serde(default)]
        port: Option<u16>,
    },
    /// One echo to a destination, as an application would send it.
    Ping {
        /// As in [`Command::Explain`].
        destination: String,
        /// The DSCP it bears; 0 where none is given.
        #[serde(default)]
        dscp: Option<u8>,
    },
    /// Every counter of what came to nothing.
    Drops,
    /// What happened lately.
    Events {
        /// Whether to go on telling what happens, one answer a line, until the asker leaves.
        #[serde(default)]
        follow: bool,
    },
    /// Everything at once, for a scrape.
    Report,
    /// Read the configuration file again and take over what can be while packets flow.
    Reload,
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To [`Command::Peers`].
    Peers(Vec<PeerRow>),
    /// To [`Command::Links`].
    Links(Vec<LinkRow>),
    /// To [`Command::Paths`].
    Paths(Vec<PathRow>),
    /// To [`Command::Explain`].
    Explain(Box<Explanation>),
    /// To [`Command::Report`].
    Report(Box<Report>),
    /// To [`Command::Matrix`].
    Matrix(Matrix),
    /// To [`Command::Trace`].
    Trace(Box<Trace>),
    /// To [`Command::Ping`].
    Ping(Box<Echo>),
    /// To [`Command::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Command::Events`].
    Events(Events),
    /// To [`Command::Reload`], where the file was good.
    Reload(Reloaded),
    /// To [`Command::Reload`], where it was not: every problem. Nothing was taken over. The command
    /// line ends with exit code 2.
    Refused(Vec<String>),
    /// What was asked for does not exist here, for instance no path or no such node. The command
    /// line ends with exit code 1.
    NotFound(String),
}

/// Everything a scrape reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The node itself.
    pub status: Status,
    /// The nodes it knows.
    pub peers: Vec<PeerRow>,
    /// Its links.
    pub links: Vec<LinkRow>,
    /// Its paths.
    pub paths: Vec<PathRow>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reading_on_a_bound_falls_under_it() {
        let mut h = Histogram::default();
        h.observe(Duration::from_millis(1));
        h.observe(Duration::from_micros(1001));
        h.observe(Duration::from_secs(60));
        assert_eq!((h.counts[1], h.counts[2], h.counts[14], h.count()), (1, 1, 1, 3));
    }

    #[test]
    fn a_question_is_one_line_and_comes_back() {
        let asked = Command::Explain {
            destination: "paris".into(),
            class: None,
            dscp: Some(46),
            protocol: Some(17),
            port: None,
        };
        let line = serde_json::to_string(&asked).unwrap();
        let written = r#"{"command":"explain","destination":"paris","class":null,"dscp":46,"protocol":17,"port":null}"#;
        assert_eq!(line, written);
        assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), asked);
        let short: Command = serde_json::from_str(r#"{"command":"paths"}"#).unwrap();
        assert_eq!(short, Command::Paths { destination: None });
        assert!(serde_json::from_str::<Command>(r#"{"command":"reboot"}"#).is_err());
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = serde_json::to_value(LinkRow::default()).unwrap();
        assert!(json["rtt_median_ms"].is_null() && json["outbound"]["loss_ratio"].is_null());
        assert_eq!(json["state"], "down");
    }
}
