//! The daemon: the only code that awaits, opens and reads.

pub mod admin;
pub mod http;
pub mod log;
pub mod pki;
