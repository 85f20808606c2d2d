//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use thalweg::daemon::clock::unix_seconds;

mod cli;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli::run(cli, unix_seconds()).finish()
}
