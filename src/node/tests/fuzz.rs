//! Whatever comes in, in whatever order, nothing panics and the node asks for a sane clock.

use proptest::prelude::*;

use super::world::{World, at, config};
use crate::control::message::{DigestEntry, Message, Topic};
use crate::control::{ConnectionId, ControlInput};
use crate::forward::arq::Longest;
use crate::forward::event::{FlipReason, ForwardEvent, LineFigures};
use crate::id::{Class, LinkId, NodeId};
use crate::session::keys::Secret;
use crate::session::toy::{certificate, certified};
use crate::time::Instant;
use crate::unit::Ratio;

fn any_input() -> impl Strategy<Value = ControlInput> {
    let connection = || (0u64..6).prop_map(ConnectionId);
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..120),
        (1u8..7, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(kind, rest)| [
            vec![kind, 0],
            rest
        ]
        .concat()),
        (any::<bool>(), prop::collection::vec((1u16..9, 0u64..3, 0u64..3), 0..9)).prop_map(
            |(members, entries)| {
                let topic = if members { Topic::Members } else { Topic::LinkState };
                let entry =
                    |(node, boot, seq)| DigestEntry { node: NodeId::new(node).unwrap(), boot, seq };
                Message::Digest { topic, entries: entries.into_iter().map(entry).collect() }
                    .to_bytes()
            }
        ),
    ];
    prop_oneof![
        (connection(), 1u16..6, any::<bool>()).prop_map(|(connection, number, dialled)| {
            let name = format!("node-{number}");
            ControlInput::Connected {
                connection,
                peer: certified(number, &name),
                certificate: certificate(1, number, &name),
                secret: Secret::new([number as u8; 32]),
                dialled,
                endpoint: super::world::endpoint(number),
            }
        }),
        (connection(), 1u16..6, any::<u64>()).prop_map(|(connection, number, boot)| {
            let hello = crate::control::message::Hello {
                version: 1,
                capabilities: 0,
                boot,
                node: NodeId::new(number).unwrap(),
                receive_index: 0x100,
                observed: Some(super::world::endpoint(3)),
                endpoints: vec![],
            };
            ControlInput::Message { connection, bytes: Message::Hello(hello).to_bytes().into() }
        }),
        (connection(), bytes).prop_map(|(connection, bytes)| ControlInput::Message {
            connection,
            bytes: bytes.into(),
        }),
        connection().prop_map(|connection| ControlInput::Closed { connection, why: "x".into() }),
        (1u16..6).prop_map(|n| ControlInput::DialFailed {
            endpoint: super::world::endpoint(n),
            why: "x".into()
        }),
    ]
}

fn any_event() -> impl Strategy<Value = ForwardEvent> {
    let link = || (0u16..5).prop_map(LinkId);
    prop_oneof![
        link().prop_map(|link| ForwardEvent::LinkUp { link }),
        (link(), any::<u32>()).prop_map(|(link, us)| ForwardEvent::LinkDown {
            link,
            silence: std::time::Duration::from_micros(us.into())
        }),
        (link(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
            |(link, seq, sent, received, dwell, heard)| ForwardEvent::ProbeReply {
                link,
                seq,
                sent_at: Instant::from_micros(sent),
                received_at: Instant::from_micros(received),
                dwell: std::time::Duration::from_micros(dwell.into()),
                peer_highest: heard,
                peer_heard: heard / 2,
            }
        ),
        (link(), any::<u32>(), any::<u64>()).prop_map(|(link, seq, us)| ForwardEvent::ProbeHeard {
            link,
            seq,
            sent_at_peer_us: us,
            received_at: Instant::from_micros(us / 2),
        }),
        (link(), 0..20u32, any::<u16>()).prop_map(|(link, seq, size)| {
            ForwardEvent::SizeAnswered { link, seq, size: [1472, 1452, size][seq as usize % 3] }
        }),
        (link(), any::<u16>()).prop_map(|(link, size)| ForwardEvent::TooLong { link, size }),
        (link(), any::<[u64; 6]>()).prop_map(|(link, n)| ForwardEvent::HopReport {
            link,
            span: std::time::Duration::from_micros(n[0]),
            sent: n[1],
            judged: n[2],
            lost: n[3],
            residual: n[4],
            longest: Longest { kept: n[0] as u32, lost: n[5] as u32 },
            bytes: n[5],
            repair_bytes: n[0],
            rtt: Some(std::time::Duration::from_micros(n[1])),
            line: LineFigures {
                loss: Some(Ratio::from_ppm(n[2] as u32)),
                burst: Some(std::time::Duration::from_micros(n[3])),
                rtt: Some(std::time::Duration::from_micros(n[4])),
                ..LineFigures::default()
            },
        }),
        (1u16..6, any::<bool>()).prop_map(|(node, to_backup)| ForwardEvent::Flipped {
            destination: NodeId::new(node).unwrap(),
            class: Class(0),
            to_backup,
            why: FlipReason::LinkDown,
        }),
        (1u16..6, 1u16..6).prop_map(|(relay, next)| ForwardEvent::RelayLostHop {
            relay: NodeId::new(relay).unwrap(),
            next: NodeId::new(next).unwrap(),
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Control(ControlInput),
    Event(ForwardEvent),
    Wait(u32),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_order_of_inputs_panics_or_spins(
        steps in prop::collection::vec(
            prop_oneof![
                3 => any_input().prop_map(Step::Control),
                2 => any_event().prop_map(Step::Event),
                1 => (0u32..20_000_000).prop_map(Step::Wait),
            ],
            1..60,
        ),
    ) {
        let mut world = World::new(1);
        world.start(3, config(&[1]));
        let host = world.hosts.get_mut(&3).unwrap();
        let node = &mut host.node;
        let mut now = at(0.0);
        for step in steps {
            match step {
                Step::Control(input) => node.handle_control(now, input),
                Step::Event(event) => node.handle_event(now, event),
                Step::Wait(us) => {
                    let until = now.plus(std::time::Duration::from_micros(us.into()));
                    let mut turns = 0;
                    while let Some(due) = node.poll_timeout().filter(|d| d.at <= until) {
                        now = now.max(due.at);
                        node.handle_timeout(now);
                        turns += 1;
                        prop_assert!(turns < 2_000, "spins: {}", due.why);
                    }
                    now = until;
                }
            }
            while node.poll_control().is_some() {}
            while node.poll_event().is_some() {}
            while node.poll_send().is_some() {}
            node.poll_snapshot();
            node.handle_command(now, &crate::report::Command::Report);
        }
    }
}
