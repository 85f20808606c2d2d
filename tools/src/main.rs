//! `cargo run -p tools -- tidy`: checks the shape of the tree and prints what is out of it.

mod tidy;

use std::path::Path;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => {
            let found = tidy::check(Path::new("."))?;
            for finding in &found {
                println!("{finding}");
            }
            Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => {
            eprintln!("usage: cargo run -p tools -- tidy    (from the project's root)");
            Ok(ExitCode::from(2))
        }
    }
}
