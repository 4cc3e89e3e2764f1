//! The upstreams: which of them answer, and in which order they are asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Failures in a row after which an upstream counts as down.
const FAILURES_MAX: u32 = 2;

/// An upstream, and whether it answers.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    failures: AtomicU32,
    down: AtomicBool,
}

impl Upstream {
    /// An upstream that counts as up.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, failures: AtomicU32::new(0), down: AtomicBool::new(false) }
    }

    /// Whether it answers, as far as known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// It has answered, whatever the answer was. Returns whether it was down.
    pub fn answered(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.down.swap(false, Ordering::Relaxed)
    }

    /// It has not answered. Returns whether it counts as down from now on.
    pub fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= FAILURES_MAX && !self.down.swap(true, Ordering::Relaxed)
    }
}

/// The order of attempts: those that answer in turn, then the others, which may have come back. `attempts` at least, so
/// that one lost packet is no failure.
#[must_use]
pub fn order(up: &[bool], turn: usize, attempts: usize) -> Vec<usize> {
    let rotated = |wanted: bool| {
        let mut list: Vec<usize> = (0..up.len()).filter(|at| up[*at] == wanted).collect();
        if !list.is_empty() {
            let by = turn % list.len();
            list.rotate_left(by);
        }
        list
    };
    let once = [rotated(true), rotated(false)].concat();
    let many = once.len().max(attempts);
    once.iter().copied().cycle().take(if once.is_empty() { 0 } else { many }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_answer_come_first_and_take_turns() {
        assert_eq!(order(&[true, false, true], 0, 2), [0, 2, 1]);
        assert_eq!(order(&[true, false, true], 1, 2), [2, 0, 1]);
        assert_eq!(order(&[false, false], 3, 2), [1, 0]);
        assert_eq!(order(&[true], 7, 3), [0, 0, 0]);
        assert_eq!(order(&[], 0, 3), [0; 0]);
    }

    #[test]
    fn two_failures_in_a_row_take_it_down_and_an_answer_brings_it_back() {
        let upstream = Upstream::new(([127, 0, 0, 1], 53).into());
        assert!(!upstream.failed());
        assert!(!upstream.answered());
        assert!(!upstream.failed() && upstream.failed() && !upstream.is_up());
        assert!(!upstream.failed(), "it is down already");
        assert!(upstream.answered() && upstream.is_up());
    }
}
