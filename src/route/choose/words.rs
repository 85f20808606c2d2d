//! Reasons to move and not to move, and what is said of a move.

use std::time::Duration;

use crate::id::{Class, NodeId};
use crate::route::solve::Candidate;
use crate::unit::Ratio;

/// Reasons not to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChooseConfig {
    /// Between full recomputations, moved by up to a tenth so that nodes do not all move at once.
    pub recompute: Duration,
    /// A full recomputation comes so soon after the start, and after a destination's first path: those
    /// are chosen while hardly anything is known, often over the seed that told of the destination. The next
    /// comes after twice as long, and so on: what was measured doubles between two.
    pub first: Duration,
    /// How much cheaper than the path in force another must be.
    pub margin: Ratio,
    /// How long a path that was chosen is safe from merely better ones.
    pub hold_down: Duration,
    /// How long a path may be outside its limits, or much worse; and how long what it stands in for must
    /// have worked.
    pub violation: Duration,
    /// A relayed path may be up to so much longer: many nodes leave one for the same link, and each does
    /// at a moment of its own.
    pub stagger: Duration,
}

impl Default for ChooseConfig {
    fn default() -> Self {
        Self {
            recompute: Duration::from_secs(300),
            first: Duration::from_secs(15),
            margin: Ratio::from_ppm(30_000),
            hold_down: Duration::from_secs(30),
            violation: Duration::from_secs(3),
            stagger: Duration::from_secs(1),
        }
    }
}

/// Why a path came into force or left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The destination had none.
    First,
    /// The one before broke.
    Broken,
    /// The one before left the limits.
    Limits,
    /// No path keeps the limits any more, and the class falls back.
    Fallback,
    /// It is better by more than the margin.
    Better,
    /// The one before became much worse, and this one is better by more than the margin.
    Worse,
    /// A way that had broken, or a link that is new, has proved itself, and this one is better by more than
    /// the margin.
    Returned,
    /// The destination is gone.
    Gone,
    /// The class's policy is a new one, and took this path over from the one before.
    Policy,
}

impl Why {
    /// The label in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Broken => "broken",
            Self::Limits => "limits",
            Self::Fallback => "fallback",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Returned => "returned",
            Self::Gone => "gone",
            Self::Policy => "policy",
        }
    }
}

/// One move of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where to.
    pub destination: NodeId,
    /// The classes that moved.
    pub classes: Vec<Class>,
    /// The path before, at its last price.
    pub from: Option<Candidate>,
    /// The path now; `None` where packets are dropped from now on.
    pub to: Option<Candidate>,
    /// The reason.
    pub why: Why,
}
