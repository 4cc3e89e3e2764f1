//! Lines of the feed: records, bookmarks, and records with events of a later version.

use std::fmt;

use romana_api::feed::Bookmark;
use romana_statemachine::{Actor, Digest, Index, Millis, Printable, Record, Revision, Topic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ApiError;

/// A line.
#[derive(Debug)]
pub(super) enum Line {
    /// A record, and the first member of its event that this program does not know.
    Record(Box<Record>, Option<String>),
    Unknown(Box<Unknown>),
    Bookmark(Revision),
}

/// A record whose event this program does not know, or knows in another form: the cluster is newer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unknown {
    pub revision: Revision,
    /// Raft index of the log entry.
    pub index: Index,
    /// Log time of the entry.
    pub at: Millis,
    pub actor: Actor,
    /// The event, unparsed.
    pub event: Value,
    /// Digest of the chain up to this record, which cannot be verified.
    pub digest: Digest,
    /// The version that introduced the event; `None`: not given by the replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u16>,
    /// The event's topic, if given by the replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whether it may be skipped: it does not affect routes, policies or attachments.
    #[serde(default)]
    pub optional: bool,
}

impl Unknown {
    /// The event's name; empty if it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.event {
            Value::String(name) => name,
            Value::Object(members) => members.keys().next().map_or("", String::as_str),
            _ => "",
        }
    }

    /// Whether it belongs to one of these topics. An event without a topic may belong to any.
    pub(super) fn concerns(&self, topics: &[Topic]) -> bool {
        let known = self.topic.as_deref().and_then(Topic::from_name);
        !topics.is_empty() && known.is_none_or(|topic| topics.contains(&topic))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Printable(self.name());
        write!(
            f,
            "revision {} is of an event that this program does not know: {name}",
            self.revision
        )?;
        match self.since {
            Some(since) => write!(f, " (since version {since} of the log)"),
            None => Ok(()),
        }
    }
}

/// Why a feed ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The connection ended: replicas stop, and disconnect slow readers.
    Ended(String),
    /// The input is not a feed, so a retry is unlikely to help.
    Nonsense(String),
}

impl Over {
    pub(super) fn why(self) -> String {
        match self {
            Self::Ended(why) | Self::Nonsense(why) => why,
        }
    }
}

/// Parses a line.
///
/// # Errors
/// Why it is invalid, including an error line that ends the feed.
pub(super) fn parse_line(line: &[u8]) -> Result<Line, Over> {
    if line.starts_with(b"{\"bookmark\"") {
        let bookmark: Bookmark = serde_json::from_slice(line).map_err(|_| nonsense(line))?;
        return Ok(Line::Bookmark(bookmark.bookmark.revision));
    }
    if let Some(error) = ApiError::from_body(200, line) {
        return Err(Over::Ended(error.message));
    }
    match parse_record(line) {
        Ok((record, unknown)) => Ok(Line::Record(Box::new(record), unknown)),
        Err(_) => match serde_json::from_slice(line) {
            Ok(unknown) => Ok(Line::Unknown(Box::new(unknown))),
            Err(_) => Err(nonsense(line)),
        },
    }
}

/// Parses a record. Also returns the first member of its event that this program does not know: the record's digest
/// covers it, so it cannot be verified here.
///
/// # Errors
/// It is not a record, or its event is unknown.
pub(crate) fn parse_record(line: &[u8]) -> Result<(Record, Option<String>), serde_json::Error> {
    let mut unknown = None;
    let mut json = serde_json::Deserializer::from_slice(line);
    let record = serde_ignored::deserialize(&mut json, |path| {
        // Names of variants are shown as "?".
        let path = path.to_string().replace("?.", "");
        if unknown.is_none() && path.starts_with("event.") {
            unknown = Some(path);
        }
    })?;
    json.end()?;
    Ok((record, unknown))
}

/// The error for input that is not a record, with an excerpt.
fn nonsense(line: &[u8]) -> Over {
    const SHOWN_BYTES: usize = 60;
    let start = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
    let more = if line.len() > SHOWN_BYTES { "…" } else { "" };
    Over::Nonsense(format!("a line of the feed is no record: {}{more}", Printable(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: &str, more: &str) -> String {
        let digest = Digest::default();
        format!(
            r#"{{"revision":7,"index":9,"at":5,"actor":"op","event":{event},"digest":"{digest}"{more}}}"#
        )
    }

    fn read(line: &str) -> String {
        match parse_line(line.as_bytes()) {
            Ok(Line::Record(record, None)) => format!("record {}", record.event),
            Ok(Line::Record(record, Some(member))) => format!("{} without {member}", record.event),
            Ok(Line::Unknown(unknown)) => {
                let topics = [Topic::Hosts];
                let stops = !unknown.optional && unknown.concerns(&topics);
                format!("{unknown}{}", if stops { ": stops" } else { "" })
            }
            Ok(Line::Bookmark(revision)) => format!("bookmark {revision}"),
            Err(_) => "nothing".into(),
        }
    }

    #[test]
    fn lines_of_a_newer_cluster_are_read_as_far_as_they_are_known() {
        let known = r#"{"HostUp":{"name":"h"}}"#;
        let new = r#"{"Teleported":{"to":"h2"}}"#;
        let said = |more: &str| read(&record(new, more));
        let unknown = "revision 7 is of an event that this program does not know: Teleported";
        let since = format!("{unknown} (since version 9 of the log)");
        let whole = read(&record(known, ""));
        assert!(whole.starts_with("record "), "{whole}");
        assert_eq!(read(&record(known, r#","since":9,"topic":"hosts","else":1"#)), whole);
        assert_eq!(said(r#","since":9,"topic":"hosts","optional":true"#), since);
        assert_eq!(said(r#","since":9,"topic":"vips""#), since);
        assert_eq!(said(r#","since":9,"topic":"hosts""#), format!("{since}: stops"));
        assert_eq!(said(r#","since":9,"topic":"portals""#), format!("{since}: stops"));
        assert_eq!(said(""), format!("{unknown}: stops"));
        let more = read(&record(r#"{"HostUp":{"name":"h","new":{"er":1}}}"#, r#","since":9"#));
        assert_eq!(whole, format!("record {}", more.strip_suffix(" without event.new").unwrap()));
        let changed = r#"{"HostUp":{"host":"h"}}"#;
        assert!(read(&record(changed, "")).ends_with("HostUp: stops"));
        assert!(read(&record(r#""Vanished""#, "")).ends_with("Vanished: stops"));
        let rude = read(&record(r#"{"\u001b[2J":{}}"#, ""));
        assert!(rude.ends_with("\\u{1b}[2J: stops"), "{rude}");
        assert_eq!(read(r#"{"bookmark":{"revision":3}}"#), "bookmark 3");
        for none in ["", "{}", "[]", "null", r#"{"error":{"code":"x"}}"#, r#"{"bookmark":{}}"#] {
            assert_eq!(read(none), "nothing", "{none}");
        }
    }

    #[test]
    fn an_end_is_told_from_nonsense() {
        let over = |line: &str| parse_line(line.as_bytes()).unwrap_err();
        let ended = over(r#"{"error":{"code":"SlowFollower","message":"too slow"}}"#);
        assert_eq!(ended, Over::Ended("too slow".into()));
        let page = over("<html>\u{1b}[2J");
        let said = "a line of the feed is no record: <html>\\u{1b}[2J";
        assert_eq!(page, Over::Nonsense(said.into()));
        assert!(over(&"x".repeat(1000)).why().ends_with("xxx…"));
    }
}
