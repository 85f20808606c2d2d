//! The command line: arguments in, one answer and an exit code out.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use thalweg::daemon::admin::{self, Body, Envelope};
use thalweg::daemon::pki::identity::check_files;
use thalweg::daemon::{self, log};
use thalweg::report::{Answer, Command};

mod args;
mod cert;
mod pages;
mod path;
mod policy;
mod record;
mod show;

pub(crate) use args::Cli;
use args::{Ask, ConfigVerb, Packets, PolicyVerb, Verb};

/// How a command ends.
pub(crate) enum End {
    /// It was done; this goes to standard output.
    Done(String),
    /// The asked-for condition does not hold; this goes to standard output.
    Unmet(String),
    /// The asked-for condition does not hold; this goes to standard error.
    UnmetBecause(String),
    /// Wrong usage, configuration or file; this goes to standard error.
    Wrong(String),
    /// The same, with an answer for standard output.
    WrongButSaid(String),
    /// No daemon answers; this goes to standard error.
    Unreachable(String),
}

impl End {
    /// Prints what there is to print.
    pub(crate) fn finish(self) -> ExitCode {
        let (code, out, error) = match self {
            Self::Done(out) => (0, out, String::new()),
            Self::Unmet(out) => (1, out, String::new()),
            Self::UnmetBecause(why) => (1, String::new(), why),
            Self::Wrong(why) => (2, String::new(), why),
            Self::WrongButSaid(out) => (2, out, String::new()),
            Self::Unreachable(why) => (3, String::new(), why),
        };
        // A reader that went away (`| head`) is no reason to complain.
        let _ = io::stdout().write_all(out.as_bytes());
        if !error.is_empty() {
            let _ = writeln!(io::stderr(), "{}", error.trim_end());
        }
        ExitCode::from(code)
    }
}

/// Carries out a command. `now` is the wall time in seconds of Unix time.
pub(crate) fn run(cli: Cli, now: u64) -> End {
    match cli.verb {
        Verb::Run { config } => run_daemon(&config),
        Verb::Status(ask) => query(&ask, &Command::Status),
        Verb::Peers(ask) => query(&ask, &Command::Peers),
        Verb::Links(ask) => query(&ask, &Command::Links),
        Verb::Paths { dest, ask } => query(&ask, &Command::Paths { destination: dest }),
        Verb::Explain { dest, packets, ask } => {
            let Packets { class, dscp, protocol, port } = packets;
            query(&ask, &Command::Explain { destination: dest, class, dscp, protocol, port })
        }
        Verb::Matrix(ask) => query(&ask, &Command::Matrix),
        Verb::Ping { dest, count, interval, dscp, ask } => {
            path::ping(&ask, &dest, count, interval, dscp)
        }
        Verb::Trace { dest, packets, no_echo, ask } => path::trace(&ask, dest, packets, no_echo),
        Verb::Events { follow: false, ask } => query(&ask, &Command::Events { follow: false }),
        Verb::Events { follow: true, ask } => follow(&ask),
        Verb::Drops { all, ask } => drops(&ask, all),
        Verb::Record { file, time, ask } => record::run(&ask, &file, time),
        Verb::Reload(ask) => query(&ask, &Command::Reload),
        Verb::Config(ConfigVerb::Check { file, json }) => cert::check(&file, json),
        Verb::Policy(PolicyVerb::Test { file, json }) => policy::test(&file, json),
        Verb::Completions { shell } => End::Done(pages::completions(shell)),
        Verb::Man { out } => pages::man(&out),
        Verb::Cert(verb) => cert::run(verb, now),
    }
}

fn run_daemon(file: &Path) -> End {
    let checked = cert::load(file).and_then(|config| {
        // What is wrong with the state is worth a line.
        log::start(config.log);
        let kept = daemon::Kept::of(&config);
        let remarks = check_files(&config, kept.judged_by())?;
        Ok((config, kept, remarks))
    });
    let (config, kept, remarks) = match checked {
        Ok(checked) => checked,
        Err(problems) => return End::Wrong(problems.join("\n")),
    };
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    match daemon::run(config, kept) {
        Ok(()) => End::Done(String::new()),
        Err(error) => End::UnmetBecause(format!("{error:#}")),
    }
}

fn query(ask: &Ask, command: &Command) -> End {
    match asked(ask, command) {
        Ok(envelope) => answer(&envelope, ask.json),
        Err(end) => end,
    }
}

/// The daemon's answer, or how the command ends without one.
fn asked(ask: &Ask, command: &Command) -> Result<Envelope, End> {
    admin::query_blocking(&ask.socket, command).map_err(|error| unreachable(ask, &error))
}

fn unreachable(ask: &Ask, error: &io::Error) -> End {
    End::Unreachable(format!(
        "no daemon answers at {}: {error}; is it running, and may you open its socket?",
        ask.socket.display()
    ))
}

/// `drops`: what occurred, or everything.
fn drops(ask: &Ask, all: bool) -> End {
    let mut envelope = match asked(ask, &Command::Drops) {
        Ok(envelope) => envelope,
        Err(end) => return end,
    };
    if let Body::Answer(Answer::Drops(rows)) = &mut envelope.body {
        rows.retain(|row| all || row.packets > 0);
    }
    answer(&envelope, ask.json)
}

/// `events --follow`: prints each lot as it comes.
fn follow(ask: &Ask) -> End {
    let mut end = End::Done(String::new());
    let followed = admin::follow_blocking(&ask.socket, |envelope| {
        let text = match &envelope.body {
            Body::Answer(Answer::Events(events)) if ask.json => show::events_json(events),
            Body::Answer(Answer::Events(events)) => show::events(events),
            _ => {
                end = answer(&envelope, ask.json);
                return ControlFlow::Break(());
            }
        };
        let mut out = io::stdout();
        // A reader that went away ends it.
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    match followed {
        Ok(()) => end,
        Err(error) => unreachable(ask, &error),
    }
}

fn answer(envelope: &Envelope, json: bool) -> End {
    let answer = match &envelope.body {
        Body::Answer(answer) => answer,
        Body::Error { error } => return End::Unreachable(format!("the daemon says: {error}")),
    };
    let missing = match answer {
        Answer::NotFound(_) => true,
        Answer::Paths(rows) => rows.is_empty(),
        Answer::Explain(explanation) => explanation.candidates.is_empty(),
        _ => false,
    };
    if json {
        let text = json_text(&serde_json::to_value(envelope).unwrap_or_default());
        if matches!(answer, Answer::Refused(_)) {
            return End::WrongButSaid(text);
        }
        return if missing { End::Unmet(text) } else { End::Done(text) };
    }
    if let Answer::Refused(problems) = answer {
        return End::Wrong(problems.join("\n") + "\nnothing was changed");
    }
    match show::text(answer) {
        Ok(text) if missing => End::Unmet(text),
        Ok(text) => End::Done(text),
        Err(why) => End::UnmetBecause(why),
    }
}

/// JSON on lines of its own for a reader, on one line for a program.
fn json_text(value: &serde_json::Value) -> String {
    if io::stdout().is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") }
}
