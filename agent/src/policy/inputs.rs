//! The inputs of a host's filter, and what policies match a prefix by: an endpoint's address, a block,
//! or a range that a policy names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use imbl::OrdMap;
use ipnet::IpNet;
use romana_statemachine::command::NamedPort;
use romana_statemachine::name::{HostName, SegmentId, TenantId};
use romana_statemachine::policy::party::Identity;
use romana_statemachine::policy::{Policy, Target};
use romana_statemachine::{Labels, Revision};

use super::model::Name;
use crate::policy_view::PolicyView;
use crate::view::{Block, View};

/// An attached address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The host's end of its link; `None`: another program created the link.
    pub link: Option<Name>,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Labels from its ADD, if any.
    pub labels: Labels,
    /// Whether it is a Kubernetes pod.
    pub is_pod: bool,
}

/// Attached addresses of this host.
pub type Attachments = OrdMap<IpAddr, Attached>;

/// The inputs of a host's filter.
#[derive(Clone, Debug)]
pub struct PolicyInputs {
    pub(super) view: Arc<View>,
    pub(super) rules: PolicyView,
    pub(super) attached: Attachments,
    /// Tenants whose endpoints are selected by labels; computed on first use.
    selected: OnceLock<Arc<BTreeSet<TenantId>>>,
}

/// A single address as a prefix.
#[must_use]
pub fn single(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

impl PolicyInputs {
    /// `None`: the view was saved by a release that did not follow policies.
    #[must_use]
    pub fn new(view: Arc<View>, attached: Attachments) -> Option<Self> {
        let rules = view.rules.clone()?;
        Some(Self { view, rules, attached, selected: OnceLock::new() })
    }

    /// A world without any knowledge but the host's name.
    pub(super) fn empty(host: HostName) -> Self {
        let (view, rules) = (Arc::new(View::new(host)), PolicyView::default());
        Self { view, rules, attached: Attachments::new(), selected: OnceLock::new() }
    }

    /// Revision of the view.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.view.revision()
    }

    fn tenant_labels(&self, tenant: &TenantId) -> Option<&Labels> {
        Some(&self.rules.tenants.get(tenant)?.labels)
    }

    /// Whether a prefix is that of a pod that is not an endpoint yet, in an unknown namespace whose pods a
    /// policy selects by labels: it is isolated until its labels are known.
    pub(super) fn is_awaited(&self, net: IpNet) -> bool {
        let ip = net.addr();
        let pod = self.attached.get(&ip).filter(|one| net == single(ip) && one.is_pod);
        pod.is_some_and(|Attached { tenant, labels, .. }| {
            labels.is_empty()
                && !self.rules.tenants.contains_key(tenant)
                && !self.rules.endpoints.contains_key(&ip)
                && self.selected_by_labels().contains(tenant)
        })
    }

    fn selected_by_labels(&self) -> &BTreeSet<TenantId> {
        self.selected.get_or_init(|| {
            let policies = self.rules.policies.values();
            Arc::new(policies.flat_map(by_labels).cloned().collect())
        })
    }

    /// Pods of these tenants on this host.
    pub(super) fn pods_of<'a>(
        &'a self,
        tenants: &'a BTreeSet<TenantId>,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let of = |one: &Attached| one.is_pod && tenants.contains(&one.tenant);
        self.attached.iter().filter(move |(_, one)| of(one)).map(|(ip, _)| *ip)
    }

    /// The block that contains an address.
    pub(super) fn block_of(&self, ip: IpAddr) -> Option<(IpNet, &Block)> {
        let (cidr, block) = self.view.blocks.get_prev(&single(ip))?;
        cidr.contains(&ip).then_some((*cidr, block))
    }

    /// The identity of an address: an endpoint, or an attachment that is not an endpoint (yet).
    pub(super) fn endpoint(&self, ip: IpAddr) -> Option<Identity<'_>> {
        if let Some(found) = self.rules.endpoints.get(&ip) {
            let labels = self.tenant_labels(&found.tenant);
            return Some(Identity::of_endpoint(
                &found.tenant,
                labels,
                &found.segment,
                &found.labels,
            ));
        }
        let Attached { tenant, segment, labels, .. } = self.attached.get(&ip)?;
        let tenant_labels = self.tenant_labels(tenant);
        Some(match labels.is_empty() {
            true => Identity::of_block(tenant, tenant_labels, segment),
            false => Identity::of_endpoint(tenant, tenant_labels, segment, labels),
        })
    }

    /// The identity of a prefix: an endpoint, or the owner of a block.
    pub(super) fn identity(&self, net: IpNet) -> Option<Identity<'_>> {
        let single = net.prefix_len() == net.max_prefix_len();
        let endpoint = single.then(|| self.endpoint(net.addr())).flatten();
        endpoint.or_else(|| {
            let block = self.view.blocks.get(&net)?;
            let labels = self.tenant_labels(&block.tenant);
            Some(Identity::of_block(&block.tenant, labels, &block.segment))
        })
    }

    pub(super) fn named_ports(&self, ip: IpAddr) -> &[NamedPort] {
        let found = self.rules.endpoints.get(&ip);
        found.map(|endpoint| endpoint.ports.as_slice()).unwrap_or_default()
    }

    /// Whether an endpoint's address, or a block, is on this host.
    pub(super) fn is_here(&self, net: IpNet) -> bool {
        let ip = net.addr();
        if let Some((_, block)) = self.block_of(ip).filter(|(cidr, _)| cidr.contains(&net)) {
            let attached = net == single(ip) && self.attached.contains_key(&ip);
            return block.host == self.view.host || attached;
        }
        let endpoint = self.rules.endpoints.get(&ip).filter(|_| net == single(ip));
        endpoint.is_some_and(|endpoint| endpoint.host == self.view.host)
            || net == single(ip) && self.attached.contains_key(&ip)
    }

    /// Whether a range that a policy names is enforced as a range on this host: it is part of
    /// a block of this host whose tenant is known, or of no Romana network, so that it is
    /// unknown which host its packets pass.
    pub(super) fn is_range(&self, net: IpNet) -> bool {
        let own = self.block_of(net.addr()).is_some_and(|(cidr, block)| {
            let known = self.identity(cidr).is_some_and(|identity| identity.labels.is_some());
            cidr.contains(&net) && block.host == self.view.host && known
        });
        own || !self.view.networks.iter().any(|network| network.cidr.contains(&net))
    }

    /// Addresses of this host.
    pub(super) fn own_ips(&self) -> &[IpAddr] {
        self.view.hosts.get(&self.view.host).map(|host| host.ips.as_slice()).unwrap_or_default()
    }

    /// Addresses of all other hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.view.hosts.iter().filter(|(name, _)| **name != self.view.host);
        others.flat_map(|(_, host)| host.ips.iter().copied())
    }

    /// Allocated addresses in a prefix.
    pub(super) fn endpoints_in(&self, net: IpNet) -> impl Iterator<Item = IpAddr> {
        let (first, last) = (net.network(), net.broadcast());
        let endpoints = self.rules.endpoints.range(first..=last).map(|(ip, _)| *ip);
        endpoints.chain(self.attached.range(first..=last).map(|(ip, _)| *ip))
    }

    /// All blocks and allocated addresses of the cluster.
    pub(super) fn everywhere(&self) -> impl Iterator<Item = IpNet> {
        let ips = self.rules.endpoints.keys().chain(self.attached.keys());
        self.view.blocks.keys().copied().chain(ips.map(|ip| single(*ip)))
    }

    /// Blocks and addresses of these tenants.
    pub(super) fn of_tenants(&self, tenants: &BTreeSet<TenantId>) -> Vec<IpNet> {
        let of = |net: &IpNet| {
            self.identity(*net).is_some_and(|identity| tenants.contains(identity.tenant))
        };
        self.everywhere().filter(of).collect()
    }

    /// Whether a policy selects all of a prefix. A prefix without identity is
    /// selected by none: it stays isolated.
    pub(super) fn selects(&self, policy: &Policy, net: IpNet) -> bool {
        let identity = self.identity(net);
        if identity.is_some_and(|identity| identity.labels.is_none()) || self.is_awaited(net) {
            return false;
        }
        policy.applied_to.iter().any(|target| match target {
            Target::Cidr(cidr) => cidr.contains(&net),
            target => identity.is_some_and(|identity| target.includes(&identity)),
        })
    }
}

/// Tenants whose endpoints a policy selects by labels.
pub(super) fn by_labels(policy: &Policy) -> impl Iterator<Item = &TenantId> {
    policy.applied_to.iter().filter_map(|target| match target {
        Target::Endpoints(tenant, _) if policy.selects_by_labels(tenant) => Some(tenant),
        _ => None,
    })
}
