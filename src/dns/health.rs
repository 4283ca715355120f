//! Whether an upstream resolver is worth a question: remembered for a moment, so that a machine without a network fails
//! fast. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long a silent upstream is left alone. Then one question tries it again, and only if that is answered do others
/// follow.
pub const HOLD: Duration = Duration::from_secs(3);
/// Questions in a row without an answer after which a resolver that has answered before counts as down. One may be
/// about a domain whose own servers are silent.
const PATIENCE: u32 = 2;

#[derive(Debug, Default)]
pub struct Health {
    last_answer: Option<Instant>,
    unanswered: u32,
    down_until: Option<Instant>,
}

impl Health {
    /// Whether to ask now. A `true` while the upstream is down is the permission for one trial.
    pub fn try_ask(&mut self, now: Instant) -> bool {
        match self.down_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.down_until = Some(now + HOLD);
                true
            }
        }
    }

    pub fn answered(&mut self, now: Instant) {
        *self = Self { last_answer: Some(now), ..Self::default() };
    }

    /// A question asked at `asked` had no answer until `now`.
    pub fn silent(&mut self, asked: Instant, now: Instant) {
        // It answered somebody else meanwhile, so the silence is about the name.
        if self.last_answer.is_some_and(|last| last >= asked) {
            return;
        }
        self.unanswered += 1;
        if self.last_answer.is_none() || self.unanswered >= PATIENCE {
            self.down_until = Some(now + HOLD);
        }
    }

    pub fn is_down(&self) -> bool {
        self.down_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_upstream_that_never_answered_is_down_after_one_silence() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.try_ask(start));
        health.silent(start, start + SECOND);
        assert!(health.is_down());
        assert!(!health.try_ask(start + SECOND));
    }

    #[test]
    fn one_question_at_a_time_tries_a_down_upstream_again() {
        let start = Instant::now();
        let mut health = Health::default();
        health.silent(start, start);
        assert!(health.try_ask(start + HOLD));
        assert!(!health.try_ask(start + HOLD));
        health.answered(start + HOLD + SECOND);
        assert!(health.try_ask(start + HOLD + SECOND));
        assert!(!health.is_down());
    }

    #[test]
    fn a_single_slow_name_does_not_take_a_good_upstream_down() {
        let start = Instant::now();
        let mut health = Health::default();
        health.answered(start);
        health.silent(start + SECOND, start + 2 * SECOND);
        assert!(health.try_ask(start + 2 * SECOND));
        // Answers to others in between: still fine, however often.
        for i in 3..10 {
            health.answered(start + i * SECOND);
            health.silent(start + i * SECOND, start + (i + 1) * SECOND);
            assert!(!health.is_down());
        }
        health.silent(start + 20 * SECOND, start + 21 * SECOND);
        health.silent(start + 20 * SECOND, start + 21 * SECOND);
        assert!(health.is_down());
    }
}
