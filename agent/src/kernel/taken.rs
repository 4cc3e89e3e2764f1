//! Collects kernel changes that may affect attachments, between two passes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// What the next pass has to check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Host ends of pairs that changed or were removed.
    pub links: BTreeSet<String>,
    /// Addresses whose host routes were removed, or to which other programs added routes.
    pub ips: BTreeSet<IpAddr>,
    /// Events were lost.
    pub everything: bool,
}

/// Kernel events since the last pass.
#[derive(Debug, Default)]
pub struct Taken {
    touched: Mutex<Touched>,
    news: Notify,
}

impl Taken {
    /// Records that a host end changed or was removed.
    pub fn link(&self, name: String) {
        self.add(|touched| _ = touched.links.insert(name));
    }

    /// Records that a host route was removed.
    pub fn route(&self, ip: IpAddr) {
        self.add(|touched| _ = touched.ips.insert(ip));
    }

    /// Records that events were lost.
    pub fn everything(&self) {
        self.add(|touched| touched.everything = true);
    }

    fn add(&self, change: impl FnOnce(&mut Touched)) {
        change(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    /// Waits for an event.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Returns and clears the changes recorded so far.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
