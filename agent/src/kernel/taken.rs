//! What changes of the kernel may have taken from attachments: gathered between two looks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// What to look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Host ends of pairs that went, or changed.
    pub links: BTreeSet<String>,
    /// Addresses whose host routes went, or to which others have routes.
    pub ips: BTreeSet<IpAddr>,
    /// News was lost.
    pub everything: bool,
}

/// News of the kernel, until somebody looks.
#[derive(Debug, Default)]
pub struct Taken {
    touched: Mutex<Touched>,
    news: Notify,
}

impl Taken {
    /// A host end went, or changed.
    pub fn link(&self, name: String) {
        self.add(|touched| _ = touched.links.insert(name));
    }

    /// A host route went.
    pub fn route(&self, ip: IpAddr) {
        self.add(|touched| _ = touched.ips.insert(ip));
    }

    /// News was lost.
    pub fn everything(&self) {
        self.add(|touched| touched.everything = true);
    }

    fn add(&self, change: impl FnOnce(&mut Touched)) {
        change(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    /// Waits for news.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What was touched since this was asked last.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
