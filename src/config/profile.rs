//! Named profiles: what a kind of application needs, so that a class needs no figures of its own.
//!
//! Each gives an objective, the time for repair beyond the path's own delay, whether order is restored,
//! the residual asked for, and the most that repair may add. `docs/config.md` has the table with the
//! reason and source of each figure; the short form stands at [`Profile::delivery`].

use std::time::Duration;

use crate::route::policy::{Delivery, Objective};
use crate::unit::{Ratio, Residual};

/// A kind of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Live pictures and sound for many: teaching, conferences, broadcast.
    Live,
    /// Games, also those that run in the cloud.
    Gaming,
    /// A desktop or terminal somewhere else.
    Desktop,
    /// Virtual and augmented reality, rendered somewhere else.
    Vr,
    /// Control loops of machines.
    Control,
    /// Copies and backups: all of it, but not at once.
    Bulk,
    /// No repair: what is lost stays lost.
    None,
}

impl Profile {
    /// Every profile, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Live, Self::Gaming, Self::Desktop, Self::Vr, Self::Control, Self::Bulk, Self::None];

    /// The word in the file; also the class's name where it gives none.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Gaming => "gaming",
            Self::Desktop => "desktop",
            Self::Vr => "vr",
            Self::Control => "control",
            Self::Bulk => "bulk",
            Self::None => "none",
        }
    }

    /// What its paths are best at.
    pub const fn objective(self) -> Objective {
        match self {
            Self::Bulk => Objective::Cost,
            _ => Objective::Latency,
        }
    }

    /// The code points that such applications mark their packets with (RFC 4594 section 2.3, RFC 8622):
    /// what a class takes that says nothing else. Empty where there is no custom; none is in two.
    pub const fn dscp(self) -> &'static [u8] {
        match self {
            // Multimedia conferencing AF4x, multimedia streaming AF3x, broadcast video CS3.
            Self::Live => &[34, 36, 38, 26, 28, 30, 24],
            // Real-time interactive CS4.
            Self::Gaming => &[32],
            // Low-latency data AF2x.
            Self::Desktop => &[18, 20, 22],
            Self::Vr | Self::Control => &[],
            // High-throughput data AF1x, low-priority data CS1.
            Self::Bulk => &[10, 12, 14, 8],
            // Lower effort.
            Self::None => &[1],
        }
    }

    /// How its packets are delivered.
    pub const fn delivery(self) -> Delivery {
        // One step of 16 is a tenth (`Residual`).
        let (budget_ms, reorder_ms, residual, share_percent) = match self {
            // 150 ms over a continent's 40 are the about 200 ms within which live video transport
            // delivers; 30 % pay for 10 % of loss with one round, and for 20 % with
            // many.
            Self::Live => (150, 0, 64, 30),
            // Of the 50 ms that 3GPP gives real-time gaming (TS 23.501 table 5.7.4-1, 5QI 3) 10 are left
            // for queues. Where no round fits, 10 % loss costs 46 to 51 % of coding.
            Self::Gaming => (40, 0, 64, 50),
            // A key's echo is crisp below 150 ms (Tolia and others, 2006), there and back, with only
            // one of both repaired; TCP waits 200 ms by itself. Ordered: it is TCP.
            Self::Desktop => (80, 80, 64, 50),
            // Motion to photon is to stay near 20 ms: what comes later than that beyond the path misses
            // the picture it was for.
            Self::Vr => (20, 0, 64, 50),
            // 65 ms over a path of 35 to 40 leave 25 for repair (dissemination graphs, 2017, for remote
            // manipulation). Few bytes that often no round can save: twice the bytes may be spent.
            Self::Control => (20, 0, 80, 100),
            // Nobody waits for one packet, all wait for the last. TCP's window at 1e-4 would still be
            // held at 187 packets on 100 ms (RFC 9438 section 5), at 1e-5 at 1,054.
            Self::Bulk => (1000, 1000, 80, 50),
            Self::None => return Delivery::NONE,
        };
        Delivery {
            budget: Duration::from_millis(budget_ms),
            reorder: Duration::from_millis(reorder_ms),
            residual: Residual(residual),
            repair_share: Some(Ratio::from_ppm(share_percent * 10_000)),
            repair_bps: None,
        }
    }
}
