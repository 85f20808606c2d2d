//! `netsim`: the laboratory's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netsim::demo;
use netsim::netns::{self, fidelity, stop::Stop};

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

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netsim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Fidelity { seconds, seed, json } => {
            let stop = enter_floor()?;
            let Some(fidelity) = fidelity::measure(seconds, seed, &stop)? else { return Ok(()) };
            if json {
                println!("{}", serde_json::to_string_pretty(&fidelity)?);
            } else {
                println!("{}", fidelity.table());
            }
            Ok(())
        }
        Command::Demo { seed, json, hold } => {
            let stop = enter_floor()?;
            let options = demo::Options { seed, json, hold };
            let Some(outcome) = demo::run(options, &stop)? else { return Ok(()) };
            if json {
                println!("{}", serde_json::to_string_pretty(&outcome)?);
            }
            Ok(())
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
