//! SIGINT and SIGTERM: the first begins to drain, a second one ends the process at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from its creation on, so that no signal is missed while the cluster starts.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Says that the person asked twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecondSignal;

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Carries `work` to its end, unless another signal comes first.
    pub async fn until_second<T>(&mut self, work: impl Future<Output = T>) -> Result<T, SecondSignal> {
        tokio::select! {
            done = work => Ok(done),
            _ = self.next() => Err(SecondSignal),
        }
    }
}
