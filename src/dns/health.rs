//! Whether an upstream resolver is worth a question: remembered for a moment, so that a machine without a network fails
//! fast. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long a silent upstream is left alone. Then one question tries it again, and only if that is answered do others
/// follow.
pub const HOLD: Duration = Duration::from_secs(3);
/// How long after its last answer an upstream that is down may be asked where nobody else is left: several domains whose
/// own servers are silent look like a silent upstream.
pub const RECENT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Health {
    last_answer: Option<Instant>,
    /// The name that it was silent about since then. All questions about one name count once, since its own servers may
    /// be what is silent; a resolver that has answered before counts as down after silence about a second name.
    silent_about: Option<String>,
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

    /// A question about `name`, asked at `asked`, had no answer until `now`.
    pub fn silent(&mut self, name: &str, asked: Instant, now: Instant) {
        // It answered somebody else meanwhile, so the silence is about the name.
        if self.last_answer.is_some_and(|last| last >= asked) {
            return;
        }
        let about_another = self.silent_about.get_or_insert_with(|| name.to_owned()) != name;
        if self.last_answer.is_none() || about_another || self.is_down() {
            self.down_until = Some(now + HOLD);
        }
    }

    /// When it answered last, if that was not long ago.
    pub fn recent_answer(&self, now: Instant) -> Option<Instant> {
        self.last_answer.filter(|last| now < *last + RECENT)
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
        health.silent("a.example", start, start + SECOND);
        assert!(health.is_down());
        assert!(!health.try_ask(start + SECOND));
        assert_eq!(health.recent_answer(start + SECOND), None);
    }

    #[test]
    fn one_question_at_a_time_tries_a_down_upstream_again() {
        let start = Instant::now();
        let mut health = Health::default();
        health.silent("a.example", start, start);
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
        // A client asks for both families at once, and again.
        for asked in [1, 1, 3, 3] {
            health.silent("dead.example", start + asked * SECOND, start + (asked + 1) * SECOND);
            assert!(health.try_ask(start + (asked + 1) * SECOND));
        }
        // Answers to others in between: still fine, however many names.
        for i in 5..10 {
            health.answered(start + i * SECOND);
            health.silent(&format!("dead-{i}.example"), start + i * SECOND + SECOND / 2, start + (i + 1) * SECOND);
            assert!(!health.is_down());
        }
        health.silent("a.example", start + 20 * SECOND, start + 21 * SECOND);
        assert!(health.is_down());
        health.silent("a.example", start + 23 * SECOND, start + 24 * SECOND);
        assert!(!health.try_ask(start + 24 * SECOND), "silence while it is down prolongs that");
    }

    #[test]
    fn an_answer_is_remembered_for_a_while() {
        let start = Instant::now();
        let mut health = Health::default();
        health.answered(start);
        for name in ["a.example", "b.example"] {
            health.silent(name, start + SECOND, start + 2 * SECOND);
        }
        assert!(health.is_down());
        assert_eq!(health.recent_answer(start + 2 * SECOND), Some(start));
        assert_eq!(health.recent_answer(start + RECENT), None);
    }
}
