//! Recovers attachments that exist in the kernel and in the log, but not in the store, after a damaged file
//! or the loss of the state directory. A working attachment is never cut off for lack of a file (P4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use romana_statemachine::Labels;
use tokio_util::sync::CancellationToken;

use super::{Attacher, AttachmentAddress, Entry, Stage, names};
use crate::ipc::{Failed, Key};
use crate::kernel::links;
use crate::ownership::host_link;
use crate::view::View;

/// Attachments in the log whose links exist and that the store does not have. Their network
/// configurations and namespaces are unknown.
fn lost(view: &View, known: &BTreeSet<Key>, links: &BTreeSet<String>) -> Vec<Entry> {
    let mut found: BTreeMap<Key, Entry> = BTreeMap::new();
    for (name, address) in &view.addresses {
        let Some(key) = names::key_of(name).filter(|key| !known.contains(key)) else { continue };
        if !links.contains(&host_link(&key.container_id, &key.ifname)) {
            continue;
        }
        let held =
            AttachmentAddress { ip: Some(address.ip), ..AttachmentAddress::new(name.clone()) };
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
    /// Passes the attachments to policy enforcement: at once if every link is accounted for, else once the
    /// view is recent enough to identify the others. Until then the kernel is left unchanged.
    pub(super) async fn begin(self: Arc<Self>, stop: CancellationToken) {
        if !self.recover().await {
            // Until the view has caught up, a link without an entry may be newer than the view.
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
        let all = self.store.all();
        self.gate.begin(all.iter().map(|entry| (entry.key.clone(), entry.filtered())).collect());
        self.changed.notify_one();
    }

    /// Recovers attachments. Returns whether every link is accounted for now.
    async fn recover(self: &Arc<Self>) -> bool {
        let links: BTreeSet<String> = match links::host_ends(&self.handle).await {
            Ok(ends) => ends.into_keys().collect(),
            Err(error) => {
                tracing::warn!(%error, "reading links failed: attachments cannot be recovered");
                return false;
            }
        };
        let known: BTreeSet<Key> = self.store.all().into_iter().map(|entry| entry.key).collect();
        let view = self.seen.borrow().view.clone();
        for entry in view.iter().flat_map(|view| lost(view, &known, &links)) {
            let Key { container_id, ifname } = entry.key.clone();
            match self.recover_one(entry).await {
                Ok(true) => tracing::warn!(container_id, ifname, "attachment recovered"),
                Ok(false) => {}
                Err(error) => tracing::error!(container_id, %error, "attachment recovery failed"),
            }
        }
        let accounted: BTreeSet<String> = self.store.all().iter().map(link_of).collect();
        let strange: Vec<&String> = links.difference(&accounted).collect();
        if !strange.is_empty() {
            tracing::warn!(links = ?strange, "links without a known attachment");
        }
        strange.is_empty()
    }
}

impl Attacher {
    /// Recovers an attachment, unless the plugin attached or detached it after the links were read.
    async fn recover_one(self: &Arc<Self>, entry: Entry) -> Result<bool, Failed> {
        let _alone = self.lock(&entry.key).await;
        let is_new = self.store.get(&entry.key).is_none();
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
