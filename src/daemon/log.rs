//! Where log lines go: text to a terminal, JSON to whoever gathers them.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{LogConfig, LogFormat};

/// Starts logging to standard error. `THALWEG_LOG` in the environment, in the form
/// `info,thalweg::route=debug`, goes before the configured level. A second call changes nothing.
pub fn start(config: LogConfig) {
    let level = config.level.name();
    let filter = EnvFilter::try_from_env("THALWEG_LOG");
    // QUIC's own lines say nothing to an operator below a warning.
    let filter =
        filter.unwrap_or_else(|_| EnvFilter::new(format!("warn,thalweg={level},netsim={level}")));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let as_text = match config.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => stderr().is_terminal(),
    };
    // Fails only where logging was started already, and then that one stays.
    let _ = if as_text { lines.try_init() } else { lines.json().flatten_event(true).try_init() };
}
