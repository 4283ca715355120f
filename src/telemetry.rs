//! Logging: `tracing` events as lines on standard error, `VIPYARD_LOG` says what is shown.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const VARIABLE: &str = "VIPYARD_LOG";

/// Starts logging. `VIPYARD_LOG` takes a level or targets with levels, such as `info` or `warn,vipyard::dns=debug`;
/// without it problems only are shown, so that what `up` prints stays readable.
///
/// `Targets` rather than `EnvFilter`: the latter brings a regular expression engine of almost a megabyte, for filters
/// on span fields that nothing here has.
pub fn start() {
    let problems = || Targets::new().with_default(LevelFilter::WARN);
    let (filter, mistake) = match std::env::var(VARIABLE) {
        Err(_) => (problems(), None),
        Ok(text) => match text.parse() {
            Ok(filter) => (filter, None),
            Err(e) => (problems(), Some(e)),
        },
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(e) = mistake {
        tracing::warn!(variable = VARIABLE, error = %e, "not a filter, ignored: write a level, or TARGET=LEVEL,...");
    }
}
