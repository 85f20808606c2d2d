//! The daemon: the only code that awaits, opens and reads.

pub mod pki;
