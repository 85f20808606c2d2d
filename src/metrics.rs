//! Every metric series, one list, and the page a scrape reads.
//!
//! The machines own plain numbers; nothing is counted here. At each scrape one [`Report`] is turned
//! into families. What was not measured has no sample: a gap in a board is honest, a zero is not.
//! Base units only (seconds, bytes, ratios from 0 to 1). Labels come from bounded sets: names of nodes
//! and classes, local link numbers, and words of this program; never addresses, keys or destinations
//! beyond the mesh. Names and manners follow <https://prometheus.io/docs/practices/naming/>.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily,
    MetricType,
};

use crate::report::{
    Bytes, Histogram, LaneRow, LinkRow, LinkState, PathRow, PeerState, Report, Status, Traffic,
};

/// What kind of series it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up while the process lives; its name ends in `_total`.
    Counter,
    /// A distribution.
    Histogram,
}

/// One series.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Series {
    Series { name, kind: Kind::Gauge, labels, help }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Series {
    Series { name, kind: Kind::Counter, labels, help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Series {
    Series { name, kind: Kind::Histogram, labels, help }
}

const LINK: &[&str] = &["peer", "link"];
const DIRECTION: &[&str] = &["peer", "link", "direction"];
const PATH: &[&str] = &["peer", "class"];

/// Every series, in the order of the page.
pub const SERIES: &[Series] = &[
    gauge("thalweg_build_info", &["version"], "Always 1."),
    gauge("thalweg_node_info", &["name", "node"], "Always 1."),
    gauge("thalweg_uptime_seconds", &[], "Time since the node started."),
    gauge(
        "thalweg_certificate_expiry_timestamp_seconds",
        &[],
        "End of the validity of this node's certificate, Unix time.",
    ),
    gauge(
        "thalweg_config_last_reload_successful",
        &[],
        "1 where the last attempt to read the configuration was good, 0 where it was refused.",
    ),
    gauge(
        "thalweg_config_read_timestamp_seconds",
        &[],
        "When the configuration in force was read, Unix time.",
    ),
    gauge(
        "thalweg_config_waits_for_restart",
        &[],
        "Keys of the file that differ from what is in force and wait for the next start.",
    ),
    gauge(
        "thalweg_uplink_price_per_gigabyte",
        &[],
        "Price of a gigabyte sent at this hour, operator's currency.",
    ),
    gauge(
        "thalweg_uplink_spent_this_month",
        &[],
        "Money spent on sending this month, operator's currency.",
    ),
    gauge(
        "thalweg_uplink_budget_per_month",
        &[],
        "Money that may be spent a month; absent where nothing is bounded.",
    ),
    gauge(
        "thalweg_uplink_over_budget",
        &[],
        "1 where the month's budget is spent and others are not relayed for.",
    ),
    gauge("thalweg_nodes_known", &[], "Other nodes this node knows of."),
    gauge("thalweg_destinations_reachable", &[], "Other nodes with a path from here."),
    gauge("thalweg_peers", &["state"], "Other nodes by what we have with them."),
    gauge("thalweg_links", &["state"], "Links by liveness."),
    gauge("thalweg_route_table_generation", &[], "Number of the route table in force."),
    gauge(
        "thalweg_route_recomputed_age_seconds",
        &[],
        "Time since the last full recomputation of all paths.",
    ),
    counter(
        "thalweg_packets_total",
        &["direction", "path_kind"],
        "User packets: ingress (direct or relayed), egress, relay.",
    ),
    counter("thalweg_bytes_total", &["direction", "path_kind"], "Bytes of those packets."),
    gauge("thalweg_lanes", &[], "Lanes of the data path."),
    counter(
        "thalweg_lane_packets_total",
        &["lane", "direction"],
        "User packets by the lane that took them in (ingress), gave them out (egress), passed them on (relay).",
    ),
    counter(
        "thalweg_lane_frames_total",
        &["lane", "direction"],
        "Frames a lane sent, and received and found authentic.",
    ),
    counter("thalweg_lane_handed_packets_total", &["lane"], "Packets a lane handed to another."),
    counter(
        "thalweg_lane_stray_frames_total",
        &["lane"],
        "Frames that came to a lane's socket and were another's.",
    ),
    counter("thalweg_dropped_packets_total", &["reason"], "Packets let go."),
    counter("thalweg_refused_messages_total", &["reason"], "Control messages and records refused."),
    counter("thalweg_path_switches_total", &["class", "reason"], "Moves of a path."),
    histogram(
        "thalweg_failover_duration_seconds",
        &[],
        "From the first unanswered frame to the move onto the backup.",
    ),
    gauge("thalweg_resident_memory_bytes", &[], "Resident memory of the process."),
    gauge("thalweg_frames_held", &[], "Packets in the data path, wherever they wait."),
    gauge("thalweg_waiting_bytes", &[], "Bytes queued, kept for repair or held for order."),
    gauge("thalweg_waiting_bound_bytes", &[], "What those cannot exceed with the links there are."),
    gauge("thalweg_block_bytes", &[], "Bytes of the blocks that packets lie in, in use or spare."),
    gauge("thalweg_send_pending_bytes", &[], "Bytes that wait for room in a send buffer."),
    gauge("thalweg_replay_window_bits", &[], "Bits of all windows against replays."),
    counter("thalweg_send_buffer_full_total", &[], "Times a send buffer was found full."),
    counter("thalweg_sends_held_total", &[], "Datagrams that then waited for room."),
    counter(
        "thalweg_offload_refused_total",
        &[],
        "Times a destination was found not to take segmentation offload.",
    ),
    counter("thalweg_receive_errors_total", &[], "Errors received in place of datagrams."),
    counter("thalweg_tun_reopened_total", &[], "Times the TUN device was made anew."),
    counter("thalweg_too_big_told_total", &[], "Senders told that their packet is too long."),
    counter("thalweg_too_big_untold_total", &[], "Packets too long whose sender was not told."),
    gauge("thalweg_routes_refused", &[], "Prefixes of others without a route into the overlay."),
    counter("thalweg_tcp_clamped_total", &[], "TCP connections held to what their path carries."),
    gauge("thalweg_peer_order_held_packets", &["peer"], "Packets of the peer held for order."),
    gauge(
        "thalweg_peer_order_held_bytes",
        &["peer"],
        "Bytes of the peer's packets held for order.",
    ),
    gauge("thalweg_peer_replay_window_bits", &["peer"], "Bits of the peer's end-to-end windows."),
    gauge("thalweg_link_up", LINK, "1 where the link is up, 0 where it is suspect or down."),
    gauge("thalweg_link_in_use", LINK, "1 where a path in force starts with the link."),
    histogram("thalweg_link_rtt_seconds", LINK, "Round trips of probes."),
    gauge("thalweg_link_rtt_least_seconds", LINK, "Least round trip in the window."),
    gauge("thalweg_link_rtt_median_seconds", LINK, "Median round trip in the window."),
    gauge("thalweg_link_rtt_p95_seconds", LINK, "95th percentile of the round trip in the window."),
    gauge("thalweg_link_delay_seconds", DIRECTION, "One-way delay."),
    gauge("thalweg_link_jitter_seconds", DIRECTION, "Mean deviation of the delay."),
    gauge("thalweg_link_loss_ratio", DIRECTION, "Share of frames lost before repair."),
    gauge("thalweg_link_reading_age_seconds", DIRECTION, "Age of the newest reading."),
    gauge("thalweg_link_reading_stale", DIRECTION, "1 where that reading is too old to be used."),
    gauge("thalweg_link_residual_loss_ratio", LINK, "Share of data frames lost after repair."),
    gauge("thalweg_link_hop_loss_ratio", LINK, "Share of data frames lost on first sending."),
    gauge("thalweg_link_hop_loss_error_ratio", LINK, "One standard error of that share."),
    gauge("thalweg_link_burst_seconds", LINK, "Mean time a line loses for; 0: independently."),
    gauge("thalweg_link_hop_rtt_seconds", LINK, "Round trip through feedback, smoothed."),
    gauge("thalweg_link_hop_rtt_spread_seconds", LINK, "Mean deviation of that."),
    gauge("thalweg_link_repair_overhead_ratio", LINK, "Bytes of repair per byte sent first."),
    gauge("thalweg_link_forecast_delay_seconds", LINK, "Expected one-way delay."),
    gauge("thalweg_link_forecast_low_seconds", LINK, "Lower end of the expected band."),
    gauge("thalweg_link_forecast_high_seconds", LINK, "Upper end of the expected band."),
    gauge("thalweg_link_forecast_confidence_ratio", LINK, "How sure the forecast is."),
    gauge(
        "thalweg_link_forecast_error_seconds",
        LINK,
        "Mean absolute error of past forecasts of this link.",
    ),
    gauge(
        "thalweg_link_persistence_error_seconds",
        LINK,
        "Mean absolute error of \"stays as it is\" over the same time.",
    ),
    gauge(
        "thalweg_link_price_per_gigabyte",
        LINK,
        "Price of a gigabyte sent, operator's currency.",
    ),
    counter("thalweg_link_probes_sent_total", LINK, "Probes sent."),
    counter("thalweg_link_probes_lost_total", LINK, "Probes without a reply in time."),
    counter(
        "thalweg_link_moves_total",
        LINK,
        "Times the peer was followed to another address or port, after it answered from there.",
    ),
    counter(
        "thalweg_link_bytes_total",
        &["peer", "link", "direction", "kind"],
        "UDP payload by what it was for.",
    ),
    counter("thalweg_arq_retransmits_total", LINK, "Frames retransmitted."),
    counter("thalweg_link_symbols_sent_total", LINK, "Repair symbols sent."),
    counter("thalweg_link_recovered_total", LINK, "Frames recovered from repair symbols."),
    counter(
        "thalweg_link_symbols_refused_total",
        LINK,
        "Repair symbols received that fit nothing that came.",
    ),
    counter("thalweg_arq_late_total", LINK, "Frames that could not be repaired in time."),
    counter(
        "thalweg_arq_unprotected_total",
        LINK,
        "Frames sent without being kept for repair, for want of memory.",
    ),
    counter(
        "thalweg_arq_over_budget_total",
        LINK,
        "Lost frames not sent again, and repair symbols not sent, because a class's bound on repair was reached.",
    ),
    counter(
        "thalweg_arq_false_feedback_total",
        LINK,
        "Feedback received that contradicts what was sent.",
    ),
    counter(
        "thalweg_link_local_drops_total",
        LINK,
        "Frames lost in this machine or the peer's, not on the link.",
    ),
    counter("thalweg_link_too_big_total", LINK, "Datagrams longer than the way to the peer takes."),
    gauge(
        "thalweg_link_mtu_bytes",
        LINK,
        "Longest IP packet that the underlay carries to the peer.",
    ),
    counter("thalweg_link_pieces_sent_total", LINK, "Pieces sent of frames longer than that."),
    gauge(
        "thalweg_link_rate_mode",
        &["peer", "link", "mode"],
        "Whether this rules the rate: free (nothing), steady (a short queue), shared (a fair share).",
    ),
    gauge(
        "thalweg_link_rate_bytes_per_second",
        LINK,
        "UDP payload that may be sent; absent where nothing is held back.",
    ),
    gauge("thalweg_link_standing_seconds", LINK, "Queue on the line, as feedback shows it."),
    counter("thalweg_link_marked_packets_total", LINK, "Packets marked in the queue before it."),
    counter("thalweg_link_ce_frames_total", LINK, "Frames that came with the congestion mark."),
    counter(
        "thalweg_link_lost_bytes_total",
        &["peer", "link", "cause"],
        "Bytes judged lost, by cause: congestion (the line was full) or chance.",
    ),
    counter("thalweg_link_breaker_trips_total", LINK, "Times the circuit breaker opened."),
    gauge("thalweg_link_queue_packets", LINK, "Packets waiting to be sent."),
    gauge("thalweg_link_queue_bytes", LINK, "Bytes waiting to be sent."),
    gauge("thalweg_link_repair_held_bytes", LINK, "Bytes kept for repair."),
    gauge("thalweg_link_repair_records", LINK, "Frames whose fate is remembered."),
    gauge("thalweg_link_replay_window_bits", LINK, "Bits of the window over received counters."),
    gauge("thalweg_path_hops", PATH, "Links the path in force crosses."),
    gauge("thalweg_path_delay_seconds", PATH, "Expected one-way delay of the path in force."),
    gauge("thalweg_path_loss_ratio", PATH, "Expected loss of the path in force."),
    gauge("thalweg_path_on_backup", PATH, "1 where the backup carries the traffic."),
    counter("thalweg_path_changes_total", PATH, "Moves of this path."),
];

/// The page for one report, in the text form of Prometheus (version 0.0.4).
pub fn page(report: &Report) -> String {
    let mut sink = Sink { samples: vec![Vec::new(); SERIES.len()] };
    status(&mut sink, report);
    for link in &report.links {
        self::link(&mut sink, link);
    }
    for path in &report.paths {
        self::path(&mut sink, path);
    }
    let families: Vec<_> = SERIES.iter().zip(sink.samples).filter_map(family).collect();
    // Fails only for a family without samples or name, and `family` makes none of those.
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

fn status(sink: &mut Sink, report: &Report) {
    let status: &Status = &report.status;
    sink.value("thalweg_build_info", &[&status.version], 1.0);
    sink.value("thalweg_node_info", &[&status.name, &status.node.to_string()], 1.0);
    sink.value("thalweg_uptime_seconds", &[], status.uptime_s);
    let expiry = status.certificate_not_after_unix_s as f64;
    sink.value("thalweg_certificate_expiry_timestamp_seconds", &[], expiry);
    if let Some(configured) = &status.configured {
        let good = flag(configured.last_successful);
        sink.value("thalweg_config_last_reload_successful", &[], good);
        let read = configured.read_unix_s as f64;
        sink.value("thalweg_config_read_timestamp_seconds", &[], read);
        let waiting = configured.restart.len() as f64;
        sink.value("thalweg_config_waits_for_restart", &[], waiting);
    }
    if let Some(spend) = &status.spend {
        sink.value("thalweg_uplink_price_per_gigabyte", &[], spend.price_per_gb);
        sink.value("thalweg_uplink_spent_this_month", &[], spend.spent);
        sink.maybe("thalweg_uplink_budget_per_month", &[], spend.budget);
        sink.value("thalweg_uplink_over_budget", &[], flag(spend.over_budget));
    }
    sink.value("thalweg_nodes_known", &[], status.nodes_known.into());
    sink.value("thalweg_destinations_reachable", &[], status.destinations_reachable.into());
    for state in
        [PeerState::Known, PeerState::Connecting, PeerState::Connected, PeerState::Detached]
    {
        let count = report.peers.iter().filter(|p| p.state == state).count();
        sink.value("thalweg_peers", &[state.name()], count as f64);
    }
    for state in [LinkState::Up, LinkState::Suspect, LinkState::Down] {
        let count = report.links.iter().filter(|l| l.state == state).count();
        sink.value("thalweg_links", &[state.name()], count as f64);
    }
    sink.value("thalweg_route_table_generation", &[], status.table_generation as f64);
    sink.maybe("thalweg_route_recomputed_age_seconds", &[], status.recomputed_ago_s);
    if let Some(traffic) = &status.traffic {
        self::traffic(sink, traffic);
    }
    if !status.lanes.is_empty() {
        sink.value("thalweg_lanes", &[], status.lanes.len() as f64);
    }
    for lane in &status.lanes {
        self::lane(sink, lane);
    }
    for (reason, &count) in status.dropped_packets.iter().flatten() {
        sink.value("thalweg_dropped_packets_total", &[reason], count as f64);
    }
    for (reason, &count) in &status.refused {
        sink.value("thalweg_refused_messages_total", &[reason], count as f64);
    }
    for (class, reasons) in &status.path_switches {
        for (reason, &count) in reasons {
            sink.value("thalweg_path_switches_total", &[class, reason], count as f64);
        }
    }
    sink.distribution("thalweg_failover_duration_seconds", &[], &status.failover_s);
    held(sink, report);
}

fn held(sink: &mut Sink, report: &Report) {
    if let Some(memory) = &report.status.memory {
        let resident = memory.resident_bytes.map(|bytes| bytes as f64);
        sink.maybe("thalweg_resident_memory_bytes", &[], resident);
        sink.value("thalweg_frames_held", &[], memory.frames as f64);
        sink.value("thalweg_waiting_bytes", &[], memory.waiting_bytes as f64);
        sink.value("thalweg_waiting_bound_bytes", &[], memory.waiting_bound_bytes as f64);
        sink.value("thalweg_block_bytes", &[], memory.block_bytes as f64);
        sink.value("thalweg_send_pending_bytes", &[], memory.send_pending_bytes as f64);
        sink.value("thalweg_replay_window_bits", &[], memory.window_bits as f64);
    }
    if let Some(doors) = &report.status.doors {
        sink.value("thalweg_send_buffer_full_total", &[], doors.send_buffer_full as f64);
        sink.value("thalweg_sends_held_total", &[], doors.sends_held as f64);
        sink.value("thalweg_offload_refused_total", &[], doors.offload_refused as f64);
        sink.value("thalweg_receive_errors_total", &[], doors.receive_errors as f64);
        sink.value("thalweg_tun_reopened_total", &[], doors.tun_reopened as f64);
        sink.value("thalweg_too_big_told_total", &[], doors.too_big_told as f64);
        sink.value("thalweg_too_big_untold_total", &[], doors.too_big_untold as f64);
        sink.value("thalweg_routes_refused", &[], doors.routes_refused as f64);
        sink.value("thalweg_tcp_clamped_total", &[], doors.tcp_clamped as f64);
    }
    for peer in &report.peers {
        if let Some(held) = &peer.held {
            let labels: &[&str] = &[&peer.name];
            let packets = held.order_packets as f64;
            sink.value("thalweg_peer_order_held_packets", labels, packets);
            sink.value("thalweg_peer_order_held_bytes", labels, held.order_bytes as f64);
            sink.value("thalweg_peer_replay_window_bits", labels, held.window_bits as f64);
        }
    }
}

fn traffic(sink: &mut Sink, traffic: &Traffic) {
    let direct = |all: u64, relayed: u64| all.saturating_sub(relayed);
    let ways = [
        (
            ["ingress", "direct"],
            direct(traffic.ingress.packets, traffic.ingress_relayed.packets),
            direct(traffic.ingress.bytes, traffic.ingress_relayed.bytes),
        ),
        (["ingress", "relayed"], traffic.ingress_relayed.packets, traffic.ingress_relayed.bytes),
        (["egress", "any"], traffic.egress.packets, traffic.egress.bytes),
        (["relay", "any"], traffic.relay.packets, traffic.relay.bytes),
    ];
    for (labels, packets, bytes) in ways {
        sink.value("thalweg_packets_total", &labels, packets as f64);
        sink.value("thalweg_bytes_total", &labels, bytes as f64);
    }
}

fn lane(sink: &mut Sink, row: &LaneRow) {
    let number = row.lane.to_string();
    let packets = [
        ("ingress", row.ingress_packets),
        ("egress", row.egress_packets),
        ("relay", row.relay_packets),
    ];
    for (direction, count) in packets {
        sink.value("thalweg_lane_packets_total", &[&number, direction], count as f64);
    }
    for (direction, count) in [("sent", row.frames_sent), ("received", row.frames_received)] {
        sink.value("thalweg_lane_frames_total", &[&number, direction], count as f64);
    }
    let (handed, strays) = (row.handed_packets, row.stray_frames);
    sink.value("thalweg_lane_handed_packets_total", &[&number], handed as f64);
    sink.value("thalweg_lane_stray_frames_total", &[&number], strays as f64);
}

fn link(sink: &mut Sink, link: &LinkRow) {
    let number = link.link.to_string();
    let labels: &[&str] = &[&link.peer, &number];
    sink.value("thalweg_link_up", labels, flag(link.state == LinkState::Up));
    sink.value("thalweg_link_in_use", labels, flag(link.in_use));
    sink.distribution("thalweg_link_rtt_seconds", labels, &link.rtt_s);
    sink.maybe("thalweg_link_rtt_least_seconds", labels, seconds(link.rtt_least_ms));
    sink.maybe("thalweg_link_rtt_median_seconds", labels, seconds(link.rtt_median_ms));
    sink.maybe("thalweg_link_rtt_p95_seconds", labels, seconds(link.rtt_p95_ms));
    for (name, way) in [("outbound", &link.outbound), ("inbound", &link.inbound)] {
        let labels: &[&str] = &[&link.peer, &number, name];
        sink.maybe("thalweg_link_delay_seconds", labels, seconds(way.delay_ms));
        sink.maybe("thalweg_link_jitter_seconds", labels, seconds(way.jitter_ms));
        sink.maybe("thalweg_link_loss_ratio", labels, way.loss_ratio);
        sink.maybe("thalweg_link_reading_age_seconds", labels, way.age_s);
        if way.age_s.is_some() {
            sink.value("thalweg_link_reading_stale", labels, flag(way.stale));
        }
    }
    sink.maybe("thalweg_link_residual_loss_ratio", labels, link.residual_loss_ratio);
    if let Some(hop) = &link.hop {
        sink.maybe("thalweg_link_hop_loss_ratio", labels, hop.loss_ratio);
        sink.maybe("thalweg_link_hop_loss_error_ratio", labels, hop.loss_error_ratio);
        sink.maybe("thalweg_link_burst_seconds", labels, seconds(hop.burst_ms));
        sink.maybe("thalweg_link_hop_rtt_seconds", labels, seconds(hop.rtt_ms));
        sink.maybe("thalweg_link_hop_rtt_spread_seconds", labels, seconds(hop.rtt_spread_ms));
        sink.maybe("thalweg_link_repair_overhead_ratio", labels, hop.repair_overhead_ratio);
    }
    if let Some(forecast) = &link.forecast {
        let level = seconds(Some(forecast.level_ms));
        sink.maybe("thalweg_link_forecast_delay_seconds", labels, level);
        sink.maybe("thalweg_link_forecast_low_seconds", labels, seconds(Some(forecast.low_ms)));
        sink.maybe("thalweg_link_forecast_high_seconds", labels, seconds(Some(forecast.high_ms)));
        let confidence = forecast.confidence_ratio;
        sink.value("thalweg_link_forecast_confidence_ratio", labels, confidence);
        sink.maybe("thalweg_link_forecast_error_seconds", labels, seconds(forecast.error_ms));
        let persistence = seconds(forecast.error_persistence_ms);
        sink.maybe("thalweg_link_persistence_error_seconds", labels, persistence);
    }
    sink.value("thalweg_link_price_per_gigabyte", labels, link.price_per_gb);
    let count = |counted: Option<u64>| counted.map(|c| c as f64);
    sink.maybe("thalweg_link_probes_sent_total", labels, count(link.probes_sent));
    sink.maybe("thalweg_link_probes_lost_total", labels, count(link.probes_lost));
    sink.maybe("thalweg_link_moves_total", labels, count(link.moves));
    for (name, bytes) in [("sent", &link.sent), ("received", &link.received)] {
        for (kind, count) in bytes.iter().flat_map(Bytes::kinds) {
            let labels: &[&str] = &[&link.peer, &number, name, kind];
            sink.value("thalweg_link_bytes_total", labels, count as f64);
        }
    }
    sink.maybe("thalweg_arq_retransmits_total", labels, count(link.retransmits));
    sink.maybe("thalweg_link_symbols_sent_total", labels, count(link.symbols));
    sink.maybe("thalweg_link_recovered_total", labels, count(link.recovered));
    sink.maybe("thalweg_link_symbols_refused_total", labels, count(link.symbols_refused));
    sink.maybe("thalweg_arq_late_total", labels, count(link.repair_late));
    sink.maybe("thalweg_arq_unprotected_total", labels, count(link.unprotected));
    sink.maybe("thalweg_arq_over_budget_total", labels, count(link.over_budget));
    sink.maybe("thalweg_arq_false_feedback_total", labels, count(link.false_feedback));
    sink.maybe("thalweg_link_local_drops_total", labels, count(link.local_drops));
    sink.maybe("thalweg_link_too_big_total", labels, count(link.too_big));
    sink.maybe("thalweg_link_mtu_bytes", labels, link.mtu.map(f64::from));
    sink.maybe("thalweg_link_pieces_sent_total", labels, count(link.pieces));
    if let Some(pace) = &link.pace {
        for mode in ["free", "steady", "shared"] {
            let labels: &[&str] = &[&link.peer, &number, mode];
            sink.value("thalweg_link_rate_mode", labels, f64::from(pace.mode == mode));
        }
        sink.maybe("thalweg_link_rate_bytes_per_second", labels, count(pace.rate));
        sink.value("thalweg_link_standing_seconds", labels, pace.standing_s);
        sink.value("thalweg_link_marked_packets_total", labels, pace.marked as f64);
        sink.value("thalweg_link_ce_frames_total", labels, pace.ce as f64);
        for (cause, lost) in [("congestion", pace.congestion_lost), ("chance", pace.random_lost)] {
            let labels: &[&str] = &[&link.peer, &number, cause];
            sink.value("thalweg_link_lost_bytes_total", labels, lost as f64);
        }
        sink.value("thalweg_link_breaker_trips_total", labels, pace.trips as f64);
    }
    if let Some(held) = &link.held {
        sink.value("thalweg_link_queue_packets", labels, held.queue_packets as f64);
        sink.value("thalweg_link_queue_bytes", labels, held.queue_bytes as f64);
        sink.value("thalweg_link_repair_held_bytes", labels, held.repair_bytes as f64);
        sink.value("thalweg_link_repair_records", labels, held.records as f64);
        sink.value("thalweg_link_replay_window_bits", labels, held.window_bits as f64);
    }
}

fn path(sink: &mut Sink, path: &PathRow) {
    let labels: &[&str] = &[&path.destination, &path.class];
    let in_force = if path.on_backup { &path.backup } else { &path.primary };
    if let Some(view) = in_force {
        sink.value("thalweg_path_hops", labels, view.nodes.len() as f64);
        sink.maybe("thalweg_path_delay_seconds", labels, seconds(view.delay_ms));
        sink.maybe("thalweg_path_loss_ratio", labels, view.loss_ratio);
    }
    sink.value("thalweg_path_on_backup", labels, flag(path.on_backup));
    sink.value("thalweg_path_changes_total", labels, path.changes as f64);
}

/// The list of every series as a table in Markdown, for the documentation.
pub fn table() -> String {
    let row = |s: &Series| {
        let labels = s.labels.join(", ");
        format!("| `{}` | {:?} | {labels} | {} |\n", s.name, s.kind, s.help)
    };
    let head = "| name | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    head + &SERIES.iter().map(row).collect::<String>()
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn seconds(ms: Option<f64>) -> Option<f64> {
    ms.map(|ms| ms / 1000.0)
}

/// Samples by the place of their series in [`SERIES`].
struct Sink {
    samples: Vec<Vec<Metric>>,
}

impl Sink {
    fn metric(&mut self, name: &str, labels: &[&str]) -> (Kind, &mut Metric) {
        let place = SERIES.iter().position(|s| s.name == name).expect("every series is listed");
        let series = &SERIES[place];
        assert_eq!(series.labels.len(), labels.len(), "{name} takes {:?}", series.labels);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        };
        let pairs = series.labels.iter().zip(labels).map(pair).collect();
        self.samples[place].push(Metric::from_label(pairs));
        (series.kind, self.samples[place].last_mut().expect("just pushed"))
    }

    fn value(&mut self, name: &str, labels: &[&str], value: f64) {
        match self.metric(name, labels) {
            (Kind::Counter, metric) => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            (_, metric) => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
    }

    fn maybe(&mut self, name: &str, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.value(name, labels, value);
        }
    }

    fn distribution(&mut self, name: &str, labels: &[&str], readings: &Histogram) {
        let mut sum = 0;
        let bucket = |(&bound, &count): (&f64, &u64)| {
            sum += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(sum);
            bucket
        };
        let buckets = Histogram::BOUNDS_S.iter().zip(&readings.counts).map(bucket).collect();
        let mut histogram = ProtoHistogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(readings.count());
        histogram.set_sample_sum(readings.sum_s);
        self.metric(name, labels).1.set_histogram(histogram);
    }
}

fn family((series, samples): (&Series, Vec<Metric>)) -> Option<MetricFamily> {
    if samples.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(series.name.into());
    family.set_help(series.help.into());
    family.set_field_type(match series.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    Some(family)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::report::{
        Configured, DirectionRow, Doors, ForecastRow, HopRow, LinkHeld, Memory, PaceRow, PathView,
        PeerRow, Spend, Volume,
    };

    /// Every sample of a page by its name and labels; refuses what a scraper would refuse.
    fn samples(page: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let mut typed = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                typed = rest.split(' ').next().unwrap().to_owned();
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(&typed), "{line} stands under {typed}");
                let twice = samples.insert(name.to_owned(), value.parse().unwrap());
                assert_eq!(twice, None, "{name} is there twice");
            }
        }
        samples
    }

    fn report() -> Report {
        let mut report = Report::default();
        report.status.version = "0.1.0".into();
        report.status.name = "paris".into();
        report.status.node = 3;
        report.status.uptime_s = 12.5;
        report.status.certificate_not_after_unix_s = 1_800_000_000;
        report.status.spend = Some(Spend { spent: 1.25, price_per_gb: 0.09, ..Spend::default() });
        report.status.configured = Some(Configured {
            read_unix_s: 1_790_000_000,
            last_successful: true,
            restart: vec!["[overlay] mtu".into()],
            ..Configured::default()
        });
        report.status.traffic = Some(Traffic {
            ingress: Volume { packets: 10, bytes: 1000 },
            ingress_relayed: Volume { packets: 4, bytes: 400 },
            ..Traffic::default()
        });
        let lane = LaneRow { lane: 1, egress_packets: 9, frames_sent: 11, ..LaneRow::default() };
        report.status.lanes = vec![LaneRow { handed_packets: 5, ..LaneRow::default() }, lane];
        report.status.dropped_packets = Some(BTreeMap::from([("no_route".into(), 7)]));
        let reasons = BTreeMap::from([("link_down".into(), 2)]);
        report.status.path_switches.insert("realtime".into(), reasons);
        report.status.failover_s.observe(Duration::from_millis(150));
        report.status.memory =
            Some(Memory { waiting_bytes: 77, block_bytes: 88, ..Memory::default() });
        report.status.doors = Some(Doors { tun_reopened: 2, tcp_clamped: 3, ..Doors::default() });
        report.peers.push(PeerRow { state: PeerState::Connected, ..PeerRow::default() });
        let mut link = LinkRow {
            link: 2,
            peer: "lyon".into(),
            state: LinkState::Up,
            rtt_median_ms: Some(20.0),
            outbound: DirectionRow { loss_ratio: Some(0.02), ..DirectionRow::default() },
            forecast: Some(ForecastRow {
                level_ms: 9.5,
                error_ms: Some(1.5),
                ..ForecastRow::default()
            }),
            probes_sent: Some(40),
            moves: Some(2),
            sent: Some(Bytes { data: 5000, repair: 100, ..Bytes::default() }),
            retransmits: Some(3),
            symbols: Some(8),
            recovered: Some(2),
            symbols_refused: Some(1),
            over_budget: Some(4),
            false_feedback: Some(7),
            too_big: Some(6),
            mtu: Some(1320),
            pieces: Some(4),
            pace: Some(PaceRow {
                mode: "steady".into(),
                rate: Some(6_250_000),
                congestion_lost: 1500,
                ..PaceRow::default()
            }),
            held: Some(LinkHeld { queue_bytes: 900, ..LinkHeld::default() }),
            ..LinkRow::default()
        };
        link.hop = Some(HopRow {
            burst_ms: Some(8.0),
            repair_overhead_ratio: Some(0.06),
            ..HopRow::default()
        });
        link.rtt_s.observe(Duration::from_millis(20));
        link.rtt_s.observe(Duration::from_millis(21));
        report.links.push(link);
        let view = |nodes: &[&str]| PathView {
            nodes: nodes.iter().map(|&n| n.into()).collect(),
            delay_ms: Some(30.0),
            ..PathView::default()
        };
        report.paths.push(PathRow {
            destination: "nice".into(),
            class: "default".into(),
            primary: Some(view(&["lyon", "nice"])),
            backup: Some(view(&["nice"])),
            on_backup: true,
            changes: 5,
            ..PathRow::default()
        });
        report
    }

    #[test]
    fn every_value_on_the_page_is_the_reports() {
        let found = samples(&page(&report()));
        let expect = [
            ("thalweg_build_info{version=\"0.1.0\"}", 1.0),
            ("thalweg_node_info{name=\"paris\",node=\"3\"}", 1.0),
            ("thalweg_uptime_seconds", 12.5),
            ("thalweg_certificate_expiry_timestamp_seconds", 1_800_000_000.0),
            ("thalweg_config_last_reload_successful", 1.0),
            ("thalweg_config_read_timestamp_seconds", 1_790_000_000.0),
            ("thalweg_config_waits_for_restart", 1.0),
            ("thalweg_uplink_spent_this_month", 1.25),
            ("thalweg_uplink_price_per_gigabyte", 0.09),
            ("thalweg_uplink_over_budget", 0.0),
            ("thalweg_peers{state=\"connected\"}", 1.0),
            ("thalweg_peers{state=\"known\"}", 0.0),
            ("thalweg_links{state=\"up\"}", 1.0),
            ("thalweg_packets_total{direction=\"ingress\",path_kind=\"direct\"}", 6.0),
            ("thalweg_bytes_total{direction=\"ingress\",path_kind=\"relayed\"}", 400.0),
            ("thalweg_lanes", 2.0),
            ("thalweg_lane_packets_total{lane=\"1\",direction=\"egress\"}", 9.0),
            ("thalweg_lane_frames_total{lane=\"1\",direction=\"sent\"}", 11.0),
            ("thalweg_lane_handed_packets_total{lane=\"0\"}", 5.0),
            ("thalweg_dropped_packets_total{reason=\"no_route\"}", 7.0),
            ("thalweg_path_switches_total{class=\"realtime\",reason=\"link_down\"}", 2.0),
            ("thalweg_failover_duration_seconds_bucket{le=\"0.1\"}", 0.0),
            ("thalweg_failover_duration_seconds_bucket{le=\"0.2\"}", 1.0),
            ("thalweg_failover_duration_seconds_sum", 0.15),
            ("thalweg_link_up{peer=\"lyon\",link=\"2\"}", 1.0),
            ("thalweg_link_rtt_seconds_bucket{peer=\"lyon\",link=\"2\",le=\"0.02\"}", 1.0),
            ("thalweg_link_rtt_seconds_bucket{peer=\"lyon\",link=\"2\",le=\"+Inf\"}", 2.0),
            ("thalweg_link_rtt_seconds_count{peer=\"lyon\",link=\"2\"}", 2.0),
            ("thalweg_link_rtt_median_seconds{peer=\"lyon\",link=\"2\"}", 0.02),
            ("thalweg_link_loss_ratio{peer=\"lyon\",link=\"2\",direction=\"outbound\"}", 0.02),
            ("thalweg_link_forecast_delay_seconds{peer=\"lyon\",link=\"2\"}", 0.0095),
            ("thalweg_link_forecast_error_seconds{peer=\"lyon\",link=\"2\"}", 0.0015),
            ("thalweg_link_burst_seconds{peer=\"lyon\",link=\"2\"}", 0.008),
            ("thalweg_link_repair_overhead_ratio{peer=\"lyon\",link=\"2\"}", 0.06),
            ("thalweg_link_probes_sent_total{peer=\"lyon\",link=\"2\"}", 40.0),
            ("thalweg_link_moves_total{peer=\"lyon\",link=\"2\"}", 2.0),
            (
                "thalweg_link_bytes_total{peer=\"lyon\",link=\"2\",direction=\"sent\",kind=\"repair\"}",
                100.0,
            ),
            ("thalweg_arq_retransmits_total{peer=\"lyon\",link=\"2\"}", 3.0),
            ("thalweg_link_symbols_sent_total{peer=\"lyon\",link=\"2\"}", 8.0),
            ("thalweg_link_recovered_total{peer=\"lyon\",link=\"2\"}", 2.0),
            ("thalweg_link_symbols_refused_total{peer=\"lyon\",link=\"2\"}", 1.0),
            ("thalweg_arq_over_budget_total{peer=\"lyon\",link=\"2\"}", 4.0),
            ("thalweg_arq_false_feedback_total{peer=\"lyon\",link=\"2\"}", 7.0),
            ("thalweg_link_too_big_total{peer=\"lyon\",link=\"2\"}", 6.0),
            ("thalweg_link_mtu_bytes{peer=\"lyon\",link=\"2\"}", 1320.0),
            ("thalweg_link_pieces_sent_total{peer=\"lyon\",link=\"2\"}", 4.0),
            ("thalweg_link_rate_mode{peer=\"lyon\",link=\"2\",mode=\"steady\"}", 1.0),
            ("thalweg_link_rate_mode{peer=\"lyon\",link=\"2\",mode=\"free\"}", 0.0),
            ("thalweg_link_rate_bytes_per_second{peer=\"lyon\",link=\"2\"}", 6_250_000.0),
            (
                "thalweg_link_lost_bytes_total{peer=\"lyon\",link=\"2\",cause=\"congestion\"}",
                1500.0,
            ),
            ("thalweg_link_queue_bytes{peer=\"lyon\",link=\"2\"}", 900.0),
            ("thalweg_waiting_bytes", 77.0),
            ("thalweg_block_bytes", 88.0),
            ("thalweg_tun_reopened_total", 2.0),
            ("thalweg_tcp_clamped_total", 3.0),
            ("thalweg_path_hops{peer=\"nice\",class=\"default\"}", 1.0),
            ("thalweg_path_delay_seconds{peer=\"nice\",class=\"default\"}", 0.03),
            ("thalweg_path_on_backup{peer=\"nice\",class=\"default\"}", 1.0),
            ("thalweg_path_changes_total{peer=\"nice\",class=\"default\"}", 5.0),
        ];
        for (name, value) in expect {
            assert_eq!(found.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_on_the_page() {
        let found = page(&report());
        for name in [
            "thalweg_link_rtt_least_seconds",
            "thalweg_link_jitter_seconds",
            "thalweg_link_residual_loss_ratio",
            "thalweg_link_hop_loss_ratio",
            "thalweg_link_persistence_error_seconds",
            "thalweg_route_recomputed_age_seconds",
            "thalweg_link_probes_lost_total",
            "thalweg_arq_late_total",
            "thalweg_resident_memory_bytes",
            "thalweg_link_local_drops_total",
            "thalweg_peer_order_held_bytes",
            "thalweg_uplink_budget_per_month",
        ] {
            assert!(SERIES.iter().any(|s| s.name == name));
            assert!(!found.contains(name), "{name}");
        }
        assert!(!found.contains("direction=\"inbound\""));
        assert!(!found.contains("link=\"2\",direction=\"received\""));
        assert!(!page(&Report::default()).contains("thalweg_packets_total"));
    }

    #[test]
    fn names_tell_kind_and_base_unit_and_occur_once() {
        for (place, series) in SERIES.iter().enumerate() {
            assert!(series.name.starts_with("thalweg_") && series.help.ends_with('.'));
            assert_eq!(series.kind == Kind::Counter, series.name.ends_with("_total"));
            assert!(!series.name.contains("_ms") && !series.name.contains("percent"));
            assert!(SERIES[..place].iter().all(|s| s.name != series.name), "{}", series.name);
        }
    }

    #[test]
    fn hostile_names_cannot_break_the_page() {
        let mut report = report();
        report.links[0].peer = "a\"} 1\nthalweg_fake 1".into();
        report.status.refused.insert("b\\\n".into(), 1);
        assert!(samples(&page(&report)).keys().all(|name| !name.starts_with("thalweg_fake")));
    }
}
