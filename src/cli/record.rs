//! `record`: writes this node's own history down, as replays and training read it.
//!
//! Asks the daemon for its links again and again, and writes each slot it has measured since: the
//! very readings the forecaster was given.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use thalweg::daemon::admin::Body;
use thalweg::daemon::clock::unix_seconds;
use thalweg::report::{Answer, Command, LinkRow, LinkState, SCHEMA_VERSION};

use super::args::Ask;
use super::{End, asked, json_text};

/// A slot is 15 s long at least, so none is missed.
const EVERY: Duration = Duration::from_secs(5);
/// A link that is down is written down as lost so often.
const DOWN_S: u64 = 60;
/// How the file begins.
const HEAD: &str = "trace,epoch_s,rtt_ms";

/// What was written of one link last.
#[derive(Default)]
struct Written {
    slots: u64,
    at_s: u64,
}

/// Writes until the time is over, the daemon is gone or the process is interrupted.
pub(crate) fn run(ask: &Ask, file: &Path, time: Option<Duration>) -> End {
    let status = match asked(ask, &Command::Status) {
        Ok(envelope) => envelope,
        Err(end) => return end,
    };
    let Body::Answer(Answer::Status(status)) = status.body else {
        return End::Wrong("the daemon does not say who it is; is it of another version?".into());
    };
    let name = status.name;
    let opened = OpenOptions::new().read(true).append(true).create(true).open(file);
    let failed = |error: io::Error| End::Wrong(format!("{}: {error}", file.display()));
    let mut out = match opened {
        Ok(out) => out,
        Err(error) => return failed(error),
    };
    if let Err(error) = begin(file, &mut out) {
        return failed(error);
    }
    let until = time.map(|time| unix_seconds().saturating_add(time.as_secs()));
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    let mut lines = 0_u64;
    loop {
        let envelope = match asked(ask, &Command::Links) {
            Ok(envelope) => envelope,
            Err(end) if lines == 0 => return end,
            // What was recorded is good; that the daemon ended is no fault of it.
            Err(_) => break,
        };
        let now = unix_seconds();
        if let Body::Answer(Answer::Links(rows)) = envelope.body {
            let text: String =
                rows.iter().filter_map(|row| line(&name, row, now, &mut written)).collect();
            lines += text.lines().count() as u64;
            if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                return failed(error);
            }
        }
        if until.is_some_and(|until| now >= until) {
            break;
        }
        std::thread::sleep(EVERY);
    }
    End::Done(if ask.json {
        let file = file.display().to_string();
        let value =
            serde_json::json!({"schema_version": SCHEMA_VERSION, "file": file, "samples": lines});
        json_text(&value)
    } else {
        format!("{}: {lines} samples\n", file.display())
    })
}

/// Writes the head of a new file; refuses one that is something else.
fn begin(file: &Path, out: &mut std::fs::File) -> io::Result<()> {
    use std::io::Read;
    let mut start = vec![0; HEAD.len() + 1];
    let got = std::fs::File::open(file)?.read(&mut start)?;
    match &start[..got] {
        [] => out.write_all(format!("{HEAD}\n").as_bytes()),
        text if text == format!("{HEAD}\n").as_bytes() => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "holds something else; name another file",
        )),
    }
}

/// A link's line, where there is something new.
fn line(
    own: &str,
    row: &LinkRow,
    now: u64,
    written: &mut BTreeMap<String, Written>,
) -> Option<String> {
    let trace = format!("{own}>{}:{}", row.peer, row.link);
    let last = written.entry(trace.clone()).or_insert(Written { slots: row.rtt_slots, at_s: 0 });
    if now <= last.at_s {
        return None;
    }
    let value = match row.rtt_slot_ms {
        Some(ms) if row.rtt_slots != last.slots => format!("{ms:.3}"),
        _ if row.state == LinkState::Down && now >= last.at_s + DOWN_S => String::new(),
        _ => return None,
    };
    *last = Written { slots: row.rtt_slots, at_s: now };
    Some(format!("{trace},{now},{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_written_once_and_a_link_that_is_down_as_lost() {
        let mut written = BTreeMap::new();
        let mut row =
            LinkRow { peer: "lyon".into(), link: 3, state: LinkState::Up, ..LinkRow::default() };
        row.rtt_slots = 7;
        row.rtt_slot_ms = Some(12.5);
        assert_eq!(line("paris", &row, 100, &mut written), None, "measured before we asked");
        row.rtt_slots = 8;
        let said = line("paris", &row, 105, &mut written);
        assert_eq!(said.as_deref(), Some("paris>lyon:3,105,12.500\n"));
        assert_eq!(line("paris", &row, 110, &mut written), None);
        row.state = LinkState::Down;
        assert_eq!(line("paris", &row, 120, &mut written), None);
        assert_eq!(line("paris", &row, 170, &mut written).as_deref(), Some("paris>lyon:3,170,\n"));
    }

    #[test]
    fn a_file_that_is_something_else_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.csv");
        let open = || OpenOptions::new().read(true).append(true).create(true).open(&file).unwrap();
        begin(&file, &mut open()).unwrap();
        begin(&file, &mut open()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "trace,epoch_s,rtt_ms\n");
        std::fs::write(&file, "something else, quite long").unwrap();
        assert!(begin(&file, &mut open()).is_err());
    }
}
