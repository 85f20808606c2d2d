//! Every metric series, one list, and the page a scrape reads.
//!
//! The machines own plain numbers; nothing is counted here. At each scrape one [`Report`] is turned
//! into families. What was not measured has no sample: a gap in a board is honest, a zero is not.
//! Base units only (seconds, bytes, ratios from 0 to 1). Labels come from bounded sets: names of nodes
//! and classes, local link numbers, and words of this program; never addresses, keys or destinations
//! beyond the mesh. Names and manners follow <https://prometheus.io/docs/practices/naming/>.
//!
//! [`Report`]: crate::report::Report

mod page;

pub use page::page;

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
        "thalweg_arq_uncovered_total",
        LINK,
        "Frames sent without the repair symbols they were to have, because a class's bound on repair was reached.",
    ),
    counter(
        "thalweg_arq_over_share_total",
        LINK,
        "Repair symbols not sent because all repair had its share of the bytes, or paused.",
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
    gauge("thalweg_path_outside_limits", PATH, "1 where no path keeps the limits of the class."),
    gauge("thalweg_path_withheld", PATH, "1 where its `fallback` drops the packets for that."),
    counter("thalweg_path_changes_total", PATH, "Moves of this path."),
];

/// The list of every series as a table in Markdown, for the documentation.
pub fn table() -> String {
    let row = |s: &Series| {
        let labels = s.labels.join(", ");
        format!("| `{}` | {:?} | {labels} | {} |\n", s.name, s.kind, s.help)
    };
    let head = "| name | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    head + &SERIES.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_base_unit_and_occur_once() {
        for (place, series) in SERIES.iter().enumerate() {
            assert!(series.name.starts_with("thalweg_") && series.help.ends_with('.'));
            assert_eq!(series.kind == Kind::Counter, series.name.ends_with("_total"));
            assert!(!series.name.contains("_ms") && !series.name.contains("percent"));
            assert!(SERIES[..place].iter().all(|s| s.name != series.name), "{}", series.name);
        }
    }
}
