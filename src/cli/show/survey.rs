//! The mesh, paths hop by hop, echoes, events and drops as text.

use std::fmt::Write;

use thalweg::daemon::pki::verify::date;
use thalweg::report::{DropRow, Echo, EventRow, Events, Matrix, Stretch, Trace};

use super::{NONE, lines, ms, nodes, percent, table};

/// A row and a column for each node: delay and loss from the row's to the column's.
pub(super) fn matrix(matrix: &Matrix) -> String {
    let names: Vec<&str> = matrix.nodes.iter().map(|n| n.name.as_str()).collect();
    let mut header = vec!["FROM \\ TO"];
    header.extend(&names);
    let mut grid = table(&header);
    for from in &names {
        let mut row = vec![(*from).to_owned()];
        for to in &names {
            let ways = matrix.links.iter().filter(|l| l.from == *from && l.to == *to);
            // Of parallel links the one with the least delay.
            let best = ways.min_by(|a, b| {
                let delay = |l: &Stretch| l.delay_ms.unwrap_or(f64::INFINITY);
                delay(a).total_cmp(&delay(b))
            });
            row.push(match best {
                _ if from == to => "-".into(),
                Some(l) => format!("{} {}%", ms(l.delay_ms), percent(l.loss_ratio)),
                None => NONE.into(),
            });
        }
        grid.add_row(row);
    }
    lines(grid)
        + "\none-way delay in ms, loss before repair; n/a: no link that works and was measured\n"
}

/// The path in force, and what its nodes answered.
pub(crate) fn trace(trace: &Trace, echoes: &[Echo]) -> String {
    let backup = if trace.on_backup { ", on the backup" } else { "" };
    let mut text = format!(
        "to {} (number {}), class {}: {}{backup}\n",
        trace.destination,
        trace.node,
        trace.class,
        nodes(&trace.path)
    );
    text += &hops(&trace.hops, echoes);
    let _ = writeln!(
        text,
        "expected one way: {} ms, loss {} %, {} per GB",
        ms(trace.path.delay_ms),
        percent(trace.path.loss_ratio),
        trace.path.price_per_gb
    );
    text
}

/// One row for each hop. With echoes: the round trip from here to its end.
pub(super) fn hops(hops: &[Stretch], echoes: &[Echo]) -> String {
    let mut header = vec![
        "HOP",
        "FROM",
        "TO",
        "DELAY MS",
        "JITTER MS",
        "LOSS %",
        "AFTER REPAIR %",
        "FORECAST MS",
        "CONFIDENCE",
        "PRICE/GB",
    ];
    if !echoes.is_empty() {
        header.push("ECHO MS");
    }
    let mut rows = table(&header);
    for (at, hop) in hops.iter().enumerate() {
        let mut row = vec![
            (at + 1).to_string(),
            hop.from.clone(),
            hop.to.clone(),
            ms(hop.delay_ms),
            ms(hop.jitter_ms),
            percent(hop.loss_ratio),
            percent(hop.residual_ratio),
            ms(hop.forecast_ms),
            hop.confidence_ratio.map_or(NONE.into(), |c| format!("{:.0} %", c * 100.0)),
            hop.price_per_gb.map_or(NONE.into(), |p| p.to_string()),
        ];
        if let Some(echo) = echoes.get(at) {
            row.push(rtt(echo));
        }
        rows.add_row(row);
    }
    lines(rows)
}

fn rtt(echo: &Echo) -> String {
    match (echo.rtt_ms, &echo.why) {
        (Some(rtt), _) => format!("{rtt:.2}"),
        (None, Some(why)) => why.clone(),
        (None, None) => NONE.into(),
    }
}

/// One echo on a line.
pub(crate) fn echo(echo: &Echo) -> String {
    let address = echo.address.map_or("no address".into(), |a| a.to_string());
    let path = echo.path.as_ref().map_or("no path".into(), nodes);
    let unit = if echo.rtt_ms.is_some() { " ms" } else { "" };
    format!("{} ({address}), class {}, {path}: {}{unit}\n", echo.destination, echo.class, rtt(echo))
}

/// All echoes together.
pub(crate) fn echoes(echoes: &[Echo]) -> String {
    let mut times: Vec<f64> = echoes.iter().filter_map(|e| e.rtt_ms).collect();
    times.sort_by(f64::total_cmp);
    let sent = echoes.len();
    let lost = sent - times.len();
    let share = if sent == 0 { NONE.into() } else { percent(Some(lost as f64 / sent as f64)) };
    let mut text = format!("{sent} sent, {} answered, {share} % lost", times.len());
    if let (Some(least), Some(most)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        let _ = write!(text, "; least {least:.2}, median {median:.2}, greatest {most:.2} ms");
    }
    text + "\n"
}

/// Events, one on a line.
pub(crate) fn events(events: &Events) -> String {
    let mut text = String::new();
    if events.lost > 0 {
        let _ = writeln!(text, "({} earlier events are not held any more)", events.lost);
    }
    for EventRow { at_unix_s, kind, node, text: said, .. } in &events.events {
        let node = node.as_deref().unwrap_or("-");
        let _ = writeln!(text, "{}  {kind}  {node}  {said}", date(at_unix_s.max(0.0) as u64));
    }
    text
}

/// Events, one JSON object on a line.
pub(crate) fn events_json(events: &Events) -> String {
    let line = |row| serde_json::to_string(row).unwrap_or_default() + "\n";
    events.events.iter().map(line).collect()
}

/// A row for each reason.
pub(super) fn drops(rows: &[DropRow]) -> String {
    if rows.is_empty() {
        return "nothing was dropped\n".into();
    }
    let mut all = table(&["PACKETS", "REASON", "WHAT IT MEANS", "WHAT TO DO"]);
    for row in rows {
        let packets = row.packets.to_string();
        all.add_row([&packets, &row.reason, &row.meaning, &row.remedy]);
    }
    lines(all)
}

#[cfg(test)]
mod tests {
    use thalweg::report::{MatrixNode, PathView};

    use super::*;

    fn stretch(from: &str, to: &str, delay_ms: f64) -> Stretch {
        Stretch {
            from: from.into(),
            to: to.into(),
            delay_ms: Some(delay_ms),
            loss_ratio: Some(0.0125),
            ..Stretch::default()
        }
    }

    #[test]
    fn the_matrix_has_every_pair_and_invents_none() {
        let node = |name: &str, node| MatrixNode { name: name.into(), node, relay: true };
        let known = Matrix {
            nodes: vec![node("paris", 1), node("lyon", 2)],
            links: vec![stretch("paris", "lyon", 12.34), stretch("paris", "lyon", 9.0)],
        };
        let text = matrix(&known);
        let row = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row(1), ["paris", "-", "9.0", "1.25%"]);
        assert_eq!(row(2), ["lyon", "n/a", "-"]);
    }

    #[test]
    fn a_trace_shows_each_hop_with_its_echo() {
        let path = PathView { nodes: vec!["lyon".into(), "nice".into()], ..PathView::default() };
        let told = Trace {
            destination: "nice".into(),
            class: "realtime".into(),
            hops: vec![stretch("paris", "lyon", 5.0), stretch("lyon", "nice", 7.0)],
            path,
            ..Trace::default()
        };
        let answered = Echo { rtt_ms: Some(10.126), ..Echo::default() };
        let silent = Echo { why: Some("no answer within 2 s".into()), ..Echo::default() };
        let text = trace(&told, &[answered, silent]);
        let row = |n: usize| text.lines().nth(n).unwrap().to_owned();
        assert!(row(0).ends_with("class realtime: via lyon"), "{text}");
        assert!(row(2).starts_with("1") && row(2).ends_with("10.13"), "{text}");
        assert!(row(3).contains("nice") && row(3).ends_with("no answer within 2 s"), "{text}");
    }

    #[test]
    fn echoes_are_summed_up_and_none_is_no_number() {
        let echo = |rtt_ms| Echo { rtt_ms, ..Echo::default() };
        let all = [echo(Some(3.0)), echo(None), echo(Some(1.0)), echo(Some(2.0))];
        let text = echoes(&all);
        assert_eq!(
            text,
            "4 sent, 3 answered, 25.00 % lost; least 1.00, median 2.00, greatest 3.00 ms\n"
        );
        assert_eq!(echoes(&[]), "0 sent, 0 answered, n/a % lost\n");
    }

    #[test]
    fn events_are_lines_and_say_what_is_missing() {
        let row = EventRow {
            number: 8,
            at_unix_s: 0.5,
            kind: "link_down".into(),
            node: Some("lyon".into()),
            text: "link l0 silent for 300 ms".into(),
        };
        let told = Events { lost: 7, events: vec![row] };
        let text = events(&told);
        assert!(text.starts_with("(7 earlier events are not held any more)\n1970-01-01T00:00:00Z"));
        assert!(text.ends_with("link_down  lyon  link l0 silent for 300 ms\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&events_json(&told)).unwrap();
        assert_eq!((&json["number"], &json["kind"]), (&8.into(), &"link_down".into()));
        assert_eq!(drops(&[]), "nothing was dropped\n");
    }
}
