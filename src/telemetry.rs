//! Logging: `tracing` events as lines on standard error, `VIPYARD_LOG` says what is shown.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Without `VIPYARD_LOG`: problems only, so that what `up` prints stays readable.
const DEFAULT: &str = "warn";

/// Starts logging. `VIPYARD_LOG` takes the directives of `tracing_subscriber::EnvFilter`, such as `info,vipyard::dns=debug`.
pub fn start() {
    let filter = EnvFilter::try_from_env("VIPYARD_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}
