//! The page a scrape reads, from one report.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily,
    MetricType,
};

use crate::report::{
    Bytes, Histogram, LaneRow, LinkRow, LinkState, PathRow, PeerState, Report, Status, Traffic,
};

use super::{Kind, SERIES, Series};

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
    sink.maybe("thalweg_arq_uncovered_total", labels, count(link.uncovered));
    sink.maybe("thalweg_arq_over_share_total", labels, count(link.over_share));
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
    sink.value("thalweg_path_outside_limits", labels, flag(path.outside_limits));
    sink.value("thalweg_path_withheld", labels, flag(path.withheld));
    sink.value("thalweg_path_changes_total", labels, path.changes as f64);
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
            uncovered: Some(6),
            over_share: Some(2),
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
            outside_limits: true,
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
            ("thalweg_arq_uncovered_total{peer=\"lyon\",link=\"2\"}", 6.0),
            ("thalweg_arq_over_share_total{peer=\"lyon\",link=\"2\"}", 2.0),
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
            ("thalweg_path_outside_limits{peer=\"nice\",class=\"default\"}", 1.0),
            ("thalweg_path_withheld{peer=\"nice\",class=\"default\"}", 0.0),
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
    fn hostile_names_cannot_break_the_page() {
        let mut report = report();
        report.links[0].peer = "a\"} 1\nthalweg_fake 1".into();
        report.status.refused.insert("b\\\n".into(), 1);
        assert!(samples(&page(&report)).keys().all(|name| !name.starts_with("thalweg_fake")));
    }
}
