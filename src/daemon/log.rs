//! Where log lines go: text to a terminal, JSON to whoever gathers them.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Puts another filter in the place of the one in force.
type Replace = Box<dyn Fn(EnvFilter) + Send + Sync>;

static REPLACE: OnceLock<Replace> = OnceLock::new();

/// Starts logging to standard error. `THALWEG_LOG` in the environment, in the form
/// `info,thalweg::route=debug`, goes before the configured level. A second call changes nothing.
pub fn start(config: LogConfig) {
    let filter = EnvFilter::try_from_env("THALWEG_LOG").unwrap_or_else(|_| filter(config.level));
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
    if as_text {
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        if lines.try_init().is_ok() {
            let _ = REPLACE.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    } else {
        let lines = lines.json().flatten_event(true).with_filter_reloading();
        let handle = lines.reload_handle();
        if lines.try_init().is_ok() {
            let _ = REPLACE.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    }
}

/// Another level from now on; `THALWEG_LOG` still goes before it.
pub fn relevel(level: LogLevel) {
    if let Some(replace) = REPLACE.get().filter(|_| std::env::var_os("THALWEG_LOG").is_none()) {
        replace(filter(level));
    }
}

/// QUIC's own lines say nothing to an operator below a warning.
fn filter(level: LogLevel) -> EnvFilter {
    let level = level.name();
    EnvFilter::new(format!("warn,thalweg={level},netsim={level}"))
}
