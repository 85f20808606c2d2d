//! What only the driver knows of a report: packets, bytes and drops, from the data thread's counters.

use std::net::SocketAddr;

use super::data::DataStats;
use crate::id::LinkId;
use crate::report::{Answer, LinkRow, Status, Traffic, Volume};

/// Adds the data thread's figures to an answer of the node. `refused`: handshakes refused.
pub fn complete(answer: &mut Answer, stats: &DataStats, refused: u64) {
    match answer {
        Answer::Status(status) => complete_status(status, stats, refused),
        Answer::Links(rows) => rows.iter_mut().for_each(|row| complete_link(row, stats)),
        Answer::Report(report) => {
            complete_status(&mut report.status, stats, refused);
            report.links.iter_mut().for_each(|row| complete_link(row, stats));
        }
        Answer::Peers(_) | Answer::Paths(_) | Answer::Explain(_) | Answer::NotFound(_) => {}
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
    let (udp, tun) = (&stats.udp, &stats.tun);
    let drops = forward.drops().map(|(reason, count)| (reason.name(), count));
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
        ("not_for_us", stats.strangers),
        ("quic_queue_full", stats.quic_dropped),
    ];
    let occurred = drops.chain(local).filter(|(_, count)| *count > 0);
    status.dropped_packets = Some(occurred.map(|(why, count)| (why.to_owned(), count)).collect());
    if refused > 0 {
        *status.refused.entry("handshake".to_owned()).or_default() += refused;
    }
}

fn complete_link(row: &mut LinkRow, stats: &DataStats) {
    if let Some(link) = stats.forward.link(LinkId(row.link)) {
        row.sent = Some(link.sent);
        row.received = Some(link.received);
        row.retransmits = Some(link.retransmits);
        row.repair_late = Some(link.repair_late);
    }
    let endpoint = row.endpoint.parse::<SocketAddr>();
    if let Some(quic) = endpoint.ok().and_then(|endpoint| stats.quic.get(&endpoint)) {
        row.sent.get_or_insert_default().control += quic.sent;
        row.received.get_or_insert_default().control += quic.received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::data::QuicBytes;
    use crate::report::Report;

    #[test]
    fn a_report_gets_the_figures_of_the_data_thread_and_only_what_occurred() {
        let mut stats = DataStats::default();
        stats.udp.too_big = 3;
        stats.forward.egress.add(100);
        let endpoint = "192.0.2.1:4600".parse().unwrap();
        stats.quic.insert(endpoint, QuicBytes { sent: 1200, received: 60 });
        let row = LinkRow { endpoint: endpoint.to_string(), ..LinkRow::default() };
        let report = Report { links: vec![row], ..Report::default() };
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
    }
}
