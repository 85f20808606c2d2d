//! What each reason for a drop means, and what an operator can do about it.

use crate::report::DropRow;

/// Reason, meaning, remedy: one row for every counter there is.
pub const REASONS: &[(&str, &str, &str)] = &[
    (
        "too_short",
        "from the device: shorter than the header it claims",
        "find the sender with tcpdump on the overlay's interface; its stack or a tool writes broken packets",
    ),
    ("not_ip", "from the device: neither IPv4 nor IPv6", "see what else writes to the interface"),
    (
        "bad_packet",
        "from the device: lengths or headers that contradict each other",
        "find the sender with tcpdump on the overlay's interface",
    ),
    (
        "multicast",
        "to a multicast group, which the overlay does not carry",
        "nothing, where it is the usual noise (mDNS, neighbour discovery); else send unicast",
    ),
    (
        "broadcast",
        "to a broadcast address, which the overlay does not carry",
        "nothing, or send unicast",
    ),
    (
        "local_address",
        "an address that means nothing beyond one wire (link-local, loopback)",
        "nothing; or give the application the overlay's address",
    ),
    (
        "foreign_source",
        "its source is none of this site's addresses",
        "send from an overlay address or certified prefix, or issue the certificate again with `--prefix`",
    ),
    (
        "hairpin",
        "to this site itself",
        "mend the site's own routes: they send local traffic into the overlay",
    ),
    (
        "underlay_loop",
        "a datagram to a peer's endpoint, which would be carried in itself",
        "take routes to the peers' underlay addresses out of the overlay's prefixes",
    ),
    (
        "no_owner",
        "no node answers for its destination",
        "see `thalweg peers` for the prefixes there are; the node that has it may never have been met",
    ),
    (
        "no_route",
        "no path to its destination's node, or none that works",
        "see `thalweg paths` and `thalweg links`; the node may be down",
    ),
    (
        "outside_limits",
        "no path keeps the limits of its class, whose `fallback` is \"drop\"",
        "see `thalweg explain` for the limit; loosen it, or let the class fall back otherwise",
    ),
    (
        "no_session",
        "no keys with its destination's node",
        "see the node's error in `thalweg peers`",
    ),
    (
        "too_big",
        "larger than the path carries",
        "nothing, if few: their sender is told once; else let ICMP through to it, or lower its MTU",
    ),
    (
        "no_room",
        "no memory left for another packet",
        "the lines are fuller than the senders take notice of; see the queues in `thalweg links`",
    ),
    (
        "queue_full",
        "the queue was full and its flow held most of it",
        "the line is too thin for what is sent, or `max_rate` too low",
    ),
    (
        "queue_late",
        "waited too long in a queue",
        "the line is too thin for what is sent; see `thalweg links`",
    ),
    (
        "queue_signal",
        "told its flow to slow down (CoDel)",
        "nothing: this is how a full line keeps its queue short",
    ),
    (
        "not_a_frame",
        "a datagram that is none of our frames",
        "nothing, if few: strangers scan ports; else filter the port",
    ),
    (
        "malformed",
        "a frame that breaks the rules of the wire",
        "bring both ends to the same version; else somebody forges",
    ),
    (
        "unsupported",
        "a frame of a kind this version only drafts",
        "bring both ends to the same version",
    ),
    (
        "unknown_index",
        "a frame for a session there is none of: often of a peer that has not noticed our restart",
        "nothing, if it ends within seconds; else restart the peer",
    ),
    (
        "unknown_epoch",
        "a frame sealed with a key that is not to be had any more",
        "nothing, if few: late frames after a change of keys",
    ),
    (
        "bad_tag",
        "a frame whose seal does not fit: damaged or forged",
        "nothing, if few; else somebody forges, filter the port",
    ),
    (
        "forgery_flood",
        "a stranger's frame, not even opened while many seals do not fit",
        "filter the port against the flood",
    ),
    (
        "replayed",
        "a frame with a counter seen before: doubled by the network, or played back",
        "nothing, if few",
    ),
    (
        "too_old",
        "a frame with a counter too old to tell",
        "nothing, if few: reordered by more than the window",
    ),
    (
        "duplicate",
        "a data frame that came before: a repair that was not needed",
        "nothing, if few beside `repair` in `thalweg links`",
    ),
    (
        "wrong_route",
        "a route that does not lead from its sender to us",
        "bring all nodes to the same version; else a member forges",
    ),
    (
        "relay_refused",
        "to be passed on, and this node does not relay",
        "nothing, for seconds after consent was taken back; else the source is of another version",
    ),
    (
        "next_hop_down",
        "to be passed on, and no link to the next node works",
        "nothing: the source is told and moves; see `thalweg links` here",
    ),
    (
        "end_no_session",
        "at its end: no session with its source",
        "nothing, for seconds after a restart; else see `thalweg peers`",
    ),
    (
        "end_unknown_epoch",
        "at its end: sealed with a key that is not to be had any more",
        "nothing, if few: late packets after a change of keys",
    ),
    (
        "end_bad_tag",
        "at its end: the seal does not fit",
        "a relay or the network damages packets; see which path they take",
    ),
    ("end_replayed", "at its end: a counter seen before", "nothing, if few: copies on two paths"),
    (
        "end_too_old",
        "at its end: a counter too old to tell, or a stream out of range",
        "nothing, if few: reordered by more than the window",
    ),
    (
        "end_bad_packet",
        "at its end: what was sealed is no packet we carry",
        "bring both ends to the same version",
    ),
    (
        "spoofed_source",
        "at its end: its source lies outside its sender's certified networks",
        "issue the sender's certificate again with the prefix it sends from",
    ),
    (
        "foreign_destination",
        "at its end: its destination is not ours",
        "two nodes announce the same prefix, or its certificate was changed: see `thalweg peers`",
    ),
    (
        "congested",
        "at its end: marked as congested, and its transport cannot be told",
        "let the application use ECN, or send less",
    ),
    (
        "stray_notice",
        "a notice that fits no route of ours, or came from where it cannot",
        "nothing, if few",
    ),
    ("stray_hello", "a hello that answers no question of ours", "nothing, if few"),
    (
        "lane_full",
        "to be handed to another lane, which is too far behind",
        "give it more processors, or another number of `[forward] lanes`",
    ),
    (
        "carrier_quota",
        "a carrier beyond what one source may send through here: 512 at once, 100 a second",
        "nothing, if few; else look who sends them: many handshakes over relays, or a flood",
    ),
    (
        "piece_missing",
        "a frame longer than its link carries, of whose pieces some did not come",
        "nothing, if few: pieces are lost like any other frame, and repair sends them again",
    ),
    (
        "relay_quota",
        "to be passed on, beyond what its source may send through here",
        "raise `[relay] max_rate_per_source`, or look who sends so much",
    ),
    (
        "udp_send_buffer_full",
        "not sent: the send buffer stayed full",
        "the network card is slower than what is sent; set `max_rate`",
    ),
    (
        "udp_no_buffer",
        "not sent: the device or the system had no buffer",
        "raise the interface's queue, or set `max_rate`",
    ),
    (
        "udp_too_big",
        "not sent: longer than the underlay's path takes",
        "nothing, if few: the link's MTU is found again within seconds; see it in `thalweg links`",
    ),
    (
        "udp_unreachable",
        "not sent: no way there, or forbidden by a filter",
        "see the machine's routes and firewall towards the peers' endpoints",
    ),
    (
        "udp_receive_buffer_full",
        "dropped by the kernel before we could read it",
        "raise net.core.rmem_max, or give the daemon more processors",
    ),
    ("udp_empty", "a datagram without a byte in it", "nothing: strangers scan ports"),
    (
        "udp_truncated",
        "received, but cut short",
        "nothing, if few; else somebody sends datagrams longer than any of ours",
    ),
    (
        "tun_busy",
        "not given to applications: the device's queue is full",
        "the applications or the machine are slower than what comes",
    ),
    ("tun_refused", "not given to applications: the kernel refused it", "see the kernel's log"),
    (
        "tun_malformed",
        "from the device: an offload header that contradicts its packet",
        "report it with the kernel's version",
    ),
    ("tun_absent", "the device was away", "see the log: who takes the interface away?"),
    (
        "udp_no_memory",
        "received, and dropped for want of memory",
        "more is held for order and repair than is allowed; see `waiting here` in `thalweg status`",
    ),
    (
        "tun_no_memory",
        "from the device, and dropped for want of memory",
        "more is held for order and repair than is allowed; see `waiting here` in `thalweg status`",
    ),
    (
        "not_for_us",
        "a datagram that is neither ours nor QUIC's",
        "nothing, if few: strangers scan ports; else filter the port",
    ),
    (
        "quic_queue_full",
        "of a control stream, while the control thread was behind",
        "nothing, if few: they are sent again; else the machine is overloaded, or flooded",
    ),
    (
        "lane_stray_full",
        "of another lane, which is too far behind",
        "give it more processors, or another number of `[forward] lanes`",
    ),
];

/// The rows of these counters, in their order.
pub fn rows(counted: impl Iterator<Item = (&'static str, u64)>) -> Vec<DropRow> {
    let row = |(reason, packets): (&'static str, u64)| {
        let known = REASONS.iter().find(|(name, ..)| *name == reason);
        let (meaning, remedy) = known.map_or(("", ""), |(_, meaning, remedy)| (*meaning, *remedy));
        DropRow {
            reason: reason.to_owned(),
            packets,
            meaning: meaning.to_owned(),
            remedy: remedy.to_owned(),
        }
    };
    counted.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::data::DataStats;
    use crate::daemon::tally::dropped;

    #[test]
    fn every_counter_has_its_meaning_and_remedy_and_none_is_explained_that_is_not_there() {
        let stats = DataStats::default();
        let counted: Vec<&str> = dropped(&stats).map(|(reason, _)| reason).collect();
        let explained: Vec<&str> = REASONS.iter().map(|(reason, ..)| *reason).collect();
        assert_eq!(explained, counted);
        assert!(
            rows(dropped(&stats)).iter().all(|r| !r.meaning.is_empty() && !r.remedy.is_empty())
        );
    }
}
