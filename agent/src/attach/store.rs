//! The durable record of attachments: one file per attachment, written before each step.
//!
//! ```text
//!   Intended ──► Ready ──► Removing ──► (gone)
//!       └──────────────────────▲
//! ```
//! An `Intended` entry holds the address names before they are requested, so that they can be released
//! whatever happens to the request or to this program. Entries that are `Intended` at start-up belong to
//! interrupted ADDs and are removed. `Removing` entries form the queue of releases: a file is deleted once
//! the control plane has released its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use romana_statemachine::name::{AddressName, SegmentId, TenantId, is_pod};
use romana_statemachine::{Digest, Labels, Millis};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::ipc::Key;
use crate::ownership::{ATTACHMENTS_DIR, host_link};
use crate::policy::inputs::Attached;
use crate::policy::model::Name;
use romana_daemon::durable::{self, DurableError};

const SUFFIX: &str = "json";
/// Suffix of an entry that became `Removing` while the disk was full: renaming needs no disk space.
const RENAMED: &str = "removing";

/// Stage of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// An ADD is in progress.
    Intended,
    Ready,
    /// The link is to be deleted, and the addresses are to be released.
    Removing,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentAddress {
    /// Name of the allocation.
    pub name: AddressName,
    /// `None` until the address is allocated.
    pub ip: Option<IpAddr>,
    /// Set while the control plane does not know that a borrowed address has this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<BorrowedAddress>,
}

impl AttachmentAddress {
    /// A requested address.
    pub(super) fn new(name: AddressName) -> Self {
        Self { name, ip: None, lent: None }
    }
}

/// An address borrowed from the reserve while the control plane was unreachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BorrowedAddress {
    /// Name of the reservation.
    pub name: AddressName,
    /// When it was borrowed, by this host's clock.
    pub since: Millis,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Key,
    /// Name of the network configuration; empty: unknown, as the entry was
    /// recovered from the kernel and the log.
    pub network: String,
    /// Path of the container's network namespace, empty if unknown; `None`: addresses only (IPAM).
    pub netns: Option<String>,
    pub addresses: Vec<AttachmentAddress>,
    /// Tenant and segment; `None`: written by an earlier release.
    #[serde(default)]
    pub owner: Option<(TenantId, SegmentId)>,
    /// Labels of the endpoint.
    #[serde(default)]
    pub labels: Labels,
    pub stage: Stage,
}

impl Entry {
    /// Whether a DEL of a network configuration applies to this entry. For a recovered entry the
    /// configuration is unknown, and every DEL applies.
    pub(super) fn is_of(&self, network: &str) -> bool {
        self.network.is_empty() || self.network == network
    }

    /// What policy enforcement needs to know about the attachment.
    pub(super) fn filtered(&self) -> Vec<(IpAddr, Attached)> {
        if self.stage == Stage::Removing {
            return Vec::new();
        }
        let link = host_link(&self.key.container_id, &self.key.ifname);
        let link: Option<Name> = self.netns.is_some().then(|| link.into());
        // Written by an earlier release: the block gives tenant and segment.
        let (tenant, segment) = self.owner.clone().unwrap_or_else(|| ("".into(), "".into()));
        let held = self.addresses.iter().filter_map(|held| Some((held.ip?, held)));
        let of = |(ip, held): (IpAddr, &AttachmentAddress)| {
            // The log has the current labels, except those of a borrowed address.
            let labels = held.lent.as_ref().map(|_| self.labels.clone()).unwrap_or_default();
            let (link, tenant, segment) = (link.clone(), tenant.clone(), segment.clone());
            let is_pod = is_pod(&held.name, &tenant);
            (ip, Attached { link, tenant, segment, labels, is_pod })
        };
        held.map(of).collect()
    }
}

/// The durable record of attachments.
#[derive(Debug)]
pub struct AttachmentStore {
    dir: PathBuf,
    entries: Mutex<Entries>,
}

/// Entries, indexed by key, link and address: a lookup does not scan all attachments.
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
            // Another attachment may have taken over the address.
            if self.by_ip.get(&ip) == Some(key) {
                self.by_ip.remove(&ip);
            }
        }
    }
}

impl AttachmentStore {
    /// Reads the entries of a state directory. A damaged file is set aside: its attachment is
    /// recovered from the kernel and the log.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let dir = state_dir.join(ATTACHMENTS_DIR);
        let io = DurableError::io;
        fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        let mut entries = Entries::default();
        for file in fs::read_dir(&dir).map_err(io("list", &dir))? {
            let path = file.map_err(io("list", &dir))?.path();
            let is_renamed = path.extension().is_some_and(|extension| extension == RENAMED);
            if is_renamed && path.with_extension(SUFFIX).exists() {
                // The key was attached again after the rename.
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
                    tracing::error!(
                        %error,
                        aside = %aside.display(),
                        "reading an attachment failed: damaged file set aside"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { dir, entries: Mutex::new(entries) })
    }

    /// Durably inserts or replaces an entry.
    ///
    /// # Errors
    /// [`DurableError::Io`]: the entry may or may not be on disk; memory is unchanged.
    pub fn put(&self, entry: Entry) -> Result<(), DurableError> {
        durable::save(&self.path(&entry.key), &entry)?;
        // An earlier attachment of the key may have been renamed on a full disk.
        let renamed = self.path(&entry.key).with_extension(RENAMED);
        if renamed.exists() {
            durable::remove(&renamed)?;
        }
        self.entries().insert(entry);
        Ok(())
    }

    /// Marks an entry as `Removing` by renaming its file, for a full disk.
    ///
    /// # Errors
    /// [`DurableError::Io`]: memory is updated, the disk is not.
    pub fn rename(&self, entry: Entry) -> Result<(), DurableError> {
        let path = self.path(&entry.key);
        self.entries().insert(Entry { stage: Stage::Removing, ..entry });
        fs::rename(&path, path.with_extension(RENAMED)).map_err(DurableError::io("rename", &path))
    }

    /// Durably removes an entry.
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

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.entries().by_key.get(key).cloned()
    }

    /// Whether another attachment has the link name that this key would get: names are
    /// short digests and may collide.
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

    /// Entries that satisfy a predicate.
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

    /// A digest, as keys may be longer than file names.
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
        // The digest has 32 bits: among some ten thousand keys two collide.
        let key = |n: u32| Key { container_id: format!("c{n}"), ifname: "eth0".into() };
        let mut seen = std::collections::HashMap::new();
        let (one, two) = (0u32..)
            .find_map(|n| {
                let link = host_link(&key(n).container_id, "eth0");
                seen.insert(link, n).map(|before| (before, n))
            })
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = AttachmentStore::open(dir.path()).unwrap();
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
        store.put(entry).unwrap();
        assert!(store.has_link_of(&key(two)));
        assert!(!store.has_link_of(&key(one)) && !store.has_link_of(&key(two + 1)));
        let link = [host_link(&key(one).container_id, "eth0")].into();
        assert_eq!(store.concerned(&link, &BTreeSet::new()), [key(one)].into());
        store.remove(&key(one)).unwrap();
        assert!(!store.has_link_of(&key(two)));
        assert!(store.concerned(&link, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn entries_outlive_the_program_and_damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let key = |n: u8| Key { container_id: format!("c{n}"), ifname: "eth0".into() };
        let entry = |n: u8| Entry {
            key: key(n),
            network: "net".into(),
            netns: None,
            addresses: vec![AttachmentAddress::new("a".into())],
            owner: None,
            labels: Labels::new(),
            stage: Stage::Intended,
        };
        let store = AttachmentStore::open(dir.path()).unwrap();
        for n in 0..3 {
            store.put(entry(n)).unwrap();
        }
        store.put(Entry { stage: Stage::Ready, ..entry(1) }).unwrap();
        store.remove(&key(2)).unwrap();
        fs::write(store.path(&key(0)), "nonsense").unwrap();
        let again = AttachmentStore::open(dir.path()).unwrap();
        assert_eq!(again.all(), [Entry { stage: Stage::Ready, ..entry(1) }]);
        // An entry renamed on a full disk stays `Removing` after a restart; one attached again does not.
        again.rename(entry(1)).unwrap();
        let again = AttachmentStore::open(dir.path()).unwrap();
        assert_eq!(again.all(), [Entry { stage: Stage::Removing, ..entry(1) }]);
        again.put(Entry { stage: Stage::Ready, ..entry(1) }).unwrap();
        let again = AttachmentStore::open(dir.path()).unwrap();
        assert_eq!(again.get(&key(1)).map(|entry| entry.stage), Some(Stage::Ready));
        assert!(store.path(&key(0)).with_extension("damaged").exists());
    }
}
