//! How long to wait before the next session.

use std::time::Duration;

/// Pause after a failed session: the first and the longest; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A session that lasted this long resets the pause.
const STABLE: Duration = Duration::from_secs(30);

/// Pauses between sessions: they grow while sessions fail soon after their start.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_MIN }
    }
}

impl Pauses {
    /// The pause after a session that lasted this long and failed: 250 ms to 5 s.
    #[must_use]
    pub fn after(&mut self, lasted: Duration) -> Duration {
        let pause = if lasted >= STABLE { PAUSE_MIN } else { self.next };
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_session_lasts() {
        let mut pauses = Pauses::default();
        let short = Duration::from_secs(29);
        let waits = [(); 7].map(|()| pauses.after(short).as_millis());
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(pauses.after(STABLE), PAUSE_MIN);
        assert_eq!(pauses.after(Duration::ZERO), PAUSE_MIN * 2);
    }
}
