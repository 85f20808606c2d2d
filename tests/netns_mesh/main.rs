//! Real daemons in network namespaces: they find each other through one seed, carry traffic, notice a
//! death, leave cleanly, and come back without any seed.
//!
//! Needs root, and nftables and ping for some; without them the tests say so and pass, unless
//! `THALWEG_REQUIRE_NETNS=1`.

mod join;
mod lab;
mod operator;
mod trust;
mod ways;
