//! What only the driver knows of a report: packets, bytes and drops, from the data thread's counters.

use std::net::SocketAddr;

use super::data::{DataStats, LaneStats};
use super::drops;
use super::reload::Standing;
use crate::forward::Held;
use crate::forward::pace::Mode;
use crate::id::{LinkId, NodeId};
use crate::report::{
    Answer, Doors, LaneRow, LinkHeld, LinkRow, Memory, PaceRow, PeerHeld, PeerRow, Spend, Status,
    Traffic, Volume,
};

/// Adds the data thread's figures to an answer of the node. `refused`: handshakes refused.
pub fn complete(answer: &mut Answer, stats: &DataStats, refused: u64) {
    match answer {
        Answer::Status(status) => complete_status(status, stats, refused),
        Answer::Links(rows) => rows.iter_mut().for_each(|row| complete_link(row, stats)),
        Answer::Peers(rows) => rows.iter_mut().for_each(|row| complete_peer(row, stats)),
        Answer::Report(report) => {
            complete_status(&mut report.status, stats, refused);
            report.links.iter_mut().for_each(|row| complete_link(row, stats));
            report.peers.iter_mut().for_each(|row| complete_peer(row, stats));
        }
        Answer::Drops(rows) => *rows = drops::rows(dropped(stats)),
        Answer::Paths(_)
        | Answer::Matrix(_)
        | Answer::Trace(_)
        | Answer::Ping(_)
        | Answer::Events(_)
        | Answer::Explain(_)
        | Answer::NotFound(_)
        | Answer::Reload(_)
        | Answer::Refused(_) => {}
    }
}

/// Adds what is known of the configuration to an answer about the whole node.
pub fn configured(answer: &mut Answer, standing: &Standing) {
    match answer {
        Answer::Status(status) => status.configured = Some(standing.shown()),
        Answer::Report(report) => report.status.configured = Some(standing.shown()),
        _ => {}
    }
}

/// Adds what sending costs to an answer about the whole node.
pub fn spent(answer: &mut Answer, spend: Spend) {
    match answer {
        Answer::Status(status) => status.spend = Some(spend),
        Answer::Report(report) => report.status.spend = Some(spend),
        _ => {}
    }
}

/// Adds how many prefixes have no route into the overlay.
pub fn routed(answer: &mut Answer, refused: usize) {
    let status = match answer {
        Answer::Status(status) => status,
        Answer::Report(report) => &mut report.status,
        _ => return,
    };
    if let Some(doors) = &mut status.doors {
        doors.routes_refused = refused as u64;
    }
}

fn complete_status(status: &mut Status, stats: &DataStats, refused: u64) {
    let forward = &stats.forward;
    let volume = |v: crate::forward::Volume| Volume { packets: v.packets, bytes: v.bytes };
    status.traffic = Some(Traffic {
        ingress: volume(forward.ingress),
        ingress_relayed: volume(forward.ingress_relayed),
        egress: volume(forward.egress),
        relay: volume(forward.relay),
    });
    let lane = |(lane, counted): (u8, &LaneStats)| LaneRow {
        lane,
        ingress_packets: counted.ingress_packets,
        egress_packets: counted.egress_packets,
        relay_packets: counted.relay_packets,
        frames_sent: counted.frames_sent,
        frames_received: counted.frames_received,
        handed_packets: counted.handed,
        stray_frames: counted.strays,
    };
    status.lanes = (0..).zip(&stats.lanes).map(lane).collect();
    let (udp, tun) = (&stats.udp, &stats.tun);
    status.memory = Some(memory(stats));
    status.doors = Some(Doors {
        send_buffer_full: udp.full,
        sends_held: udp.held,
        offload_refused: udp.gso_refused,
        receive_errors: udp.receive_errors,
        tun_reopened: tun.reopened,
        too_big_told: forward.too_big_told,
        too_big_untold: forward.too_big_untold,
        tcp_clamped: forward.clamped,
        routes_refused: 0,
    });
    let occurred = dropped(stats).filter(|(_, count)| *count > 0);
    status.dropped_packets = Some(occurred.map(|(why, count)| (why.to_owned(), count)).collect());
    if refused > 0 {
        *status.refused.entry("handshake".to_owned()).or_default() += refused;
    }
}

/// Every reason for which packets came to nothing, with its count.
pub fn dropped(stats: &DataStats) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let (udp, tun) = (&stats.udp, &stats.tun);
    let local = [
        ("udp_send_buffer_full", udp.blocked),
        ("udp_no_buffer", udp.no_buffer),
        ("udp_too_big", udp.too_big),
        ("udp_unreachable", udp.unreachable),
        ("udp_receive_buffer_full", udp.kernel_drops),
        ("udp_empty", udp.empty),
        ("udp_truncated", udp.truncated),
        ("tun_busy", tun.blocked),
        ("tun_refused", tun.refused),
        ("tun_malformed", tun.malformed),
        ("tun_absent", tun.absent),
        ("udp_no_memory", udp.no_memory),
        ("tun_no_memory", tun.no_memory),
        ("not_for_us", stats.strangers),
        ("quic_queue_full", stats.quic_dropped),
        ("lane_stray_full", stats.strays_dropped),
    ];
    stats.forward.drops().map(|(reason, count)| (reason.name(), count)).chain(local)
}

fn memory(stats: &DataStats) -> Memory {
    let held = &stats.held;
    let links = held.links.values().map(|link| link.window_bits);
    let peers = held.peers.values().map(|peer| peer.window_bits);
    Memory {
        resident_bytes: resident_bytes(),
        frames: held.frames as u64,
        waiting_bytes: held.bytes() as u64,
        waiting_bound_bytes: Held::bound(held.links.len(), stats.lanes.len().max(1)) as u64,
        block_bytes: held.memory as u64,
        send_pending_bytes: stats.udp_held_bytes as u64,
        window_bits: links.chain(peers).sum::<usize>() as u64,
    }
}

/// Resident memory of this process: `proc_pid_status(5)`, `VmRSS`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn complete_peer(row: &mut PeerRow, stats: &DataStats) {
    let held = NodeId::new(row.node).and_then(|node| stats.held.peers.get(&node));
    row.held = held.map(|held| PeerHeld {
        order_packets: held.order.packets as u64,
        order_bytes: held.order.bytes as u64,
        window_bits: held.window_bits as u64,
    });
}

fn complete_link(row: &mut LinkRow, stats: &DataStats) {
    if let Some(link) = stats.forward.link(LinkId(row.link)) {
        row.sent = Some(link.sent);
        row.received = Some(link.received);
        row.retransmits = Some(link.retransmits);
        row.symbols = Some(link.symbols);
        row.recovered = Some(link.recovered);
        row.symbols_refused = Some(link.symbols_refused);
        row.repair_late = Some(link.repair_late);
        row.pieces = Some(link.pieces_sent);
        row.pace = Some(PaceRow {
            mode: Mode::Free.name().to_owned(),
            marked: link.marked,
            ce: link.pace.ce,
            congestion_lost: link.pace.congestion_lost,
            random_lost: link.pace.random_lost,
            trips: link.pace.trips,
            ..PaceRow::default()
        });
    }
    if let Some(held) = stats.held.links.get(&LinkId(row.link)) {
        row.unprotected = Some(held.unprotected);
        row.over_budget = Some(held.over_budget);
        row.uncovered = Some(held.uncovered);
        row.over_share = Some(held.over_share);
        row.false_feedback = Some(held.false_feedback);
        row.local_drops = Some(held.local_drops);
        if let Some(pace) = &mut row.pace {
            pace.mode = held.mode.name().to_owned();
            pace.rate = (held.rate > 0).then_some(held.rate);
            pace.standing_s = held.standing.as_secs_f64();
        }
        row.held = Some(LinkHeld {
            queue_packets: held.queue.packets as u64,
            queue_bytes: held.queue.bytes as u64,
            repair_bytes: held.repair_bytes as u64,
            records: held.records as u64,
            window_bits: held.window_bits as u64,
        });
    }
    let Ok(endpoint) = row.endpoint.parse::<SocketAddr>() else { return };
    row.too_big = Some(stats.too_big.get(&endpoint).copied().unwrap_or(0));
    if let Some(quic) = stats.quic.get(&endpoint) {
        row.sent.get_or_insert_default().control += quic.sent;
        row.received.get_or_insert_default().control += quic.received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::data::QuicBytes;
    use crate::forward::held::{self, Waiting};
    use crate::report::Report;

    #[test]
    fn a_report_gets_the_figures_of_the_data_thread_and_only_what_occurred() {
        let mut stats = DataStats::default();
        stats.udp.too_big = 3;
        stats.forward.egress.add(100);
        let endpoint = "192.0.2.1:4600".parse().unwrap();
        stats.too_big.insert(endpoint, 3);
        let queue = Waiting { packets: 4, bytes: 500 };
        let link = held::LinkHeld { queue, repair_bytes: 70, ..Default::default() };
        stats.held.links.insert(LinkId(0), link);
        let peer = held::PeerHeld { order: queue, window_bits: 1024 };
        stats.held.peers.insert(NodeId::new(9).unwrap(), peer);
        stats.quic.insert(endpoint, QuicBytes { sent: 1200, received: 60 });
        let row = LinkRow { endpoint: endpoint.to_string(), ..LinkRow::default() };
        let peer = PeerRow { node: 9, ..PeerRow::default() };
        let report = Report { links: vec![row], peers: vec![peer], ..Report::default() };
        let mut answer = Answer::Report(Box::new(report));
        complete(&mut answer, &stats, 2);
        let Answer::Report(report) = answer else { panic!() };
        let traffic = report.status.traffic.unwrap();
        assert_eq!(traffic.egress, Volume { packets: 1, bytes: 100 });
        assert_eq!(report.status.dropped_packets, Some([("udp_too_big".to_owned(), 3)].into()));
        assert_eq!(report.status.refused, [("handshake".to_owned(), 2)].into());
        let row = &report.links[0];
        let control = (row.sent.unwrap().control, row.received.unwrap().control);
        assert_eq!(control, (1200, 60));
        let held = row.held.unwrap();
        assert_eq!((held.queue_packets, held.queue_bytes, held.repair_bytes), (4, 500, 70));
        assert_eq!(row.too_big, Some(3));
        assert_eq!(report.peers[0].held.unwrap().order_bytes, 500);
        let memory = report.status.memory.unwrap();
        assert_eq!((memory.waiting_bytes, memory.window_bits), (500 + 70 + 500, 1024));
        assert!(memory.waiting_bound_bytes >= 20 << 20);
        assert!(memory.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }
}
