//! Instruments for people who work on Thalweg.
//!
//! `cargo run -p tools -- tidy` checks the shape of the tree and prints what is out of it, `write` writes the
//! files that are made from the code, and `cargo run --release -p tools -- train` learns a forecast
//! model from recorded traces.

mod tidy;
mod train;

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => {
            let found = tidy::check(Path::new("."))?;
            for finding in &found {
                println!("{finding}");
            }
            Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // The test that says whether they are current knows how they are made.
        Some("write") => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let arguments = ["test", "-p", "thalweg", "--test", "written"];
            let ended = Command::new(cargo).args(arguments).env("THALWEG_WRITE", "1").status()?;
            Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some("train") => {
            train::run(std::env::args().skip(2))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("usage: cargo run -p tools -- tidy|write    (from the project's root)");
            eprintln!("       cargo run --release -p tools -- {}", train::USAGE);
            Ok(ExitCode::from(2))
        }
    }
}
