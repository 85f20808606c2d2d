//! The command line's grammar.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use thalweg::config::{DEFAULT_FILE, DEFAULT_SOCKET};
use thalweg::daemon::pki::ca::{CA_DAYS, NODE_DAYS};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the asked-for condition does not hold: no such node, no path, an untrusted certificate,
     a daemon that cannot run here
  2  wrong usage, configuration or file
  3  no daemon answers at the socket

Values that were not measured are shown as n/a, in JSON as null. Nothing is printed in colour.";

/// Overlay network acceleration: applications at every site get the better path.
#[derive(Debug, Parser)]
#[command(name = "thalweg", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the daemon until SIGTERM or SIGINT; exit code 1 if it could not start or broke
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Show this node on one screen
    Status(Ask),
    /// List the nodes of the mesh
    Peers(Ask),
    /// List the links of this node with what was measured of them, by probes and by data, and what
    /// repairing them costs
    Links(Ask),
    /// List the paths in force; exit code 1 where there is none
    Paths {
        /// Only to this node (name or number) or address
        dest: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell why packets to a destination take the path they take; exit code 1 where there is none
    Explain {
        /// Node (name or number) or address
        dest: String,
        #[command(flatten)]
        packets: Packets,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show every link of the mesh as this node knows it: one-way delay in ms and loss before repair
    Matrix(Ask),
    /// Send echoes to a destination through the overlay, as its packets go; exit code 1 if none is
    /// answered
    ///
    /// The kernel at the other end answers, so the time is that of the whole way there and back. The
    /// daemon needs CAP_NET_RAW, or a group within net.ipv4.ping_group_range.
    Ping {
        /// Node (name or number) or address
        dest: String,
        /// How many
        #[arg(short = 'c', long, default_value_t = 4)]
        count: u32,
        /// Time between two, like 200ms
        #[arg(short = 'i', long, default_value = "1s", value_parser = humantime::parse_duration)]
        interval: std::time::Duration,
        /// With this DSCP, by name (EF) or number (46): its class and path are measured
        #[arg(long, value_parser = dscp)]
        dscp: Option<u8>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the path to a destination hop by hop, and ask each node on it for an echo; exit code 1
    /// where there is no path
    Trace {
        /// Node (name or number) or address
        dest: String,
        #[command(flatten)]
        packets: Packets,
        /// Send no echoes
        #[arg(long)]
        no_echo: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show what happened lately: sessions, links, paths, refusals, reloads
    Events {
        /// Go on telling what happens until interrupted or the daemon ends
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show what came to nothing: every reason with its count, what it means and what to do
    Drops {
        /// Also the reasons that never occurred
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Write down the round trips of this node's links, as `netsim replay` and training read them
    ///
    /// One line for each slot of 15 to 60 s, the least round trip in it, appended to FILE until interrupted
    /// or the daemon ends. Holds names of nodes and times, nothing of the traffic.
    Record {
        /// The file (csv); made, or appended to if it is such a record
        file: PathBuf,
        /// End after this long, like 24h
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<std::time::Duration>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Have the daemon read its configuration again, as SIGHUP does; exit code 2 if it refused the file
    ///
    /// What can change while packets flow is taken over at once; keys that need a restart are named. A
    /// file with a problem is refused whole, and everything stays as it was.
    Reload(Ask),
    /// Check configuration files
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Test what a policy does with the mesh as it was
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Print what a shell needs to complete this program's arguments
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// Directory to write them to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a CA, issue and show certificates
    #[command(subcommand)]
    Cert(CertVerb),
}

/// Which packets to a destination are meant.
#[derive(Debug, Args)]
pub(crate) struct Packets {
    /// Packets of this class
    #[arg(long, conflicts_with_all = ["dscp", "protocol", "port"])]
    pub(crate) class: Option<String>,
    /// Packets with this DSCP, by name (EF) or number (46)
    #[arg(long, value_parser = dscp)]
    pub(crate) dscp: Option<u8>,
    /// Packets of this transport protocol, by name (udp) or number (17)
    #[arg(long, value_parser = protocol)]
    pub(crate) protocol: Option<u8>,
    /// Packets with this port at one end
    #[arg(long, requires = "protocol", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
}

/// How to reach the daemon and how to print its answer.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// Print JSON with a schema_version
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check a configuration and every file it names; exit code 2 if something is wrong
    Check {
        /// The configuration file
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
        /// Print JSON with a schema_version
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Check expectations ("gaming from a to b never over c"); exit code 1 if one does not hold
    Test {
        /// The expectations; see docs/config.md
        file: PathBuf,
        /// Print JSON with a schema_version
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// Make a CA: its key, its certificate and the ledger of what it issues
    Ca {
        /// Directory to make it in
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name of the CA
        #[arg(long)]
        name: String,
        /// Days until it ends
        #[arg(long, default_value_t = CA_DAYS)]
        days: u32,
        /// Directory of the CA this one succeeds: its ledger is taken over
        #[arg(long, value_name = "DIR")]
        succeeds: Option<PathBuf>,
    },
    /// Issue a node's certificate and key; its number comes from the CA's ledger
    Issue {
        /// Directory of the CA
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Name of the node
        #[arg(long)]
        name: String,
        /// Overlay address of the node; may be repeated, one per family is usual
        #[arg(long = "address", value_name = "IP", required_unless_present = "renew")]
        addresses: Vec<IpAddr>,
        /// Site prefix the node may announce; may be repeated
        #[arg(long = "prefix", value_name = "PREFIX")]
        prefixes: Vec<IpNet>,
        /// Forbid the node to relay for others
        #[arg(long)]
        no_relay: bool,
        /// Days until it ends
        #[arg(long, default_value_t = NODE_DAYS)]
        days: u32,
        /// Give a known node a new certificate and key; what is not said stays as it was
        #[arg(long)]
        renew: bool,
        /// Directory to write NAME.crt, NAME.key and ca.crt to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Print JSON with a schema_version
        #[arg(long)]
        json: bool,
    },
    /// Revoke a node's certificates: writes the CA's list, `ca.crl`, anew
    Revoke {
        /// Directory of the CA
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Name of the node
        #[arg(long)]
        name: String,
        /// Only this certificate of the node, PEM
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// Print JSON with a schema_version
        #[arg(long)]
        json: bool,
    },
    /// Show what a certificate grants
    Show {
        /// The certificate, PEM
        file: PathBuf,
        /// Also judge it by this CA certificate, now; may be repeated; exit code 1 if it is refused
        #[arg(long, value_name = "FILE")]
        ca: Vec<PathBuf>,
        /// Print JSON with a schema_version
        #[arg(long)]
        json: bool,
    },
}

fn dscp(text: &str) -> Result<u8, String> {
    thalweg::config::dscp_by_name(text)
        .ok_or_else(|| "a name like EF or AF41, or a number from 0 to 63".into())
}

/// A transport protocol as a configuration writes it.
fn protocol(text: &str) -> Result<u8, String> {
    thalweg::config::protocol_by_name(text)
        .ok_or_else(|| "a name like udp or tcp, or a number from 0 to 255".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
