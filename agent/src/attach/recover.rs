//! Takes up again what runs in the kernel and is in the log, but not in the ledger: a file of it was damaged, or
//! the state directory was lost. Nothing that works is closed for lack of a file (law 4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use romana_statemachine::Labels;
use tokio_util::sync::CancellationToken;

use super::{Attacher, Entry, Held, Stage, names};
use crate::kernel::links;
use crate::ours::host_link;
use crate::view::View;
use crate::wire::{Failed, Key};

/// Attachments of the log whose links are in the kernel and that the ledger does not know. Which network
/// configuration they are of, and where their namespaces are, is in no other place.
fn lost(view: &View, known: &BTreeSet<Key>, links: &BTreeSet<String>) -> Vec<Entry> {
    let mut found: BTreeMap<Key, Entry> = BTreeMap::new();
    for (name, address) in &view.addresses {
        let Some(key) = names::key_of(name).filter(|key| !known.contains(key)) else { continue };
        if !links.contains(&host_link(&key.container_id, &key.ifname)) {
            continue;
        }
        let held = Held { ip: Some(address.ip), ..Held::new(name.clone()) };
        let entry = found.entry(key.clone()).or_insert_with(|| Entry {
            key,
            network: String::new(),
            netns: Some(String::new()),
            addresses: Vec::new(),
            owner: Some((address.tenant.clone(), address.segment.clone())),
            labels: Labels::new(),
            stage: Stage::Ready,
        });
        entry.addresses.push(held);
    }
    found.into_values().collect()
}

impl Attacher {
    /// Tells the packet filter what is attached: at once if every link of ours is accounted for, else as soon
    /// as the log is known well enough to say whose the others are. Until then the kernel stays as it is.
    pub(super) async fn begin(self: Arc<Self>, stop: CancellationToken) {
        if !self.recover().await {
            // Until a replica was heard, a link without an entry may be younger than the copy of the log.
            let mut seen = self.seen.clone();
            let caught_up = tokio::select! {
                () = stop.cancelled() => return,
                seen = seen.wait_for(|seen| seen.caught_up) => seen.is_ok(),
            };
            if !caught_up {
                return;
            }
            self.recover().await;
        }
        let all = self.ledger.all();
        self.gate.begin(all.iter().map(|entry| (entry.key.clone(), entry.filtered())).collect());
        self.changed.notify_one();
    }

    /// Recovers what it can. Whether all links of ours are accounted for now.
    async fn recover(self: &Arc<Self>) -> bool {
        let links: BTreeSet<String> = match links::host_ends(&self.handle).await {
            Ok(ends) => ends.into_keys().collect(),
            Err(error) => {
                tracing::warn!(%error, "links cannot be read: nothing can be recovered from them");
                return false;
            }
        };
        let known: BTreeSet<Key> = self.ledger.all().into_iter().map(|entry| entry.key).collect();
        let view = self.seen.borrow().view.clone();
        for entry in view.iter().flat_map(|view| lost(view, &known, &links)) {
            let Key { container_id, ifname } = entry.key.clone();
            match self.recover_one(entry).await {
                Ok(true) => tracing::warn!(container_id, ifname, "recovered from kernel and log"),
                Ok(false) => {}
                Err(error) => tracing::error!(container_id, %error, "not recovered"),
            }
        }
        let accounted: BTreeSet<String> = self.ledger.all().iter().map(link_of).collect();
        let strange: Vec<&String> = links.difference(&accounted).collect();
        if !strange.is_empty() {
            tracing::warn!(links = ?strange, "no attachment that is known has these links");
        }
        strange.is_empty()
    }
}

impl Attacher {
    /// Whether it was recovered: not if the plugin has attached or detached it since the links were read.
    async fn recover_one(self: &Arc<Self>, entry: Entry) -> Result<bool, Failed> {
        let _alone = self.lock(&entry.key).await;
        let is_new = self.ledger.get(&entry.key).is_none();
        if !is_new || links::host_end(&self.handle, &link_of(&entry)).await?.is_none() {
            return Ok(false);
        }
        self.put(entry).await?;
        Ok(true)
    }
}

fn link_of(entry: &Entry) -> String {
    host_link(&entry.key.container_id, &entry.key.ifname)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Address;

    #[test]
    fn what_is_in_the_log_and_in_the_kernel_is_recovered() {
        let mut view = View::new("h1".into());
        let mut insert = |name: &str, ip: &str| {
            let address = Address {
                ip: ip.parse().unwrap(),
                tenant: "blue".into(),
                segment: "default".into(),
            };
            view.addresses.insert(name.into(), address);
        };
        insert("cni:blue.web:c1:eth0", "10.0.0.1");
        insert("cni6:blue.web:c1:eth0", "fd00::1");
        insert("cni:blue.web:known:eth0", "10.0.0.2");
        insert("cni:blue.web:unlinked:eth0", "10.0.0.3");
        insert("vm-1", "10.0.0.4");
        let key = |container: &str| Key { container_id: container.into(), ifname: "eth0".into() };
        let links = ["c1", "known"].map(|container| host_link(container, "eth0")).into();
        let found = lost(&view, &[key("known")].into(), &links);
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].key, found[0].addresses.len()), (&key("c1"), 2));
        assert_eq!(found[0].filtered().len(), 2, "the packet filter knows both");
    }
}
