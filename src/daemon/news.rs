//! Words for what happens in the node: a line in the log, and an event for who follows them.

use crate::id::{Class, NodeId};
use crate::node::NodeEvent;
use crate::route::choose::Why;

/// What an operator is told of as it happens.
pub fn say(event: &NodeEvent) {
    match event {
        NodeEvent::SessionUp { peer, name, endpoint, generation } => {
            tracing::info!(%peer, name, %endpoint, generation, "session up");
        }
        NodeEvent::StreamLost { peer, name, why } => {
            tracing::info!(%peer, name, why, "stream lost; the session goes on");
        }
        NodeEvent::SessionEnded { peer, name, why } => {
            tracing::info!(%peer, name, why, "session ended");
        }
        NodeEvent::LinkMoved { link, peer, endpoint } => {
            tracing::info!(%link, %peer, %endpoint, "peer is at another endpoint");
        }
        NodeEvent::LinkUp { link, peer } => tracing::info!(%link, %peer, "link up"),
        NodeEvent::LinkDown { link, peer, silence } => {
            tracing::warn!(%link, %peer, silence_ms = silence.as_millis(), "link down");
        }
        NodeEvent::MemberNew { node, name } => tracing::info!(%node, name, "member heard of"),
        NodeEvent::MemberGone { node } => tracing::info!(%node, "member forgotten"),
        NodeEvent::PathMoved { destination, class, nodes, why } => {
            tracing::info!(%destination, %class, ?nodes, why, "path moved");
        }
        NodeEvent::Flipped { destination, class, to_backup, why } => {
            let why = why.name();
            tracing::info!(%destination, %class, to_backup, why, "route flipped");
        }
        NodeEvent::Refused { peer, why } => tracing::warn!(?peer, why, "refused"),
        // Said where it failed.
        NodeEvent::DialFailed { .. } | NodeEvent::Persist(_) | NodeEvent::Withdrawn => {}
    }
}

/// The same for who follows events: its kind, the other node, and words.
pub fn told(
    event: &NodeEvent,
    named: impl Fn(NodeId) -> String,
    class: impl Fn(Class) -> String,
) -> Option<(&'static str, Option<String>, String)> {
    Some(match event {
        NodeEvent::SessionUp { name, endpoint, .. } => {
            ("session_up", Some(name.clone()), format!("session up at {endpoint}"))
        }
        NodeEvent::StreamLost { name, why, .. } => {
            ("stream_lost", Some(name.clone()), format!("{why}; the session goes on"))
        }
        NodeEvent::SessionEnded { name, why, .. } => {
            ("session_ended", Some(name.clone()), (*why).to_owned())
        }
        NodeEvent::LinkMoved { peer, endpoint, .. } => {
            ("link_moved", Some(named(*peer)), format!("is at {endpoint} now"))
        }
        NodeEvent::LinkUp { link, peer } => {
            ("link_up", Some(named(*peer)), format!("link {link} answers"))
        }
        NodeEvent::LinkDown { link, peer, silence } => {
            let text = format!("link {link} silent for {} ms", silence.as_millis());
            ("link_down", Some(named(*peer)), text)
        }
        NodeEvent::MemberNew { name, .. } => {
            ("member_new", Some(name.clone()), "heard of".to_owned())
        }
        NodeEvent::MemberGone { node } => {
            ("member_gone", Some(named(*node)), "forgotten".to_owned())
        }
        NodeEvent::PathMoved { destination, class: of, nodes, why } => {
            let way = match nodes.split_last() {
                None if *why == Why::Gone.name() => "no path is left".to_owned(),
                None => "packets are dropped: no path keeps the limits".to_owned(),
                Some((_, [])) => "direct".to_owned(),
                Some((_, relays)) => {
                    let relays: Vec<_> = relays.iter().map(|&node| named(node)).collect();
                    format!("via {}", relays.join(", "))
                }
            };
            ("path_moved", Some(named(*destination)), format!("{}: {way} ({why})", class(*of)))
        }
        NodeEvent::Flipped { destination, class: of, to_backup, why } => {
            let onto = if *to_backup { "onto the backup" } else { "back from the backup" };
            let text = format!("{}: {onto} ({})", class(*of), why.name());
            ("flipped", Some(named(*destination)), text)
        }
        NodeEvent::Refused { peer, why } => ("refused", peer.map(named), (*why).to_owned()),
        NodeEvent::DialFailed { .. } | NodeEvent::Persist(_) | NodeEvent::Withdrawn => return None,
    })
}
