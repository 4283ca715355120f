//! Start and stop: what is still awaited before the cluster is ready, and the signals that end it.

mod readiness;
mod signal;

pub use readiness::{Readiness, Waiting};
pub use signal::{SecondSignal, Signals};
