//! What is made from the command line's own grammar: completions and man pages.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, End};

/// A shell's completions.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "thalweg", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for the program and one for each of its commands.
pub(crate) fn man(out: &Path) -> End {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut written = String::new();
    match page(&command, "thalweg", out, &mut written) {
        Ok(()) => End::Done(written),
        Err(error) => End::Wrong(format!("{}: {error}", out.display())),
    }
}

fn page(command: &Command, name: &str, out: &Path, written: &mut String) -> std::io::Result<()> {
    let named = command.clone().display_name(name.to_owned());
    // A date would make each day's pages others.
    let man = clap_mangen::Man::new(named).title(name).date("").manual("Thalweg");
    let mut text = Vec::new();
    man.render(&mut text)?;
    std::fs::create_dir_all(out)?;
    let file = out.join(format!("{name}.1"));
    std::fs::write(&file, text)?;
    *written += &format!("{}\n", file.display());
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        page(below, &format!("{name}-{}", below.get_name()), out, written)?;
    }
    Ok(())
}
