//! The typed calls of the API. Changes go through the gatherer; reads go to any replica and are linearizable.

use std::collections::HashSet;

use hyper::Method;
use romana_api::Changed;
use romana_api::cluster::{AddMemberBody, Leader, TransferBody};
use romana_api::policy::PoliciesExplained;
use romana_api::settings::ClusterSettings;
use romana_statemachine::command::{
    AllocateAddress, Blackout, Endpoint, EndpointRef, HostChange, HostReport, HostSpec, PolicyRef,
    ReleaseAddress, RemoveHost, SegmentRef, SegmentSpec, SetHostState, SettingsChange, TenantRef,
    TenantSpec, VipRef, VipSpec,
};
use romana_statemachine::name::{AddressName, HostName, NetworkName, TenantId, VipName};
use romana_statemachine::policy::Policy;
use romana_statemachine::topology::{TopologyPlan, TopologySpec};
use romana_statemachine::{Command, Topic};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::parse;
use crate::client::Client;
use crate::config::Server;
use crate::error::Error;
use crate::follow::{FollowOptions, Follower, Snapshot};
use crate::model::{Allocation, Block, ClusterStatus, DigestAt, Done, Host, NewMember, Page};
use crate::query::Query;
use crate::transport::Ask;

/// Limit of pages in one list.
const PAGES_MAX: usize = 100_000;

/// The `continue` tokens of a list so far. Each page begins after the previous one, so no token may repeat.
#[derive(Debug, Default)]
pub struct Tokens {
    seen: HashSet<String>,
}

impl Tokens {
    /// Adds the next token.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the list does not end.
    pub fn add(&mut self, token: &str) -> Result<(), Error> {
        let is_new = self.seen.insert(token.to_owned());
        if is_new && self.seen.len() <= PAGES_MAX { Ok(()) } else { Err(endless()) }
    }
}

fn endless() -> Error {
    Error::protocol("the list does not end")
}

/// Filter of blocks; absent = all.
#[derive(Clone, Debug, Default)]
pub struct BlockFilter {
    pub network: Option<NetworkName>,
    pub host: Option<HostName>,
    pub tenant: Option<TenantId>,
}

/// Filter of addresses; absent = all.
#[derive(Clone, Debug, Default)]
pub struct AddressFilter {
    pub network: Option<NetworkName>,
    pub host: Option<HostName>,
    pub tenant: Option<TenantId>,
}

/// Changes. Errors: [`Error`]; after [`Error::Unknown`] the change may have been committed.
impl Client {
    /// Allocates an address. Idempotent: the same request returns the same address.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn allocate(&self, ask: AllocateAddress) -> Result<Allocation, Error> {
        let done = self.submit(&Command::AllocateAddress(ask)).await?;
        done.allocation.ok_or_else(|| Error::Unknown {
            why: String::from("the answer to an allocation has no address"),
            source: None,
        })
    }

    /// Releases an address, given by name or IP address. Idempotent.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn release(&self, address: AddressName) -> Result<Done, Error> {
        self.submit(&Command::ReleaseAddress(ReleaseAddress { address })).await
    }

    /// Sets or replaces the topology, given in the command format.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_topology(&self, topology: TopologySpec) -> Result<Done, Error> {
        self.submit(&Command::SetTopology(topology)).await
    }

    /// Adds a host.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_host(&self, host: HostSpec) -> Result<Done, Error> {
        self.submit(&Command::AddHost(host)).await
    }

    /// Changes a host.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn update_host(&self, change: HostChange) -> Result<Done, Error> {
        self.submit(&Command::UpdateHost(change)).await
    }

    /// Marks a host up, down or draining.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_host_state(&self, change: SetHostState) -> Result<Done, Error> {
        self.submit(&Command::SetHostState(change)).await
    }

    /// Removes a host; with `force`, evicts its addresses.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_host(&self, name: HostName, force: bool) -> Result<Done, Error> {
        self.submit(&Command::RemoveHost(RemoveHost { name, force })).await
    }

    /// Reports the addresses in use on a host.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn report_host(&self, report: HostReport) -> Result<Done, Error> {
        self.submit(&Command::ReportHost(report)).await
    }

    /// Excludes a range from allocation.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_blackout(&self, cidr: String) -> Result<Done, Error> {
        self.submit(&Command::AddBlackout(Blackout { cidr })).await
    }

    /// Removes a blackout.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_blackout(&self, cidr: String) -> Result<Done, Error> {
        self.submit(&Command::RemoveBlackout(Blackout { cidr })).await
    }

    /// Changes cluster settings.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn change_settings(&self, change: SettingsChange) -> Result<Done, Error> {
        self.submit(&Command::ChangeSettings(change)).await
    }

    /// Creates a tenant or replaces its labels.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_tenant(&self, tenant: TenantSpec) -> Result<Done, Error> {
        self.submit(&Command::CreateTenant(tenant)).await
    }

    /// Deletes a tenant that owns nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_tenant(&self, tenant: TenantRef) -> Result<Done, Error> {
        self.submit(&Command::DeleteTenant(tenant)).await
    }

    /// Creates a segment or replaces its labels.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_segment(&self, segment: SegmentSpec) -> Result<Done, Error> {
        self.submit(&Command::CreateSegment(segment)).await
    }

    /// Deletes a segment that owns nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_segment(&self, segment: SegmentRef) -> Result<Done, Error> {
        self.submit(&Command::DeleteSegment(segment)).await
    }

    /// Creates or replaces a policy.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_policy(&self, policy: Policy) -> Result<Done, Error> {
        self.submit(&Command::SetPolicy(policy)).await
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_policy(&self, policy: PolicyRef) -> Result<Done, Error> {
        self.submit(&Command::RemovePolicy(policy)).await
    }

    /// Creates or replaces an endpoint.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_endpoint(&self, endpoint: Endpoint) -> Result<Done, Error> {
        self.submit(&Command::SetEndpoint(endpoint)).await
    }

    /// Removes an endpoint. Idempotent.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_endpoint(&self, endpoint: EndpointRef) -> Result<Done, Error> {
        self.submit(&Command::RemoveEndpoint(endpoint)).await
    }

    /// Creates or replaces the request for a VIP.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn request_vip(&self, vip: VipSpec) -> Result<Done, Error> {
        self.submit(&Command::RequestVip(vip)).await
    }

    /// Removes a VIP.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_vip(&self, name: VipName) -> Result<Done, Error> {
        self.submit(&Command::RemoveVip(VipRef { name })).await
    }

    /// Sends a topology document in the format of Romana's documentation. Returns the server's answer.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn put_topology(&self, document: &Value) -> Result<Value, Error> {
        self.send(Method::PUT, "/v1/topology", Some(document), true).await
    }

    /// Computes the effect of a topology document. Commits nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn plan_topology(&self, document: &Value) -> Result<TopologyPlan, Error> {
        self.inquire("/v1/topology/plan", document).await
    }

    /// Validates and explains policies in the format of Romana's documentation or of 2.0. Commits nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn check_policies(&self, document: &Value) -> Result<PoliciesExplained, Error> {
        self.inquire("/v1/policies/check", document).await
    }
}

/// Reads.
impl Client {
    /// Reads all pages of a list.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list<T: DeserializeOwned>(&self, query: Query) -> Result<Page<T>, Error> {
        let mut page: Page<T> = self.get(query.clone().build()).await?;
        let mut tokens = Tokens::default();
        while let Some(next) = page.next.take() {
            tokens.add(&next)?;
            let more: Page<T> =
                self.get(query.clone().with("continue", Some(next)).build()).await?;
            if more.items.is_empty() && more.next.is_some() {
                return Err(endless());
            }
            page.items.extend(more.items);
            page.next = more.next;
        }
        Ok(page)
    }

    /// The hosts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hosts(&self) -> Result<Page<Host>, Error> {
        self.list(Query::new("/v1/hosts")).await
    }

    /// A host.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn host(&self, name: &HostName) -> Result<Host, Error> {
        self.get(Query::new("/v1/hosts").segment(name).build()).await
    }

    ///
    /// # Errors
    /// [`Error`].
    pub async fn blocks(&self, filter: &BlockFilter) -> Result<Page<Block>, Error> {
        let query = Query::new("/v1/blocks").with("network", filter.network.as_ref());
        let query = query.with("host", filter.host.as_ref());
        self.list(query.with("tenant", filter.tenant.as_ref())).await
    }

    /// Live addresses.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn addresses(&self, filter: &AddressFilter) -> Result<Page<Allocation>, Error> {
        let query = Query::new("/v1/addresses").with("network", filter.network.as_ref());
        let query = query.with("host", filter.host.as_ref());
        self.list(query.with("tenant", filter.tenant.as_ref())).await
    }

    /// A live address, given by name or IP address.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn address(&self, address: &AddressName) -> Result<Allocation, Error> {
        self.get(Query::new("/v1/addresses").segment(address).build()).await
    }

    /// The topology document, with groups' CIDRs and hosts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn topology(&self) -> Result<Value, Error> {
        self.get("/v1/topology").await
    }

    /// The cluster settings.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn settings(&self) -> Result<ClusterSettings, Error> {
        self.get("/v1/settings").await
    }

    /// The cluster's status as seen by any replica.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn cluster(&self) -> Result<ClusterStatus, Error> {
        self.get("/v1/cluster").await
    }

    /// The cluster's status as seen by one replica. Only the leader knows the problems of its tasks.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn cluster_of(&self, server: &Server) -> Result<ClusterStatus, Error> {
        self.get_from(server, "/v1/cluster").await
    }

    /// Adds a replica, or replaces another. It votes once it was started with `--join` and has caught up.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_member(&self, peer: &str, replaces: Option<u64>) -> Result<NewMember, Error> {
        let body = AddMemberBody { peer: peer.into(), replaces, force: false };
        self.send(Method::POST, "/v1/cluster/members", Some(&body), true).await
    }

    /// Removes a replica; its id is never reused. `force`: even if too few healthy replicas remain.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_member(&self, id: u64, force: bool) -> Result<(), Error> {
        let query = Query::new("/v1/cluster/members").segment(id);
        let path = query.with("force", force.then_some(true)).build();
        self.send::<Changed>(Method::DELETE, path, None::<&()>, true).await.map(|_| ())
    }

    /// Transfers leadership to a member, or to the most suitable one, and waits until it leads.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), Error> {
        let (path, body) = ("/v1/cluster/transfer", TransferBody { to });
        self.send::<Leader>(Method::POST, path, Some(&body), true).await.map(|_| ())
    }

    /// The current revision and digest of one replica.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn digest_of(&self, server: &Server) -> Result<DigestAt, Error> {
        self.get_from(server, "/v1/digest?consistency=local").await
    }

    /// The state (or some topics of it) and the revision to follow from.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn snapshot(&self, topics: &[Topic]) -> Result<Snapshot, Error> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
        let names = (!names.is_empty()).then(|| names.join(","));
        let ask = Ask::get(Query::new("/v1/snapshot").with("topics", names).build());
        parse(&self.core().fetch(&ask).await?)
    }

    /// Follows the feed. Connects when the first item is requested.
    #[must_use]
    pub fn follow(&self, options: FollowOptions) -> Follower {
        Follower::new(self.clone(), options)
    }
}
