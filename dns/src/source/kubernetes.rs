//! Follows the API server, and keeps a copy of what it said on disk: a start without the API server answers as before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use romana_apiserver::{Access, Pauses, Trouble};
use romana_daemon::durable::{self, DurableError};
use romana_daemon::problems::Problems;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Status;
use super::session::{News, Session};
use crate::catalogue::Catalogue;
use crate::inventory::Inventory;
use crate::zone::Services;

/// Part under which problems are reported.
const PART: &str = "kubernetes";
/// Maximum age of unsaved changes.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// Time for one session to open: credentials and versions.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Follows an API server.
#[derive(Debug)]
pub struct Source {
    access: Access,
    file: PathBuf,
    catalogue: Catalogue,
    services: watch::Sender<Option<Services>>,
    status: Arc<Status>,
    problems: Problems,
    /// Since when the copy is outdated.
    unsaved: Option<Instant>,
}

impl Source {
    /// Loads the copy of the last run. A damaged one is set aside: the API server has the truth.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn open(
        access: Access,
        file: &Path,
        status: Arc<Status>,
        problems: Problems,
    ) -> Result<Self, DurableError> {
        let copy = match durable::load::<Inventory>(file) {
            Ok(copy) => copy,
            Err(error @ DurableError::Damaged { .. }) => {
                let aside = durable::set_aside(file);
                tracing::error!(%error, aside = %aside.display(), "cannot read the saved Services: starting from the API server");
                None
            }
            Err(error) => return Err(error),
        };
        let known = copy.is_some();
        let catalogue = Catalogue::new(copy.unwrap_or_default());
        let services = watch::Sender::new(known.then(|| catalogue.services().clone()));
        let file = file.to_owned();
        Ok(Self { access, file, catalogue, services, status, problems, unsaved: None })
    }

    /// The Services; `None` before any are known.
    #[must_use]
    pub fn services(&self) -> watch::Receiver<Option<Services>> {
        self.services.subscribe()
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pauses = Pauses::default();
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let Some(why) = self.session(&stop).await else { break };
            self.status.failed();
            self.problems.report(PART, vec![why.what]);
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pauses.after(begun.elapsed())) => {}
            }
        }
        if self.unsaved.is_some() {
            self.save().await;
        }
    }

    /// A session; returns why it ended, or `None` at the stop.
    async fn session(&mut self, stop: &CancellationToken) -> Option<Trouble> {
        let opened = tokio::select! {
            () = stop.cancelled() => return None,
            opened = tokio::time::timeout(OPEN_TIMEOUT, Session::open(&self.access)) => opened,
        };
        let mut session = match opened {
            Ok(Ok(session)) => session,
            Ok(Err(why)) => return Some(why),
            Err(_) => return Some(Trouble::silent("cannot begin to follow the API server")),
        };
        let status = Arc::clone(&self.status);
        loop {
            let save = self.unsaved.map(|since| since + SAVE_EVERY);
            tokio::select! {
                () = stop.cancelled() => return None,
                () = until(save) => self.save().await,
                news = session.news(&status) => match news {
                    Ok(news) => self.take(news),
                    Err(why) => return Some(why),
                },
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::All(all) => {
                let first = self.services.borrow().is_none();
                self.catalogue.replace(all.inventory().clone());
                self.status.listed();
                self.problems.report(PART, Vec::new());
                if first {
                    tracing::info!(services = self.catalogue.services().count(), "Services listed");
                }
            }
            News::Changes(changes) => {
                changes.into_iter().for_each(|change| self.catalogue.apply(change));
            }
        }
        self.unsaved = self.unsaved.or_else(|| Some(Instant::now()));
        self.services.send_replace(Some(self.catalogue.services().clone()));
    }

    async fn save(&mut self) {
        self.unsaved = None;
        let (inventory, file) = (self.catalogue.inventory().clone(), self.file.clone());
        let saved = spawn_blocking(move || durable::save(&file, &inventory)).await;
        let problem = match saved {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(romana_daemon::error::chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        let problem = problem.map(|why| {
            format!("a restart without the API server would answer from older Services: {why}")
        });
        self.problems.set(PART, "CopyNotSaved", problem);
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
