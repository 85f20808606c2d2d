//! `ping` and `trace`: one question after the other, each answer printed as it comes.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;
use thalweg::daemon::admin::{Body, Envelope};
use thalweg::report::{Answer, Command, Echo, SCHEMA_VERSION};

use super::args::{Ask, Packets};
use super::{End, answer, asked, json_text, show};

/// Sends echoes one by one.
pub(crate) fn ping(ask: &Ask, dest: &str, count: u32, interval: Duration, dscp: Option<u8>) -> End {
    let mut echoes = Vec::new();
    for number in 0..count {
        if number > 0 {
            std::thread::sleep(interval);
        }
        let echo = match echo(ask, dest, dscp) {
            Ok(echo) => echo,
            Err(end) => return end,
        };
        if !ask.json {
            let line = show::echo(&echo);
            let mut out = io::stdout();
            if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        echoes.push(echo);
    }
    let answered = echoes.iter().any(|echo| echo.rtt_ms.is_some());
    let text = if ask.json {
        json_text(&json!({ "schema_version": SCHEMA_VERSION, "echoes": echoes }))
    } else {
        show::echoes(&echoes)
    };
    if answered || count == 0 { End::Done(text) } else { End::Unmet(text) }
}

/// Shows the path in force, and has each node on it echo.
pub(crate) fn trace(ask: &Ask, destination: String, packets: Packets, no_echo: bool) -> End {
    let Packets { class, dscp, protocol, port } = packets;
    let command = Command::Trace { destination, class, dscp, protocol, port };
    let envelope = match asked(ask, &command) {
        Ok(envelope) => envelope,
        Err(end) => return end,
    };
    let Envelope { body: Body::Answer(Answer::Trace(trace)), .. } = &envelope else {
        return answer(&envelope, ask.json);
    };
    let mut echoes = Vec::new();
    for hop in trace.hops.iter().take_while(|_| !no_echo) {
        match echo(ask, &hop.to, dscp) {
            Ok(echo) => echoes.push(echo),
            Err(end) => return end,
        }
    }
    End::Done(if ask.json {
        json_text(&json!({ "schema_version": SCHEMA_VERSION, "trace": trace, "echoes": echoes }))
    } else {
        show::trace(trace, &echoes)
    })
}

fn echo(ask: &Ask, dest: &str, dscp: Option<u8>) -> Result<Echo, End> {
    let envelope = asked(ask, &Command::Ping { destination: dest.to_owned(), dscp })?;
    match envelope.body {
        Body::Answer(Answer::Ping(echo)) => Ok(*echo),
        _ => Err(answer(&envelope, ask.json)),
    }
}
