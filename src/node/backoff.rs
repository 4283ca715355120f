//! How long a container that ended waits before it starts again (rule PS9).

use std::time::Duration;

/// The delays between the starts of one container: none, then `base` doubling up to `limit`.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    limit: Duration,
    /// A run of this length makes the next start the first again.
    reset: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(base: Duration, limit: Duration, reset: Duration) -> Self {
        Self { base, limit, reset, next: Duration::ZERO }
    }

    /// The same with a delay from the first time on.
    pub fn with_first_delay(self) -> Self {
        Self { next: self.base, ..self }
    }

    /// The delay before the next start, counted from the end of a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        let delay = if ran >= self.reset { Duration::ZERO } else { self.next };
        self.next = (delay * 2).clamp(self.base, self.limit);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes_and_start_over_after_a_long_run() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300), Duration::from_secs(600));
        let delays: Vec<u64> = (0..8).map(|_| backoff.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(Duration::from_secs(600)), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), Duration::from_secs(10));
    }
}
