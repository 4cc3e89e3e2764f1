//! # The watch
//!
//! Follows the API server: all objects of the kinds that matter, then their changes.
//!
//! ```text
//!   Listener ─► Session: credentials ─► API discovery ─► list and watch of each kind ─┬─► Inbox ─► News
//!                                                                                    └─► Segments (of pods)
//! ```
//! A [`session::Session`] ends at its first error: an expired resource version, a lost connection, a failed health
//! check. The listener then starts another one, which reads the credentials again, discovers again and lists everything
//! again; its objects replace all earlier ones as soon as every kind has been listed completely. So there is one code
//! path for start, restart, leader change and outage, and no moment with an incomplete set of objects. At intervals the
//! same happens while the previous session continues, which repairs whatever a watch has missed.

mod inbox;
mod object;
mod segments;
mod session;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use romana_apiserver::{Access, Pauses, Trouble};
use tokio::time::{Instant, sleep_until};

pub use object::{Change, Key, Kind, Object, apply, count};
pub use segments::Segments;
use session::Session;
pub use status::Status;

/// Interval between complete lists.
const RELIST_EVERY: Duration = Duration::from_secs(600);

/// What a listener has to say.
#[derive(Debug)]
pub enum News {
    /// All objects of all kinds: they replace everything before.
    All(Vec<Object>),
    /// Changes since the previous news, at most one per object.
    Changes(Vec<Change>),
    /// The API server cannot be followed now; what is known stays true. Repeated with each failure.
    Trouble(Trouble),
}

/// Follows an API server.
#[derive(Debug)]
pub struct Listener {
    access: Access,
    status: Arc<Status>,
    segments: Arc<Segments>,
    /// The session whose objects were handed out last, while it works.
    current: Option<Session>,
    /// A session that is still listing.
    next: Option<Session>,
    /// When to start the next session.
    start_at: Instant,
    pauses: Pauses,
}

impl Listener {
    /// A listener that has not connected yet.
    #[must_use]
    pub fn new(access: Access, status: Arc<Status>, segments: Arc<Segments>) -> Self {
        let (current, next, start_at) = (None, None, Instant::now());
        Self { access, status, segments, current, next, start_at, pauses: Pauses::default() }
    }

    /// Waits for news. Nothing is lost if the future is dropped.
    pub async fn news(&mut self) -> News {
        loop {
            if self.next.is_none() && Instant::now() >= self.start_at {
                let (status, segments) = (Arc::clone(&self.status), Arc::clone(&self.segments));
                self.next = Some(Session::start(self.access.clone(), status, segments));
            }
            let waiting = self.next.is_none();
            tokio::select! {
                changes = of(self.current.as_ref(), Session::changes) => match changes {
                    Ok(changes) => return News::Changes(changes),
                    Err(trouble) => {
                        let lasted = self.current.take().map_or(Duration::ZERO, |ended| ended.age());
                        return self.failed(trouble, lasted);
                    }
                },
                all = of(self.next.as_ref(), Session::all) => match all {
                    Ok(all) => {
                        self.current = self.next.take();
                        self.start_at = Instant::now() + RELIST_EVERY;
                        self.status.followed();
                        return News::All(all);
                    }
                    Err(trouble) => {
                        self.next = None;
                        return self.failed(trouble, Duration::ZERO);
                    }
                },
                () = sleep_until(self.start_at), if waiting => {}
            }
        }
    }

    /// Asks for another complete list after this time at the latest.
    pub fn list_after(&mut self, pause: Duration) {
        self.start_at = self.start_at.min(Instant::now() + pause);
    }

    /// Schedules another session.
    fn failed(&mut self, trouble: Trouble, lasted: Duration) -> News {
        self.start_at = Instant::now() + self.pauses.after(lasted);
        self.status.failed();
        News::Trouble(trouble)
    }
}

/// Asks a session, if there is one; else never completes.
async fn of<'a, T, F: Future<Output = T>>(
    session: Option<&'a Session>,
    ask: impl FnOnce(&'a Session) -> F,
) -> T {
    match session {
        Some(session) => ask(session).await,
        None => std::future::pending().await,
    }
}
