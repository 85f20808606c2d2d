//! `netsim`: the laboratory's command.

mod recorded;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use netsim::bench::{
    self, BenchReport, control, fairness, mesh, recovery, soak, steps, throughput,
};
use netsim::check;
use netsim::demo;
use netsim::netns::{self, fidelity, lab, stop::Stop};
use netsim::scenario::Scenario;
use thalweg::config::Config;
use thalweg::daemon::log;

#[derive(Parser)]
#[command(name = "netsim", about = "Thalweg's laboratory", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what the emulated Internet does against what it was asked to do.
    Fidelity {
        /// How long, in seconds; the packet rate takes half as long again.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Seed of the links' dice.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Play a scenario in virtual time. Exit code 1: a check did not hold.
    Run {
        /// The scenario file.
        scenario: std::path::PathBuf,
        /// Seed of everything that rolls dice, instead of the scenario's own.
        #[arg(long)]
        seed: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print every transition of every node on standard error.
        #[arg(long)]
        trace: bool,
    },
    /// Run a scenario with real daemons in network namespaces. Exit code 1: a check did not hold.
    Lab {
        /// The scenario file.
        scenario: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The daemon, as `thalweg run` starts it: the laboratory starts itself again for each node.
    #[command(hide = true)]
    Daemon {
        /// The node's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Measure. Exit code 1: something of ours could not be measured.
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    /// Play recorded round trips into the daemon's estimator, forecaster, solver and chooser, and write
    /// what they say before they see the next.
    Replay(recorded::Replay),
    /// Judge what `replay` wrote by the record.
    Score(recorded::Score),
    /// An unencrypted pump, as a ceiling to measure the daemon against.
    #[command(hide = true)]
    Pump {
        /// The TUN device; without it, two pairs of addresses.
        #[arg(long)]
        tun: Option<String>,
        /// Own address and port.
        #[arg(long)]
        local: Vec<SocketAddr>,
        /// The other's, for each of them.
        #[arg(long)]
        remote: Vec<SocketAddr>,
    },
    /// Five sites on an emulated Internet: direct beside overlay, while things go wrong.
    Demo {
        /// Seed of loss and weather.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print the outcome as JSON on standard output, everything else on standard error.
        #[arg(long)]
        json: bool,
        /// Keep everything up at the end, for one's own ping, command line and metrics.
        #[arg(long)]
        hold: bool,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// TCP, packet rates, delay, processor time and memory of a pair: direct and over a relay,
    /// beside the bare link and an unencrypted pump.
    Throughput {
        #[command(flatten)]
        how: How,
        /// Only these cases.
        #[arg(long, value_enum, value_delimiter = ',')]
        case: Vec<bench::ground::Case>,
        /// Only these steps.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<throughput::Step>,
        /// Other programs beside ours, where installed: boringtun, wireguard-go, nebula,
        /// tinc.
        #[arg(long)]
        peers: bool,
        /// Our own daemons once more, with so many lanes.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
        lanes: Option<u8>,
    },
    /// Mixed traffic over a relay while things go wrong again and again: memory that grows, daemons
    /// that end.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// For a minute: each fault once.
        #[arg(long)]
        quick: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Processor time of each step of a packet's way, beside its floor. Needs no privileges.
    Steps {
        #[command(flatten)]
        how: How,
    },
    /// What repair leaves and what it costs, beside the least possible: round trips × losses × flows ×
    /// deadlines, in virtual time. Needs no privileges.
    Recovery {
        #[command(flatten)]
        how: How,
        /// With real daemons in namespaces instead, in real time: some of the cells, and TCP (cubic and
        /// bbr, such as `cubic_iid2_rtt100_50m`) beside the bare line.
        #[arg(long, conflicts_with = "packets")]
        namespaces: bool,
        /// Instead, how soon repair follows a line that begins to lose 10 % and stops again: residual
        /// from a second after, repair from two seconds after, over a thousand seeds.
        #[arg(long, conflicts_with_all = ["packets", "namespaces", "only"])]
        adapt: bool,
        /// Only cells whose name contains one of these, such as `iid5_rtt20`; in virtual time also cells that
        /// no table has, by their whole names, such as `iid3_rtt30_pps200_d80`.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Packets of each cell; by default a million where there is a figure to reach, else 200,000.
        #[arg(long)]
        packets: Option<u64>,
        /// Seed of the first run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Whole meshes in virtual time, n100 and n500, and the solver alone, n1000: what each node says and
    /// spends, how good its paths are, how soon a death is known. Needs no privileges.
    Mesh {
        #[command(flatten)]
        how: How,
        /// Only cases whose name contains one of these.
        #[arg(long, visible_alias = "only", value_delimiter = ',')]
        case: Vec<String>,
        /// Seed of the first run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The tunnel beside plain TCP on a full line of 50 Mbit/s, 40 ms: tunnel_vs_tcp, tunnel_alone,
    /// tunnel_loss2 (2 % random loss), tunnel_cross (TCP that comes and goes); without a tunnel
    /// plain_alone, plain_vs_plain.
    Fairness {
        #[command(flatten)]
        how: How,
        /// Only cases whose name contains one of these.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Delay and loss of a steady flow while the control side works hard: scrapes, reconnects, tables.
    Control {
        #[command(flatten)]
        how: How,
    },
}

/// What every bench knows.
#[derive(Args)]
struct How {
    /// Runs of everything; 5, with --quick 1.
    #[arg(long)]
    runs: Option<usize>,
    /// At most a minute: to see that it works, not to compare.
    #[arg(long)]
    quick: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl How {
    fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 1 } else { 5 })
    }

    /// Prints it; whether everything of ours was measured.
    fn show(&self, report: Option<BenchReport>) -> anyhow::Result<bool> {
        let Some(report) = report else { return Ok(true) };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{}", report.text());
        }
        Ok(report.is_whole())
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("netsim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does it; false where something that was to hold did not.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Fidelity { seconds, seed, json } => {
            let stop = enter_floor()?;
            let Some(fidelity) = fidelity::measure(seconds, seed, &stop)? else { return Ok(true) };
            if json {
                println!("{}", serde_json::to_string_pretty(&fidelity)?);
            } else {
                println!("{}", fidelity.table());
            }
            Ok(true)
        }
        Command::Run { scenario, seed, json, trace } => {
            let played = check::play(&Scenario::read(&scenario)?, seed)?;
            if trace {
                played.lines.iter().for_each(|line| eprintln!("{line}"));
            }
            if json {
                println!("{}", serde_json::to_string_pretty(&played)?);
            } else {
                println!("{}", played.text());
            }
            Ok(played.findings.hold())
        }
        Command::Lab { scenario, json } => {
            let stop = enter_floor()?;
            let scenario = Scenario::read(&scenario)?;
            let Some(findings) = lab::run(&scenario, &stop)? else { return Ok(true) };
            if json {
                println!("{}", serde_json::to_string_pretty(&findings)?);
            } else {
                println!("{}", findings.text());
            }
            Ok(findings.hold())
        }
        Command::Daemon { config } => {
            let config = Config::parse(&std::fs::read_to_string(&config)?, &config)?;
            log::start(config.log);
            let kept = thalweg::daemon::Kept::of(&config);
            thalweg::daemon::run(config, kept)?;
            Ok(true)
        }
        Command::Bench { bench } => {
            let stop = enter_floor()?;
            match bench {
                Bench::Throughput { how, case, only, peers, lanes } => {
                    let (runs, quick) = (how.runs(), how.quick);
                    let cases = case;
                    let options = throughput::Options { runs, quick, cases, only, peers, lanes };
                    how.show(throughput::run(&options, &stop)?)
                }
                Bench::Soak { minutes, quick, json } => {
                    let how = How { runs: None, quick, json };
                    let minutes = if quick { 1 } else { minutes };
                    let length = std::time::Duration::from_secs(60 * minutes);
                    how.show(soak::run(soak::Options { length }, &stop)?)
                }
                Bench::Recovery { how, namespaces, adapt, only, packets, seed } => {
                    // Virtual time repeats exactly: one run says as much as its packets do.
                    let (runs, quick) = (how.runs.unwrap_or(1), how.quick);
                    let plan = recovery::Plan { only, packets, quick, seed, runs };
                    how.show(if adapt {
                        Some(recovery::run_adapt(&plan))
                    } else if namespaces {
                        recovery::run_daemons(&plan, &stop)?
                    } else {
                        Some(recovery::run(&plan)?)
                    })
                }
                Bench::Mesh { how, case, seed } => {
                    // Virtual time repeats exactly: one run says as much as its length does.
                    let (runs, quick) = (how.runs.unwrap_or(1), how.quick);
                    let plan = mesh::Plan { only: case, quick, seed, runs };
                    how.show(Some(mesh::run(&plan, &stop)?))
                }
                Bench::Steps { how } => how.show(Some(steps::run(how.runs(), how.quick)?)),
                Bench::Fairness { how, only } => {
                    how.show(fairness::run(how.runs(), how.quick, &only, &stop)?)
                }
                Bench::Control { how } => how.show(control::run(how.runs(), how.quick, &stop)?),
            }
        }
        Command::Replay(replay) => replay.run(),
        Command::Score(score) => score.run(),
        Command::Pump { tun, local, remote } => {
            anyhow::ensure!(local.len() == remote.len(), "each --local needs its --remote");
            let pairs: Vec<_> = local.into_iter().zip(remote).collect();
            bench::pump::run(tun.as_deref(), &pairs)?;
            Ok(true)
        }
        Command::Demo { seed, json, hold } => {
            let stop = enter_floor()?;
            let options = demo::Options { seed, json, hold };
            let Some(outcome) = demo::run(options, &stop)? else { return Ok(true) };
            if json {
                println!("{}", serde_json::to_string_pretty(&outcome)?);
            }
            Ok(true)
        }
    }
}

/// Takes signals over, checks that namespaces can be made, sweeps what a killed run left.
fn enter_floor() -> anyhow::Result<Stop> {
    let stop = Stop::on_signals()?;
    netns::check_floor()?;
    netns::sweep();
    Ok(stop)
}
