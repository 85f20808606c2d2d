//! Forwarders in memory under virtual time: packets find their way, over relays, loss and failure,
//! and nothing hostile gets through or stops them.

mod bounds;
mod carriers;
mod carry;
mod failure;
mod hostile;
mod lanes;
mod mending;
mod narrow;
mod roaming;
mod world;
