//! The body of a request: read within its limits of size, time and budget, and parsed.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::strict::Strict;
use crate::budget::{self, Budgets, Permits};
use crate::error::{Code, Failure};

/// Limits for draining a refused body before the answer: bytes …
const DRAIN_BYTES_MAX: usize = 32 << 20;
/// … and time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a body to arrive: this, plus a second per so many bytes …
const BODY_GRACE: Duration = Duration::from_secs(5);
const BODY_BYTES_PER_SEC: u32 = 1 << 20;
/// … and at most this long without receiving a byte.
const BODY_STALL: Duration = Duration::from_secs(5);

/// Parsing a larger body takes longer than other requests should wait.
const LARGE_BYTES: usize = 256 << 10;

/// Bytes read of a body where none is expected.
pub(crate) const NOTHING_BYTES_MAX: usize = 64;

/// Parses JSON; an error names the path of the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.len() > LARGE_BYTES { budget::apart(|| read(body)) } else { read(body) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    if let Ok(value) = T::deserialize(Strict(&mut deserializer))
        && deserializer.end().is_ok()
    {
        return Ok(value);
    }
    // Parse again to find the path: too expensive for the normal case.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, T>(Strict(&mut deserializer)) {
        Err(error) => error,
        Ok(value) => match deserializer.end() {
            Ok(()) => return Ok(value),
            Err(error) => return Err(malformed(".", &error)),
        },
    };
    let field = error.path().to_string();
    Err(malformed(&field, error.inner()))
}

fn malformed(field: &str, error: &serde_json::Error) -> Failure {
    let at =
        if field == "." { Cow::Borrowed("the body") } else { Cow::Owned(format!("field {field}")) };
    Failure::new(Code::MalformedBody, format!("{at} is not valid: {error}"))
        .with("field", field)
        .with("line", error.line())
        .with("column", error.column())
}

/// Where no body is expected, an empty object is allowed for clients that always send one.
pub(crate) fn nothing(body: &Bytes) -> Result<Bytes, Failure> {
    match body.trim_ascii() {
        b"" | b"{}" => Ok(Bytes::new()),
        _ => Err(too_large(0)),
    }
}

fn too_large(max: usize) -> Failure {
    Failure::new(Code::BodyTooLarge, format!("the body is larger than {max} bytes"))
        .with("max_bytes", max)
}

/// Drains the rest of a refused body, within limits.
pub(crate) async fn drain<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) {
    _ = tokio::time::timeout(DRAIN_TIMEOUT, read_on(body)).await;
}

async fn read_on<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// Deadline for the arrival of a body of this size that started at `start`.
fn body_deadline(start: Instant, bytes: u64) -> Instant {
    let seconds = u32::try_from(bytes / u64::from(BODY_BYTES_PER_SEC)).unwrap_or(u32::MAX);
    start + BODY_GRACE + Duration::from_secs(1) * seconds
}

/// Reads a body of at most `max` bytes until the deadline, or earlier if it arrives too slowly; returns it with
/// its share of the budget.
pub(crate) async fn collect<B>(
    body: &mut B,
    max: usize,
    deadline: Instant,
    budgets: &Budgets,
) -> Result<(Bytes, Permits), Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let start = Instant::now();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut held = Permits::none();
    loop {
        let length = first.len() + whole.len();
        let size = body.size_hint().lower().saturating_add(length as u64);
        let until = deadline.min(body_deadline(start, size)).min(Instant::now() + BODY_STALL);
        let frame = tokio::time::timeout_at(until, body.frame()).await;
        let frame = frame.map_err(|_| {
            Failure::new(Code::RequestTimeout, "the body did not arrive before the deadline")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Failure::new(Code::MalformedBody, "the body ended early or is not well framed")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if length + data.len() > max {
            return Err(too_large(max));
        }
        held.add(budgets.body((length, length + data.len()), deadline).await?);
        // Nearly all bodies are a single frame: do not copy it.
        if length == 0 {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok((if whole.is_empty() { first } else { whole.freeze() }, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_body_has_more_time() {
        let start = Instant::now();
        let small = body_deadline(start, 100);
        assert_eq!(small, start + BODY_GRACE);
        assert_eq!(body_deadline(start, 16 << 20), small + Duration::from_secs(16));
    }
}
