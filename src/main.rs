//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli::run(cli, unix_seconds()).finish()
}

fn unix_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "certificates speak of wall time")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
