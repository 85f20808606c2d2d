//! Answers as text: one table per question, `n/a` for what was not measured.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::{Table, presets};
use thalweg::daemon::pki::verify::date;
use thalweg::report::{
    Answer, Candidate, DirectionRow, Explanation, LinkRow, PathRow, PathView, PeerRow, Reloaded,
    Status, Volume,
};

mod survey;

pub(crate) use survey::{echo, echoes, events, events_json, trace};

/// The text for an answer, or why there is none.
pub(crate) fn text(answer: &Answer) -> Result<String, String> {
    match answer {
        Answer::Status(status) => Ok(self::status(status)),
        Answer::Peers(rows) => Ok(peers(rows)),
        Answer::Links(rows) => Ok(links(rows)),
        Answer::Paths(rows) if rows.is_empty() => Err("no path".into()),
        Answer::Paths(rows) => Ok(paths(rows)),
        Answer::Explain(explanation) => Ok(explain(explanation)),
        Answer::Report(report) => Ok(self::status(&report.status)),
        Answer::Matrix(matrix) => Ok(survey::matrix(matrix)),
        Answer::Trace(trace) => Ok(survey::trace(trace, &[])),
        Answer::Ping(echo) => Ok(survey::echo(echo)),
        Answer::Drops(rows) => Ok(survey::drops(rows)),
        Answer::Events(events) => Ok(survey::events(events)),
        Answer::Reload(told) => Ok(reloaded(told)),
        Answer::NotFound(why) => Err(why.clone()),
        Answer::Refused(problems) => Err(problems.join("\n")),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

/// The table's lines without the blanks at their ends, which break copying from a terminal.
fn lines(mut table: Table) -> String {
    table.discover_columns();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

const NONE: &str = "n/a";

fn ms(value: Option<f64>) -> String {
    value.map_or(NONE.into(), |v| format!("{v:.1}"))
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or(NONE.into(), |r| format!("{:.2}", r * 100.0))
}

fn age(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|s| s.is_finite() && *s >= 0.0) else { return NONE.into() };
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    // Past a minute nobody counts tenths, past a day nobody counts seconds.
    let step = if seconds < 86_400.0 { 1 } else { 3600 };
    let whole = (seconds as u64) / step * step;
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn volume(volume: Option<Volume>) -> String {
    let Some(volume) = volume else { return NONE.into() };
    format!("{} packets, {}", volume.packets, size(volume.bytes))
}

fn counts<'a>(counted: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let all: Vec<_> = counted.map(|(what, count)| format!("{what} {count}")).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn reloaded(told: &Reloaded) -> String {
    let mut text = match told.applied.as_slice() {
        [] => format!("{}: nothing to take over\n", told.file),
        applied => format!("{}: in force now: {}\n", told.file, applied.join(", ")),
    };
    if !told.restart.is_empty() {
        let _ = writeln!(text, "waits for a restart: {}", told.restart.join(", "));
    }
    for remark in &told.remarks {
        let _ = writeln!(text, "note: {remark}");
    }
    text
}

fn status(s: &Status) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("node", format!("{} (number {})", s.name, s.node));
    row("version", s.version.clone());
    row("up", age(Some(s.uptime_s)));
    row("addresses", list(&s.addresses));
    row("prefixes", list(&s.prefixes));
    row("relays for others", yes(s.relay).into());
    row("uses relays", yes(s.use_relays).into());
    if let Some(c) = &s.configured {
        row("configuration", format!("{} of {}", c.file, date(c.read_unix_s)));
        if let Some(problem) = &c.problem {
            row("  not reloaded", problem.clone());
        }
        if !c.restart.is_empty() {
            row("  waits for a restart", c.restart.join(", "));
        }
    }
    if let Some(c) = s.spend.as_ref().filter(|c| c.price_per_gb > 0.0 || c.spent > 0.0) {
        let budget = c.budget.map_or(String::new(), |budget| format!(" of {budget}"));
        let over = if c.over_budget { ", spent: no relaying for others" } else { "" };
        let text = format!(
            "{:.2}{budget} in {} for {}{over}; a GB costs {} now",
            c.spent,
            c.month,
            size(c.bytes),
            c.price_per_gb
        );
        row("money", text);
    }
    row("certificate ends", date(s.certificate_not_after_unix_s));
    row("nodes", format!("{} known, {} connected", s.nodes_known, s.peers_connected));
    row("links", format!("{} of {} up", s.links_up, s.links));
    row("reachable", format!("{} of {} nodes", s.destinations_reachable, s.nodes_known));
    let last = s
        .recomputed_ago_s
        .map_or("not recomputed yet".into(), |ago| format!("recomputed {} ago", age(Some(ago))));
    let next = age(s.recompute_in_s);
    row("routes", format!("table {}, {last}, next time in {next}", s.table_generation));
    row("ingress", volume(s.traffic.map(|t| t.ingress)));
    row("  of that relayed", volume(s.traffic.map(|t| t.ingress_relayed)));
    row("egress", volume(s.traffic.map(|t| t.egress)));
    row("relayed for others", volume(s.traffic.map(|t| t.relay)));
    for l in &s.lanes {
        let text = format!(
            "{} in, {} out, {} relayed, {} handed over",
            l.ingress_packets, l.egress_packets, l.relay_packets, l.handed_packets
        );
        row(&format!("lane {}", l.lane), text);
    }
    let dropped = s.dropped_packets.as_ref();
    row("dropped packets", dropped.map_or(NONE.into(), |d| counts(d.iter())));
    row("refused messages", counts(s.refused.iter()));
    let waiting = s.memory.map(|m| {
        format!(
            "{} packets, {} of at most {}",
            m.frames,
            size(m.waiting_bytes),
            size(m.waiting_bound_bytes)
        )
    });
    row("waiting here", waiting.unwrap_or(NONE.into()));
    row("memory", s.memory.and_then(|m| m.resident_bytes).map_or(NONE.into(), size));
    for (class, reasons) in &s.path_switches {
        row(&format!("path moves, {class}"), counts(reasons.iter()));
    }
    let failovers = s.failover_s.count();
    if failovers > 0 {
        let mean = s.failover_s.sum_s / failovers as f64 * 1000.0;
        row("failovers", format!("{failovers}, mean {mean:.0} ms"));
    }
    lines(table)
}

fn peers(rows: &[PeerRow]) -> String {
    if rows.is_empty() {
        return "no other node is known yet\n".into();
    }
    let mut table = table(&[
        "NAME",
        "NUMBER",
        "STATE",
        "ADDRESSES",
        "PREFIXES",
        "ENDPOINT",
        "LINKS UP",
        "RELAY",
        "SESSION",
        "RECORD",
    ]);
    for p in rows {
        table.add_row([
            p.name.clone(),
            p.node.to_string(),
            p.state.name().into(),
            list(&p.addresses),
            list(&p.prefixes),
            p.endpoints.first().cloned().unwrap_or("-".into()),
            p.links_up.to_string(),
            yes(p.relay).into(),
            age(p.session_age_s),
            age(p.record_age_s),
        ]);
    }
    let mut text = lines(table);
    for p in rows {
        if let Some(error) = &p.last_error {
            let _ = writeln!(text, "{}: {error}", p.name);
        }
    }
    text
}

fn links(rows: &[LinkRow]) -> String {
    if rows.is_empty() {
        return "no link yet\n".into();
    }
    let mut quality = table(&[
        "LINK",
        "PEER",
        "STATE",
        "IN USE",
        "RTT MS least/median/p95",
        "WAY",
        "DELAY MS",
        "JITTER MS",
        "LOSS %",
        "AGE",
        "FORECAST MS",
        "CONFIDENCE",
    ]);
    let reading = |way: &DirectionRow| {
        let stale = if way.stale { " stale" } else { "" };
        [ms(way.delay_ms), ms(way.jitter_ms), percent(way.loss_ratio), age(way.age_s) + stale]
    };
    for l in rows {
        let rtt =
            format!("{} / {} / {}", ms(l.rtt_least_ms), ms(l.rtt_median_ms), ms(l.rtt_p95_ms));
        let (forecast, confidence) = match &l.forecast {
            Some(f) => (
                format!("{:.1} ({:.1} to {:.1})", f.level_ms, f.low_ms, f.high_ms),
                percent(Some(f.confidence_ratio)) + " %",
            ),
            None => (NONE.into(), NONE.into()),
        };
        let [delay, jitter, loss, old] = reading(&l.outbound);
        let state = l.state.name().to_owned();
        let link = l.link.to_string();
        quality.add_row([
            link,
            l.peer.clone(),
            state,
            yes(l.in_use).into(),
            rtt,
            "out".into(),
            delay,
            jitter,
            loss,
            old,
            forecast,
            confidence,
        ]);
        let [delay, jitter, loss, old] = reading(&l.inbound);
        let blank = String::new;
        quality.add_row([
            blank(),
            blank(),
            blank(),
            blank(),
            blank(),
            "in".into(),
            delay,
            jitter,
            loss,
            old,
            blank(),
            blank(),
        ]);
    }
    let mut bytes = table(&[
        "LINK", "PEER", "ENDPOINT", "MTU", "LANES", "WAY", "DATA", "FRAMING", "FEEDBACK", "PROBES",
        "REPAIR", "CONTROL",
    ]);
    for l in rows {
        for (way, count) in [("sent", l.sent), ("received", l.received)] {
            let first = way == "sent";
            let only = |text: String| if first { text } else { String::new() };
            let mut row = vec![
                only(l.link.to_string()),
                only(l.peer.clone()),
                only(l.endpoint.clone()),
                only(l.mtu.map_or(NONE.into(), |mtu| mtu.to_string())),
                only(l.lanes.to_string()),
                way.into(),
            ];
            match count {
                Some(count) => row.extend(count.kinds().map(|(_, bytes)| size(bytes))),
                None => row.extend([NONE; 6].map(String::from)),
            }
            bytes.add_row(row);
        }
    }
    lines(quality) + "\n" + &lines(repair(rows)) + "\n" + &lines(bytes)
}

/// What data frames find on each link outbound, and what repairing costs.
fn repair(rows: &[LinkRow]) -> Table {
    let mut table = table(&[
        "LINK",
        "PEER",
        "DATA LOSS %",
        "BURST MS",
        "HOP RTT MS",
        "OVERHEAD %",
        "LOSS AFTER REPAIR %",
        "AGE",
    ]);
    let with = |value: String, error: Option<String>| match error {
        Some(error) => format!("{value} ± {error}"),
        None => value,
    };
    for l in rows {
        let hop = l.hop.unwrap_or_default();
        table.add_row([
            l.link.to_string(),
            l.peer.clone(),
            with(percent(hop.loss_ratio), hop.loss_error_ratio.map(|e| percent(Some(e)))),
            ms(hop.burst_ms),
            with(ms(hop.rtt_ms), hop.rtt_spread_ms.map(|s| ms(Some(s)))),
            percent(hop.repair_overhead_ratio),
            l.residual_loss_ratio.map_or(NONE.into(), |r| format!("{:.4}", r * 100.0)),
            age(l.hop.map(|hop| hop.age_s)),
        ]);
    }
    table
}

fn nodes(view: &PathView) -> String {
    match view.nodes.as_slice() {
        [_] => "direct".into(),
        [relays @ .., _] => format!("via {}", relays.join(", ")),
        [] => "-".into(),
    }
}

fn paths(rows: &[PathRow]) -> String {
    let mut table = table(&[
        "TO", "CLASS", "PATH", "DELAY MS", "LOSS %", "PRICE/GB", "BACKUP", "CHANGED", "MOVES",
        "WHY",
    ]);
    for p in rows {
        let (now, other) =
            if p.on_backup { (&p.backup, &p.primary) } else { (&p.primary, &p.backup) };
        let path = now.as_ref().map_or("no path".into(), nodes);
        let path = if p.on_backup { path + " (backup)" } else { path };
        let path = if p.withheld { format!("dropped, not {path}") } else { path };
        table.add_row([
            p.destination.clone(),
            p.class.clone(),
            path,
            ms(now.as_ref().and_then(|v| v.delay_ms)),
            percent(now.as_ref().and_then(|v| v.loss_ratio)),
            now.as_ref().map_or(NONE.into(), |v| format!("{}", v.price_per_gb)),
            other.as_ref().map_or("-".into(), nodes),
            p.changed_ago_s.map_or("never".into(), |s| age(Some(s)) + " ago"),
            p.changes.to_string(),
            p.reason.clone(),
        ]);
    }
    lines(table)
}

fn explain(e: &Explanation) -> String {
    let mut text = format!("{} → {} (number {})", e.asked, e.destination, e.node);
    if let Some(prefix) = e.prefix {
        let _ = write!(text, " by {prefix}");
    }
    let _ = writeln!(text, ", class {}, {} first", e.class, e.objective);
    let _ = writeln!(text, "{}", e.why);
    if !e.rule.is_empty() {
        let _ = writeln!(text, "rule: {}", e.rule);
    }
    let wishes = [("avoided as relays", &e.avoid), ("preferred as relays", &e.prefer)];
    for (wish, nodes) in wishes.iter().filter(|(_, nodes)| !nodes.is_empty()) {
        let _ = writeln!(text, "{wish}: {}", nodes.join(", "));
    }
    if !e.unknown.is_empty() {
        let _ = writeln!(text, "WARNING: no node of the mesh is called {}", e.unknown.join(", "));
    }
    match e.fallback.as_str() {
        "drop" => text += "where no path keeps the limits: packets are dropped\n",
        "direct" => text += "where no path keeps the limits: the direct link\n",
        _ => {}
    }
    let _ = writeln!(
        text,
        "another path must be {:.1} % better; this one is held for {}; better paths are taken up in \
         {}\n",
        e.margin_ratio * 100.0,
        e.hold_down_left_s.map_or("no time more".into(), |s| age(Some(s)) + " more"),
        age(e.recompute_in_s)
    );
    if e.candidates.is_empty() {
        text += "no path was weighed\n";
        return text;
    }
    let mut table = table(&[
        "",
        "PATH",
        "COST MS",
        "PARTS",
        "DELAY MS",
        "JITTER MS",
        "LOSS %",
        "PRICE/GB",
        "BASIS",
        "LIMITS",
    ]);
    for (place, c) in e.candidates.iter().enumerate() {
        let mark = match place {
            place if Some(place) == e.in_force => "in force",
            place if Some(place) == e.backup => "backup",
            _ => "",
        };
        table.add_row([
            mark.into(),
            nodes(&c.path),
            format!("{:.1}", c.total_ms),
            parts(c),
            ms(c.path.delay_ms),
            ms(c.path.jitter_ms),
            percent(c.path.loss_ratio),
            format!("{}", c.path.price_per_gb),
            c.basis.clone(),
            limits(c, &e.class),
        ]);
    }
    text += &lines(table);
    if let Some(c) = e.in_force.and_then(|place| e.candidates.get(place)) {
        text += "\nhops of the path in force:\n";
        text += &survey::hops(&c.hops, &[]);
    }
    text
}

fn parts(c: &Candidate) -> String {
    let mut text = String::new();
    for (place, part) in c.costs.iter().enumerate() {
        let sign = match place {
            0 => "",
            _ if part.value_ms < 0.0 => " - ",
            _ => " + ",
        };
        let _ = write!(text, "{sign}{} {:.1}", part.name, part.value_ms.abs());
    }
    text
}

fn limits(c: &Candidate, class: &str) -> String {
    if c.limits.is_empty() {
        return "none".into();
    }
    let verdict = |l: &thalweg::report::LimitVerdict| {
        if l.limit == "avoid" {
            let by = format!("AVOIDED by [[class]] `{class}`: over {}", l.value);
            return if l.kept { format!("avoids {}", l.bound) } else { by };
        }
        let word = if l.kept { "keeps" } else { "BREAKS" };
        format!("{word} {} {} with {}", l.limit, l.bound, l.value)
    };
    c.limits.iter().map(verdict).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use thalweg::report::{Bytes, CostPart, ForecastRow, HopRow, LimitVerdict, LinkState, Stretch};

    use super::*;

    #[test]
    fn what_was_not_measured_is_na_and_never_a_zero() {
        let text = links(&[LinkRow { peer: "lyon".into(), ..LinkRow::default() }]);
        let out = text.lines().nth(1).unwrap();
        let words: Vec<_> = out.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "0", "lyon", "down", "no", "n/a", "/", "n/a", "/", "n/a", "out", "n/a", "n/a",
                "n/a", "n/a", "n/a", "n/a"
            ]
        );
        let repair: Vec<_> = text.lines().nth(5).unwrap().split_whitespace().collect();
        assert_eq!(repair, ["0", "lyon", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a"]);
    }

    #[test]
    fn what_data_finds_on_a_link_is_shown_with_how_sure_it_is() {
        let hop = HopRow {
            loss_ratio: Some(0.0512),
            loss_error_ratio: Some(0.003),
            burst_ms: Some(8.04),
            rtt_ms: Some(21.0),
            rtt_spread_ms: None,
            repair_overhead_ratio: Some(0.083),
            age_s: 1.2,
        };
        let row = LinkRow {
            peer: "lyon".into(),
            hop: Some(hop),
            residual_loss_ratio: Some(5e-5),
            ..LinkRow::default()
        };
        let text = links(&[row]);
        let repair: Vec<_> = text.lines().nth(5).unwrap().split_whitespace().collect();
        assert_eq!(
            repair,
            ["0", "lyon", "5.12", "±", "0.30", "8.0", "21.0", "8.30", "0.0050", "1.2s"]
        );
    }

    #[test]
    fn a_measured_link_is_shown_with_its_age() {
        let link = LinkRow {
            link: 3,
            peer: "lyon".into(),
            state: LinkState::Up,
            rtt_median_ms: Some(20.04),
            outbound: DirectionRow {
                loss_ratio: Some(0.0213),
                age_s: Some(4.0),
                stale: true,
                ..DirectionRow::default()
            },
            forecast: Some(ForecastRow {
                level_ms: 10.0,
                low_ms: 9.0,
                high_ms: 12.0,
                confidence_ratio: 0.5,
                ..ForecastRow::default()
            }),
            sent: Some(Bytes { data: 1_500_000, ..Bytes::default() }),
            ..LinkRow::default()
        };
        let text = links(&[link]);
        for part in ["n/a / 20.0 / n/a", "2.13", "4.0s stale", "10.0 (9.0 to 12.0)", "1.5 MB"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_path_on_its_backup_says_so() {
        let view = |nodes: &[&str]| {
            Some(PathView {
                nodes: nodes.iter().map(|&n| n.into()).collect(),
                ..PathView::default()
            })
        };
        let row = PathRow {
            destination: "nice".into(),
            primary: view(&["lyon", "nice"]),
            backup: view(&["nice"]),
            on_backup: true,
            changed_ago_s: Some(3700.0),
            ..PathRow::default()
        };
        let text = paths(&[row]);
        assert!(text.contains("direct (backup)") && text.contains("via lyon"), "{text}");
        assert!(text.contains("1h 1m 40s ago"), "{text}");
        assert_eq!(super::text(&Answer::Paths(vec![])), Err("no path".into()));
    }

    #[test]
    fn an_explanation_shows_parts_limits_and_marks() {
        let candidate = Candidate {
            path: PathView { nodes: vec!["nice".into()], ..PathView::default() },
            basis: "forecast".into(),
            hops: vec![Stretch {
                from: "paris".into(),
                to: "nice".into(),
                delay_ms: Some(31.0),
                forecast_ms: Some(33.25),
                price_per_gb: Some(0.09),
                ..Stretch::default()
            }],
            costs: vec![
                CostPart { name: "delay".into(), value_ms: 30.0 },
                CostPart { name: "loss".into(), value_ms: 2.5 },
                CostPart { name: "preferred".into(), value_ms: -5.0 },
            ],
            total_ms: 27.5,
            limits: vec![
                LimitVerdict {
                    limit: "avoid".into(),
                    bound: "lyon, nice".into(),
                    value: "lyon".into(),
                    kept: false,
                },
                LimitVerdict {
                    limit: "max_loss".into(),
                    bound: "1 %".into(),
                    value: "2 %".into(),
                    kept: false,
                },
            ],
            eligible: false,
        };
        let explanation = Explanation {
            asked: "10.0.0.1".into(),
            destination: "nice".into(),
            class: "video".into(),
            objective: "latency".into(),
            avoid: vec!["lyon".into(), "nice".into()],
            unknown: vec!["lyno".into()],
            fallback: "drop".into(),
            candidates: vec![candidate],
            in_force: Some(0),
            why: "It is the only path.".into(),
            rule: "[[class]] `default` takes everything".into(),
            ..Explanation::default()
        };
        let text = explain(&explanation);
        for part in [
            "It is the only path.",
            "in force",
            "delay 30.0 + loss 2.5 - preferred 5.0",
            "AVOIDED by [[class]] `video`: over lyon",
            "avoided as relays: lyon, nice\n",
            "WARNING: no node of the mesh is called lyno\n",
            "where no path keeps the limits: packets are dropped\n",
            "BREAKS max_loss 1 % with 2 %",
            "rule: [[class]] `default` takes everything\n",
            "33.2",
            "0.09",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn sizes_and_ages_read_well() {
        assert_eq!(
            (size(999), size(1000), size(u64::MAX)),
            ("999 B".into(), "1.0 kB".into(), "18.4 EB".into())
        );
        assert_eq!(
            (age(None), age(Some(f64::NAN)), age(Some(59.94))),
            (NONE.into(), NONE.into(), "59.9s".into())
        );
        assert_eq!(age(Some(90_000.0)), "1day 1h");
    }
}
