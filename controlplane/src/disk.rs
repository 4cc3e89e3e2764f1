//! Room on the disk, and what a replica without it says.
//!
//! A replica whose disk is nearly full leaves before the disk is full: it hands leadership over, stops
//! as on SIGTERM, and answers every request `DiskFull` until there is room again; then it starts anew,
//! in the same process. A disk that is full all of a sudden takes the same road. Nothing that was
//! acknowledged is lost: what was acknowledged is on the disk.
//!
//! ```text
//!   server::run: wait_for_room ─► replica serves … until below the reserve, or a write fails ─┐
//!                     ▲  answers DiskFull                                                      │
//!                     └────────────────────────────────────────────────────────────────────────┘
//! ```

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use romana_daemon::error::any_cause;
use romana_statemachine::time::Size;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{Code, Failure};

/// How often free space is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk that refused a write is believed to have room again not before this much is free.
const ROOM_MIN: u64 = 96 << 20;
/// And not before this time, if it says that it has: there may be a quota.
const FULL_PAUSE: Duration = Duration::from_secs(5);

/// Whether an error comes from a disk (or a quota) that is full.
#[must_use]
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    any_cause(error, &|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
    })
}

/// Bytes free for us on the disk of `dir`, or of what it will be made in. Blocks, shortly.
///
/// # Errors
/// The system does not say.
pub fn free(dir: &Path) -> io::Result<u64> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or_else(|| Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let stat = rustix::fs::statvfs(there)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The room that a replica wants.
#[derive(Clone, Debug)]
pub struct Room {
    dir: PathBuf,
    reserve: u64,
    /// Why the last replica ended, and that it did.
    ran_out: Option<String>,
}

/// Too little room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Where.
    pub dir: PathBuf,
    /// Bytes free.
    pub free: u64,
    /// Bytes wanted.
    pub needed: u64,
    /// What failed, if something did.
    pub why: Option<String>,
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dir, free, needed, why } = self;
        let dir = dir.display();
        let (free, needed) = (Size(*free), Size(*needed));
        write!(f, "the disk of {dir} has {free} free, {needed} are needed")?;
        why.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
    }
}

impl Room {
    /// Room for the data in `dir`: `reserve` bytes are kept free; 0: as long as writing goes well.
    #[must_use]
    pub fn new(dir: PathBuf, reserve: u64) -> Self {
        Self { dir, reserve, ran_out: None }
    }

    /// Notes that the replica ended for want of room: to begin again it wants a quarter more, so
    /// that it does not come and go.
    pub fn ran_out(&mut self, why: String) {
        self.ran_out = Some(why);
    }

    /// Bytes that must be free to begin.
    fn needed(&self) -> u64 {
        match self.ran_out {
            Some(_) if self.reserve == 0 => ROOM_MIN,
            Some(_) => self.reserve.saturating_add(self.reserve / 4),
            None => self.reserve,
        }
    }

    /// What is missing to begin. A disk that does not say is taken at its word when it is written to.
    #[must_use]
    pub fn short(&self) -> Option<Short> {
        self.compare(self.needed())
    }

    fn compare(&self, needed: u64) -> Option<Short> {
        let free = free(&self.dir).ok().filter(|free| *free < needed)?;
        Some(Short { dir: self.dir.clone(), free, needed, why: self.ran_out.clone() })
    }

    /// Returns when less than the reserve is free.
    pub async fn low(&self) -> Short {
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let room = Self { ran_out: None, ..self.clone() };
            let look = tokio::task::spawn_blocking(move || room.compare(room.reserve));
            if let Ok(Some(short)) = look.await {
                return short;
            }
        }
    }

    /// Returns when there is room, or with `false` at `stop`. Until then everybody who asks is told
    /// why there is no replica.
    pub async fn wait(&mut self, listener: &TcpListener, stop: &CancellationToken) -> bool {
        let pause = if self.ran_out.is_some() { FULL_PAUSE } else { Duration::ZERO };
        let over = tokio::time::Instant::now() + pause;
        let Some(mut short) =
            self.short().or_else(|| self.compare(u64::MAX).filter(|_| !pause.is_zero()))
        else {
            return true;
        };
        short.needed = self.needed();
        warn!(%short, "waiting for room on the disk");
        let done = CancellationToken::new();
        let router = Router::new().fallback(answer).with_state(Arc::new((short, self.clone())));
        let serving = match listener.try_clone().and_then(tokio::net::TcpListener::from_std) {
            Ok(listener) => {
                let serving = crate::server::serve_plainly(listener, router, done.clone());
                Some(tokio::spawn(serving))
            }
            Err(error) => {
                warn!(%error, "cannot answer meanwhile");
                None
            }
        };
        let mut clock = interval(LOOK_EVERY);
        let room = loop {
            tokio::select! {
                () = stop.cancelled() => break false,
                _ = clock.tick() => {}
            }
            if tokio::time::Instant::now() >= over && self.short().is_none() {
                info!("there is room on the disk again");
                break true;
            }
        };
        done.cancel();
        if let Some(serving) = serving {
            // It ends at once and has nothing to say.
            _ = serving.await;
        }
        self.ran_out = None;
        room
    }
}

/// What everybody is told meanwhile.
async fn answer(State(state): State<Arc<(Short, Room)>>, request: Request<Body>) -> Response<Body> {
    let (short, room) = &*state;
    let free = free(&room.dir).unwrap_or(short.free);
    let short = Short { free, ..short.clone() };
    match request.uri().path() {
        // Starting it again would not help.
        "/healthz" => {
            let body =
                json!({"status": "waiting for room on the disk", "message": short.to_string()});
            let mut response = Response::new(Body::from(body.to_string()));
            let kind = axum::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
            response
        }
        "/metrics" => Response::new(Body::from(format!(
            "# TYPE romanad_disk_free_bytes gauge\nromanad_disk_free_bytes {}\n\
             # TYPE romanad_disk_full gauge\nromanad_disk_full 1\n# EOF\n",
            short.free
        ))),
        _ => Failure::new(Code::DiskFull, short.to_string())
            .with("directory", short.dir.display().to_string())
            .with("free_bytes", short.free)
            .with("needed_bytes", short.needed)
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_found_below_other_errors() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert!(is_full(&full()));
        assert!(is_full(&io::Error::other(io::Error::other(full()))));
        let wal = crate::wal::WalError::Io { action: "write", path: "x".into(), source: full() };
        let stopped = crate::wal::WalError::Stopped(Arc::new(wal));
        assert!(is_full(&stopped) && is_full(&io::Error::other(stopped)));
        assert!(!is_full(&io::Error::from(io::ErrorKind::NotFound)));
    }

    #[test]
    fn what_ran_out_wants_more_to_begin_again() {
        let mut room = Room::new(PathBuf::from("/nowhere/at/all"), 1 << 30);
        assert_eq!(room.needed(), 1 << 30);
        room.ran_out("a write failed".into());
        assert_eq!(room.needed(), 5 << 28);
        let mut none = Room::new(PathBuf::from("/"), 0);
        assert!(none.short().is_none());
        none.ran_out("a write failed".into());
        assert!(none.needed() > 0);
        let short = Room::new(PathBuf::from("/nowhere"), u64::MAX).short().unwrap();
        assert_eq!((short.needed, short.why), (u64::MAX, None));
    }
}
