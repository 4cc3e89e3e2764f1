//! The address reserve: addresses allocated in advance, so that pods can start while there is no quorum.
//!
//! ```text
//!   online:   wanted ─► allocated under `reserve:…` ─► spare (file) ─► not wanted: out of the file ─► released
//!   cut off:  spare ─► lent to an attachment (out of the file, into the store)
//!   online:   lent ─► claimed: the log gives it the attachment's name, marked as late
//! ```
//! A spare address is allocated to this host, and only this host releases it, so P1 holds while the host
//! is cut off. Addresses missing from both files are never used, however old the view at start-up is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use romana_client::Error;
use romana_statemachine::command::{AllocateAddress, ClaimReserve, Endpoint};
use romana_statemachine::limits::NAME_BYTES_MAX;
use romana_statemachine::name::{AddressName, HostName, RESERVE_PREFIX, SegmentId, TenantId};
use romana_statemachine::{Digest, Millis, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Attacher, BorrowedAddress, Entry, Stage};
use crate::ipc::Failed;
use crate::ownership::RESERVE_FILE;
use crate::view::View;
use romana_daemon::durable::{self, DurableError};

/// Spares that were not wanted for this time are released.
pub(super) const UNWANTED: Duration = Duration::from_secs(10);

/// Tenant, segment and family of an address.
pub(super) type Owner = (TenantId, SegmentId, bool);

/// A spare address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spare {
    ip: IpAddr,
    tenant: TenantId,
    segment: SegmentId,
}

impl Spare {
    fn owner(&self) -> Owner {
        (self.tenant.clone(), self.segment.clone(), self.ip.is_ipv4())
    }
}

/// The reserve of this host, on disk.
#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
    spares: Mutex<BTreeMap<AddressName, Spare>>,
    /// Lent since the start and not claimed; the store records it only later. Lock order: after `spares`.
    out: Mutex<BTreeSet<AddressName>>,
    unwanted: Mutex<BTreeMap<AddressName, Instant>>,
}

impl Reserve {
    /// Reads the reserve of a state directory. A damaged file counts as empty: the log has the names.
    pub(super) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let file = state_dir.join(RESERVE_FILE);
        let spares = match durable::load(&file) {
            Ok(spares) => spares.unwrap_or_default(),
            Err(error @ DurableError::Damaged { .. }) => {
                let aside = durable::set_aside(&file);
                tracing::error!(%error, aside = %aside.display(), "damaged reserve file set aside");
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        let (spares, out, unwanted) = (Mutex::new(spares), Mutex::default(), Mutex::default());
        Ok(Self { file, spares, out, unwanted })
    }

    fn spares(&self) -> MutexGuard<'_, BTreeMap<AddressName, Spare>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, BTreeSet<AddressName>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the reserve is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.spares().is_empty()
    }

    /// Whether an owner has a spare.
    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.spares().values().any(|spare| spare.owner() == *owner)
    }

    /// Durably takes a spare address of an owner.
    pub(super) fn lend(
        &self,
        owner: &Owner,
    ) -> Result<Option<(BorrowedAddress, IpAddr)>, DurableError> {
        let mut spares = self.spares();
        let found = spares.iter().find(|(_, spare)| spare.owner() == *owner);
        let Some((name, ip)) = found.map(|(name, spare)| (name.clone(), spare.ip)) else {
            return Ok(None);
        };
        self.without(&mut spares, &name)?;
        self.out().insert(name.clone());
        Ok(Some((BorrowedAddress { name, since: now() }, ip)))
    }

    /// Adds a spare address, unless it is lent.
    fn put(&self, name: AddressName, spare: Spare) -> Result<(), DurableError> {
        let mut spares = self.spares();
        if spares.get(&name) == Some(&spare) || self.out().contains(&name) {
            return Ok(());
        }
        let mut next = spares.clone();
        next.insert(name, spare);
        durable::save(&self.file, &next)?;
        *spares = next;
        Ok(())
    }

    /// Removes a name for good. `false`: the address is lent.
    fn retire(&self, name: &AddressName) -> Result<bool, DurableError> {
        let mut spares = self.spares();
        if self.out().contains(name) {
            return Ok(false);
        }
        self.without(&mut spares, name)?;
        Ok(true)
    }

    fn without(
        &self,
        spares: &mut BTreeMap<AddressName, Spare>,
        name: &AddressName,
    ) -> Result<(), DurableError> {
        let mut next = spares.clone();
        if next.remove(name).is_some() {
            durable::save(&self.file, &next)?;
            *spares = next;
        }
        Ok(())
    }
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `reserve:<host>:<tenant>.<segment>:<family>:<slot>`, with a digest if that is too long.
fn reserve_name(host: &HostName, owner: &Owner, slot: u32) -> AddressName {
    let (tenant, segment, v4) = owner;
    let family = if *v4 { 4 } else { 6 };
    let long = format!("{RESERVE_PREFIX}{host}:{tenant}.{segment}:{family}:{slot}");
    if long.len() <= NAME_BYTES_MAX {
        return AddressName::from(long);
    }
    let digest = Digest::of(format!("{host}/{tenant}/{segment}").as_bytes()).to_string();
    AddressName::from(format!("{RESERVE_PREFIX}{digest}:{family}:{slot}"))
}

/// Names to hold in reserve: `each` per owner that has an attachment here.
fn wanted(host: &HostName, entries: &[Entry], each: u32) -> BTreeMap<AddressName, Owner> {
    let ready = entries.iter().filter(|entry| entry.stage == Stage::Ready);
    let owners: BTreeSet<Owner> = ready
        .flat_map(|entry| {
            let ips = entry.addresses.iter().filter_map(|held| held.ip);
            let owner = entry.owner.clone();
            ips.filter_map(move |ip| owner.clone().map(|(t, s)| (t, s, ip.is_ipv4())))
        })
        .collect();
    let names = owners.into_iter().flat_map(|owner| {
        (0..each).map(move |slot| (reserve_name(host, &owner, slot), owner.clone()))
    });
    names.collect()
}

/// Reservation names that attachments use and the control plane does not know about yet.
pub(super) fn lent(entries: &[Entry]) -> BTreeSet<AddressName> {
    let held = entries.iter().flat_map(|entry| &entry.addresses);
    held.filter_map(|held| held.lent.as_ref().map(|lent| lent.name.clone())).collect()
}

impl Attacher {
    /// Reconciles the reserve. Returns whether no spare waits to be released.
    pub(super) async fn keep_reserve(self: &Arc<Self>, view: &View) -> Result<bool, Failed> {
        let entries = self.store.all();
        let host = &self.config.host;
        let wanted = wanted(host, &entries, view.reserve_per_owner);
        let lent = lent(&entries);
        for (name, owner) in wanted.iter().filter(|(name, _)| !lent.contains(*name)) {
            let known = self.reserve.spares().get(name).cloned();
            let stands = view.addresses.get(name).map(|address| address.ip);
            if known.is_none() || known.as_ref().map(|spare| spare.ip) != stands {
                self.reserve_one(name, owner, view).await?;
            }
        }
        self.give_back_unwanted(&wanted, &lent, view).await
    }

    /// Allocates an address under a reservation name, which may be done already.
    async fn reserve_one(
        self: &Arc<Self>,
        name: &AddressName,
        owner: &Owner,
        view: &View,
    ) -> Result<(), Failed> {
        let (tenant, segment, v4) = owner.clone();
        let networks = view.networks_for(&tenant);
        let networks = networks.filter(|network| network.cidr.addr().is_ipv4() == v4);
        let networks: Vec<_> = networks.map(|network| network.name.clone()).collect();
        for network in networks {
            let ask = AllocateAddress {
                name: name.clone(),
                host: self.config.host.clone(),
                tenant: tenant.clone(),
                segment: segment.clone(),
                network: Some(network),
                ip: None,
            };
            let ip = match self.client.allocate(ask).await {
                Ok(allocation) => allocation.ip,
                // Try the next network; if all are exhausted, there is no spare.
                Err(Error::Refused(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            self.reserve.put(name.clone(), Spare { ip, tenant, segment })?;
            return Ok(());
        }
        Ok(())
    }

    /// Releases spares that have not been wanted for a while. They are removed from the file first.
    async fn give_back_unwanted(
        &self,
        wanted: &BTreeMap<AddressName, Owner>,
        lent: &BTreeSet<AddressName>,
        view: &View,
    ) -> Result<bool, Failed> {
        let logged = view.addresses.keys().filter(|name| name.as_str().starts_with(RESERVE_PREFIX));
        let mut all: BTreeSet<AddressName> = self.reserve.spares().keys().cloned().collect();
        all.extend(logged.cloned());
        all.retain(|name| !wanted.contains_key(name) && !lent.contains(name));
        let due: Vec<AddressName> = {
            let mut unwanted = self.reserve.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
            unwanted.retain(|name, _| all.contains(name));
            let now = Instant::now();
            all.into_iter()
                .filter(|name| unwanted.entry(name.clone()).or_insert(now).elapsed() >= UNWANTED)
                .collect()
        };
        for name in due {
            // An ADD may have borrowed it just now.
            if self.reserve.retire(&name)? {
                self.client.release(name).await?;
            }
        }
        let waiting = self.reserve.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(waiting.is_empty())
    }

    /// Claims addresses borrowed while the host was cut off, and sets the labels of endpoints.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), Failed> {
        let unsettled = |entry: &Entry| -> bool {
            entry.stage == Stage::Ready && entry.addresses.iter().any(|held| held.lent.is_some())
        };
        for entry in self.store.select(unsettled) {
            let Some(_alone) = self.try_lock(&entry.key) else { continue };
            let Some(entry) = self.store.get(&entry.key).filter(unsettled) else { continue };
            let entry = self.claim(entry).await?;
            self.set_endpoints(&entry).await?;
        }
        Ok(())
    }

    /// Claims the borrowed addresses of an entry; returns the entry with them settled.
    pub(super) async fn claim(self: &Arc<Self>, mut entry: Entry) -> Result<Entry, Failed> {
        let Some((tenant, segment)) = entry.owner.clone() else { return Ok(entry) };
        for held in &mut entry.addresses {
            let (Some(lent), Some(ip)) = (held.lent.clone(), held.ip) else { continue };
            let claimed = self.is_claimed(&held.name, ip).await?;
            let reserve = lent.name;
            let claim = ClaimReserve {
                reserve: reserve.clone(),
                name: held.name.clone(),
                host: self.config.host.clone(),
                tenant: tenant.clone(),
                segment: segment.clone(),
                since: lent.since,
            };
            let done = match claimed {
                true => Ok(()),
                false => self.client.claim_reserve(claim).await.map(|_| ()),
            };
            match done {
                Ok(()) => tracing::info!(name = %held.name, %ip, "claimed a borrowed address"),
                // The original allocation has just been committed after all.
                Err(error) if error.code() == Some("AddressNameInUse") => return Err(error.into()),
                // Evicted in the meantime: the report shows the address in use,
                // and the control plane decides.
                Err(Error::Refused(error)) => {
                    tracing::error!(
                        name = %held.name,
                        %ip,
                        %error,
                        "claim of a borrowed address refused: it has been released"
                    );
                }
                Err(error) => return Err(error.into()),
            }
            self.reserve.out().remove(&reserve);
            held.lent = None;
        }
        if entry.stage == Stage::Ready {
            self.put(entry.clone()).await?;
        }
        Ok(entry)
    }

    /// Whether the log has an address under its own name. If the original allocation was committed late, it
    /// is released, as the attachment uses the borrowed address.
    async fn is_claimed(&self, name: &AddressName, ip: IpAddr) -> Result<bool, Failed> {
        match self.client.address(name).await {
            Ok(allocation) if allocation.ip != ip => {
                self.client.release(name.clone()).await?;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(Error::Refused(error)) if error.status == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the labels of an attachment's endpoints, if any. Returns the revision at which they are set.
    pub(super) async fn set_endpoints(&self, entry: &Entry) -> Result<Revision, Failed> {
        let Some((tenant, segment)) = entry.owner.clone().filter(|_| !entry.labels.is_empty())
        else {
            return Ok(Revision(0));
        };
        let mut revision = Revision(0);
        for ip in entry.addresses.iter().filter_map(|held| held.ip) {
            let endpoint = Endpoint {
                ip,
                tenant: tenant.clone(),
                segment: segment.clone(),
                host: self.config.host.clone(),
                labels: entry.labels.clone(),
                ports: Vec::new(),
            };
            revision = revision.max(self.client.set_endpoint(endpoint).await?.revision);
        }
        Ok(revision)
    }

    /// Borrows an address from the reserve after the control plane could not be reached.
    pub(super) fn borrow(
        &self,
        owner: &Owner,
        why: Failed,
    ) -> Result<(BorrowedAddress, IpAddr), Failed> {
        let (lent, ip) = self.reserve.lend(owner)?.ok_or(why)?;
        tracing::warn!(name = %lent.name, %ip, "control plane unreachable: reserve used");
        Ok((lent, ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(v4: bool) -> Owner {
        ("t".into(), "s".into(), v4)
    }

    fn spare(ip: &str) -> Spare {
        Spare { ip: ip.parse().unwrap(), tenant: "t".into(), segment: "s".into() }
    }

    #[test]
    fn what_is_lent_is_lent_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        reserve.put("reserve:a".into(), spare("10.0.0.1")).unwrap();
        reserve.put("reserve:b".into(), spare("fd00::1")).unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(reserve.has(&owner(true)) && reserve.has(&owner(false)));
        let (lent, ip) = reserve.lend(&owner(true)).unwrap().unwrap();
        assert_eq!((lent.name.as_str(), ip.to_string().as_str()), ("reserve:a", "10.0.0.1"));
        assert!(!reserve.has(&owner(true)));
        assert!(!reserve.retire(&lent.name).unwrap(), "nobody gives up what is lent");
        reserve.put(lent.name, spare("10.0.0.1")).unwrap();
        assert_eq!(reserve.lend(&owner(true)).unwrap(), None, "nor lends it twice");
        let reserve = Reserve::open(dir.path()).unwrap();
        assert_eq!(reserve.lend(&owner(true)).unwrap(), None);
        assert!(reserve.retire(&"reserve:b".into()).unwrap());
        assert_eq!(Reserve::open(dir.path()).unwrap().lend(&owner(false)).unwrap(), None);
        std::fs::write(dir.path().join(RESERVE_FILE), "nonsense").unwrap();
        assert!(!Reserve::open(dir.path()).unwrap().has(&owner(false)));
    }

    #[test]
    fn names_in_reserve_are_valid_and_differ() {
        let long = "x".repeat(250);
        for host in ["h1", &long] {
            let names: BTreeSet<AddressName> = [(true, 0), (true, 1), (false, 0)]
                .map(|(v4, slot)| reserve_name(&host.into(), &owner(v4), slot))
                .into();
            assert_eq!(names.len(), 3);
            assert!(names.iter().all(|name| name.check().is_ok()));
            assert!(names.iter().all(|name| name.as_str().starts_with(RESERVE_PREFIX)));
        }
    }
}
