//! What is attached here, on disk: one file per attachment, written before anything is done about it.
//!
//! ```text
//!   Intended ──► Ready ──► Removing ──► (gone)
//!       └──────────────────────▲
//! ```
//! `Intended` holds the names before they are asked for, so that whatever becomes of the request, and of
//! this program, they can be given back. What is `Intended` when the agent starts was cut short and is
//! removed. `Removing` is the queue of releases: the file goes when the log has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use romana_statemachine::name::{AddressName, SegmentId, TenantId, is_pod};
use romana_statemachine::{Digest, Labels, Millis};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::ours::{LEDGER_DIR, host_link};
use crate::policy::model::Name;
use crate::policy::world::Attached;
use crate::wire::Key;
use romana_daemon::durable::{self, DurableError};

const SUFFIX: &str = "json";
/// Of an entry that was to be written as `Removing`, and the disk was full: to rename needs no room.
const RENAMED: &str = "removing";

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being made.
    Intended,
    /// In use.
    Ready,
    /// Its link is to go, and its addresses are to be given back.
    Removing,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name in the log.
    pub name: AddressName,
    /// The address, once it is known.
    pub ip: Option<IpAddr>,
    /// The log does not know yet that the address has this name: it is from the reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<Lent>,
}

impl Held {
    /// An address that is wanted.
    pub(super) fn new(name: AddressName) -> Self {
        Self { name, ip: None, lent: None }
    }
}

/// An address that was lent while the host was cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Its name in reserve.
    pub name: AddressName,
    /// When it was lent, by this host's clock.
    pub since: Millis,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Name of the network configuration it is of; empty: recovered from kernel and log.
    pub network: String,
    /// Path of the container's namespace, empty if it is not known; `None`: addresses only.
    pub netns: Option<String>,
    /// Its addresses.
    pub addresses: Vec<Held>,
    /// Whose it is; `None`: written by an earlier release.
    #[serde(default)]
    pub owner: Option<(TenantId, SegmentId)>,
    /// Labels of its endpoint.
    #[serde(default)]
    pub labels: Labels,
    /// How far it is.
    pub stage: Stage,
}

impl Entry {
    /// Whether a DEL of a network configuration is about it. That of one that was recovered is not known.
    pub(super) fn is_of(&self, network: &str) -> bool {
        self.network.is_empty() || self.network == network
    }

    /// What the packet filter has to know of it.
    pub(super) fn filtered(&self) -> Vec<(IpAddr, Attached)> {
        if self.stage == Stage::Removing {
            return Vec::new();
        }
        let link = host_link(&self.key.container_id, &self.key.ifname);
        let link: Option<Name> = self.netns.is_some().then(|| link.into());
        // Of an earlier release: its block says whose it is.
        let (tenant, segment) = self.owner.clone().unwrap_or_else(|| ("".into(), "".into()));
        let held = self.addresses.iter().filter_map(|held| Some((held.ip?, held)));
        let of = |(ip, held): (IpAddr, &Held)| {
            // The log knows labels better, unless it has not been told.
            let labels = held.lent.as_ref().map(|_| self.labels.clone()).unwrap_or_default();
            let (link, tenant, segment) = (link.clone(), tenant.clone(), segment.clone());
            let is_pod = is_pod(&held.name, &tenant);
            (ip, Attached { link, tenant, segment, labels, is_pod })
        };
        held.map(of).collect()
    }
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    entries: Mutex<Entries>,
}

/// Entries, found by their keys, links and addresses: what one attachment costs does not grow with the others.
#[derive(Debug, Default)]
struct Entries {
    by_key: BTreeMap<Key, Entry>,
    by_link: BTreeMap<String, BTreeSet<Key>>,
    by_ip: BTreeMap<IpAddr, Key>,
}

impl Entries {
    fn insert(&mut self, entry: Entry) {
        self.remove(&entry.key);
        let link = host_link(&entry.key.container_id, &entry.key.ifname);
        self.by_link.entry(link).or_default().insert(entry.key.clone());
        let ips = entry.addresses.iter().filter_map(|held| held.ip);
        self.by_ip.extend(ips.map(|ip| (ip, entry.key.clone())));
        self.by_key.insert(entry.key.clone(), entry);
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.by_key.remove(key) else { return };
        let link = host_link(&key.container_id, &key.ifname);
        if let Some(keys) = self.by_link.get_mut(&link) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_link.remove(&link);
            }
        }
        for ip in entry.addresses.iter().filter_map(|held| held.ip) {
            // Another attachment may have the address by now.
            if self.by_ip.get(&ip) == Some(key) {
                self.by_ip.remove(&ip);
            }
        }
    }
}

impl Ledger {
    /// Reads what is in a state directory. A damaged file is set aside: what it was about is found in
    /// the kernel and in the log.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let dir = state_dir.join(LEDGER_DIR);
        let io = DurableError::io;
        fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        let mut entries = Entries::default();
        for file in fs::read_dir(&dir).map_err(io("list", &dir))? {
            let path = file.map_err(io("list", &dir))?.path();
            let is_renamed = path.extension().is_some_and(|extension| extension == RENAMED);
            if is_renamed && path.with_extension(SUFFIX).exists() {
                // It was attached anew after that.
                continue;
            }
            if !is_renamed && path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            match durable::load::<Entry>(&path) {
                Ok(entry) => entry.into_iter().for_each(|entry| {
                    let stage = if is_renamed { Stage::Removing } else { entry.stage };
                    entries.insert(Entry { stage, ..entry });
                }),
                Err(error @ DurableError::Damaged { .. }) => {
                    let aside = durable::set_aside(&path);
                    tracing::error!(%error, aside = %aside.display(), "an attachment is not known");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { dir, entries: Mutex::new(entries) })
    }

    /// Writes an entry, durably, in place of what there was.
    ///
    /// # Errors
    /// [`DurableError::Io`]: it may be on the disk or not; in memory it is not.
    pub fn put(&self, entry: Entry) -> Result<(), DurableError> {
        durable::save(&self.path(&entry.key), &entry)?;
        // An older attachment of the key may have left on a full disk.
        let renamed = self.path(&entry.key).with_extension(RENAMED);
        if renamed.exists() {
            durable::remove(&renamed)?;
        }
        self.entries().insert(entry);
        Ok(())
    }

    /// Takes in that an entry is being removed without writing it, as the disk takes nothing: its file gets another
    /// name.
    ///
    /// # Errors
    /// [`DurableError::Io`]: in memory it is so, and not on the disk.
    pub fn rename(&self, entry: Entry) -> Result<(), DurableError> {
        let path = self.path(&entry.key);
        self.entries().insert(Entry { stage: Stage::Removing, ..entry });
        fs::rename(&path, path.with_extension(RENAMED)).map_err(DurableError::io("rename", &path))
    }

    /// Forgets an entry, durably.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn remove(&self, key: &Key) -> Result<(), DurableError> {
        let path = self.path(key);
        let renamed = path.with_extension(RENAMED);
        if renamed.exists() {
            durable::remove(&renamed)?;
        }
        durable::remove(&path)?;
        self.entries().remove(key);
        Ok(())
    }

    /// An entry.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.entries().by_key.get(key).cloned()
    }

    /// Whether another attachment's link has the name that this one's would have: it is a digest, and
    /// short.
    #[must_use]
    pub fn has_link_of(&self, key: &Key) -> bool {
        let link = host_link(&key.container_id, &key.ifname);
        self.entries().by_link.get(&link).is_some_and(|keys| keys.iter().any(|other| other != key))
    }

    /// All entries.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.select(|_| true)
    }

    /// Entries that are so.
    pub fn select(&self, is_so: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.entries().by_key.values().filter(|entry| is_so(entry)).cloned().collect()
    }

    /// Keys of entries with one of these links or addresses.
    #[must_use]
    pub fn concerned(&self, links: &BTreeSet<String>, ips: &BTreeSet<IpAddr>) -> BTreeSet<Key> {
        let entries = self.entries();
        let by_link = links.iter().filter_map(|link| entries.by_link.get(link)).flatten();
        let by_ip = ips.iter().filter_map(|ip| entries.by_ip.get(ip));
        by_link.chain(by_ip).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys may be longer than file names.
    fn path(&self, key: &Key) -> PathBuf {
        let name = Digest::of(format!("{}/{}", key.container_id, key.ifname).as_bytes());
        let name: String = name.to_string().chars().take(32).collect();
        self.dir.join(name).with_extension(SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_same_name_are_told_apart() {
        // 32 bits: two among some ten thousand share a name.
        let key = |n: u32| Key { container_id: format!("c{n}"), ifname: "eth0".into() };
        let mut seen = std::collections::HashMap::new();
        let (one, two) = (0u32..)
            .find_map(|n| {
                let link = host_link(&key(n).container_id, "eth0");
                seen.insert(link, n).map(|before| (before, n))
            })
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let (stage, network) = (Stage::Ready, "net".to_owned());
        let entry = Entry {
            key: key(one),
            network,
            netns: None,
            addresses: vec![],
            owner: None,
            labels: Labels::new(),
            stage,
        };
        ledger.put(entry).unwrap();
        assert!(ledger.has_link_of(&key(two)));
        assert!(!ledger.has_link_of(&key(one)) && !ledger.has_link_of(&key(two + 1)));
        let link = [host_link(&key(one).container_id, "eth0")].into();
        assert_eq!(ledger.concerned(&link, &BTreeSet::new()), [key(one)].into());
        ledger.remove(&key(one)).unwrap();
        assert!(!ledger.has_link_of(&key(two)));
        assert!(ledger.concerned(&link, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn entries_outlive_the_program_and_damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let key = |n: u8| Key { container_id: format!("c{n}"), ifname: "eth0".into() };
        let entry = |n: u8| Entry {
            key: key(n),
            network: "net".into(),
            netns: None,
            addresses: vec![Held::new("a".into())],
            owner: None,
            labels: Labels::new(),
            stage: Stage::Intended,
        };
        let ledger = Ledger::open(dir.path()).unwrap();
        for n in 0..3 {
            ledger.put(entry(n)).unwrap();
        }
        ledger.put(Entry { stage: Stage::Ready, ..entry(1) }).unwrap();
        ledger.remove(&key(2)).unwrap();
        fs::write(ledger.path(&key(0)), "nonsense").unwrap();
        let again = Ledger::open(dir.path()).unwrap();
        assert_eq!(again.all(), [Entry { stage: Stage::Ready, ..entry(1) }]);
        // What leaves on a full disk has left, also after a restart; what is attached anew has not.
        again.rename(entry(1)).unwrap();
        let again = Ledger::open(dir.path()).unwrap();
        assert_eq!(again.all(), [Entry { stage: Stage::Removing, ..entry(1) }]);
        again.put(Entry { stage: Stage::Ready, ..entry(1) }).unwrap();
        let again = Ledger::open(dir.path()).unwrap();
        assert_eq!(again.get(&key(1)).map(|entry| entry.stage), Some(Stage::Ready));
        assert!(ledger.path(&key(0)).with_extension("damaged").exists());
    }
}
