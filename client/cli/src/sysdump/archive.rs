//! The archive: items as they come, redacted and limited in size, and an index of what is there and what is missing.

use std::collections::BTreeMap;
use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tar::{Builder, Header};

use super::redact::Redactor;

/// Size limit of one item, bytes.
pub(super) const ITEM_BYTES_MAX: usize = 8 << 20;
/// Size limit of all items together, before they are compressed, bytes.
const ALL_BYTES_MAX: usize = 256 << 20;
/// Length limit of a reason, characters.
const REASON_CHARS_MAX: usize = 2_000;
/// Length limit of one part of a path, characters.
const PART_CHARS_MAX: usize = 100;

/// A content, and whether it is not all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}

/// Something that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its path in the archive, below the archive's directory.
    pub(super) path: String,
    /// Where it is from: a URL, a command, a file.
    pub(super) from: String,
    /// What was found, or why it could not be had.
    pub(super) found: Result<Content, String>,
}

impl Item {
    pub(super) fn new(
        path: impl Into<String>,
        from: impl Into<String>,
        found: Result<Content, String>,
    ) -> Self {
        Self { path: path.into(), from: from.into(), found }
    }
}

/// An item in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) from: String,
    /// Size in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<usize>,
    /// Whether the end is missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut: bool,
    /// Number of secrets that were removed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) redacted: usize,
    /// Why it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What an archive has and has not.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Index {
    pub(super) about: BTreeMap<&'static str, String>,
    pub(super) items: Vec<Entry>,
}

impl Index {
    /// The items that could not be had.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Entry> {
        self.items.iter().filter(|entry| entry.missing.is_some())
    }
}

/// An archive that is being made.
pub(super) struct Archive {
    tar: Builder<GzEncoder<Vec<u8>>>,
    dir: String,
    redactor: Redactor,
    entries: Vec<Entry>,
    /// Bytes left of the limit.
    left: usize,
    /// Seconds since 1970, for the files.
    at: u64,
}

impl Archive {
    /// All files are below `dir`.
    pub(super) fn new(dir: &str, redactor: Redactor, at: u64) -> Self {
        let tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let (dir, left) = (part(dir), ALL_BYTES_MAX);
        Self { tar, dir, redactor, entries: Vec::new(), left, at }
    }

    /// Adds an item; what does not fit is missing, and the index says so.
    pub(super) fn add(&mut self, item: Item) -> io::Result<()> {
        let Item { path, from, found } = item;
        let (path, from) = (path_of(&path), self.redactor.line(&from));
        let mut entry = Entry { path, from, bytes: None, cut: false, redacted: 0, missing: None };
        match found {
            Err(why) => entry.missing = Some(self.reason(&why)),
            Ok(Content { mut bytes, mut cut }) => {
                cut |= bytes.len() > ITEM_BYTES_MAX;
                bytes.truncate(ITEM_BYTES_MAX);
                let clean = self.redactor.content(&bytes);
                if clean.bytes.len() > self.left {
                    let why = "left out: the archive has reached its size limit";
                    entry.missing = Some(why.into());
                } else {
                    self.left -= clean.bytes.len();
                    entry.bytes = Some(clean.bytes.len());
                    (entry.cut, entry.redacted) = (cut, clean.removed);
                    self.file(&entry.path, &clean.bytes)?;
                }
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    fn reason(&self, why: &str) -> String {
        self.redactor.line(why).chars().take(REASON_CHARS_MAX).collect()
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.at);
        self.tar.append_data(&mut header, format!("{}/{path}", self.dir), bytes)
    }

    /// Adds the index. Returns the archive's bytes and the index.
    pub(super) fn finish(
        mut self,
        about: BTreeMap<&'static str, String>,
    ) -> io::Result<(Vec<u8>, Index)> {
        let mut items = std::mem::take(&mut self.entries);
        items.sort_by(|one, other| one.path.cmp(&other.path));
        let about = about.into_iter().map(|(name, text)| (name, self.redactor.line(&text)));
        let index = Index { about: about.collect(), items };
        let text = serde_json::to_string_pretty(&index).map_err(io::Error::other)?;
        self.file("index.json", text.as_bytes())?;
        let bytes = self.tar.into_inner()?.finish()?;
        Ok((bytes, index))
    }
}

/// A name as one part of a path: no separators, no `..`.
pub(super) fn part(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().take(PART_CHARS_MAX).map(plain).collect();
    if name.chars().all(|c| c == '.') { format!("_{name}") } else { name }
}

fn path_of(path: &str) -> String {
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn files(bytes: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
        let read = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (path, text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn content(text: &str) -> Result<Content, String> {
        Ok(Content { bytes: text.into(), cut: false })
    }

    #[test]
    fn what_is_there_and_what_is_missing_is_in_the_index() {
        let mut archive = Archive::new("dump-1", Redactor::default(), 7);
        archive
            .add(Item::new("replicas/a/status.json", "GET /status", content("{\"a\":1}")))
            .unwrap();
        let why = Err("no answer, Authorization: Bearer abcdefghijk".to_owned());
        archive.add(Item::new("../x/metrics.txt", "GET http://u:pw@h/", why)).unwrap();
        let long = Content { bytes: vec![b'x'; ITEM_BYTES_MAX + 1], cut: false };
        archive.add(Item::new("log.txt", "journalctl", Ok(long))).unwrap();
        let (bytes, index) = archive.finish(BTreeMap::from([("version", "1".into())])).unwrap();
        let files = files(&bytes);
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["dump-1/index.json", "dump-1/log.txt", "dump-1/replicas/a/status.json"]);
        assert_eq!(files["dump-1/log.txt"].len(), ITEM_BYTES_MAX);
        let text = &files["dump-1/index.json"];
        assert!(!text.contains("abcdefghijk") && !text.contains("u:pw"), "{text}");
        let missing: Vec<&str> = index.missing().map(|entry| &*entry.path).collect();
        assert_eq!(missing, ["_../x/metrics.txt"]);
        let log = index.items.iter().find(|entry| entry.path == "log.txt").unwrap();
        assert!(log.cut);
    }

    #[test]
    fn the_whole_is_limited() {
        let mut archive = Archive::new("d", Redactor::default(), 0);
        archive.left = 10;
        archive.add(Item::new("a", "", content("12345678"))).unwrap();
        archive.add(Item::new("b", "", content("12345678"))).unwrap();
        archive.add(Item::new("c", "", content("12"))).unwrap();
        let (_, index) = archive.finish(BTreeMap::new()).unwrap();
        assert_eq!(index.missing().map(|entry| &*entry.path).collect::<Vec<_>>(), ["b"]);
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in ".{0,60}") {
            let path = path_of(&path);
            prop_assert!(path.split('/').all(|part| part != ".." && part != "."), "{path}");
        }
    }
}
