//! `/v1/cluster` and `/v1/digest`: the members, membership changes, and the proof that the replicas agree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::http::StatusCode;
use romana_api::Changed;
use romana_api::cluster::{
    AddMemberBody, ClusterStatus, DigestAt, Leader, MemberStatus, NewMember, RaiseBody, Raised,
    Role, TransferBody,
};
use romana_replica::{ReadError, Replica, TransferError};
use romana_statemachine::command::{AddMember, MemberRef, RaiseVersion, ResumeAllocation};
use romana_statemachine::{Command, Member, Refusal, State, VERSION_MAX};
use tokio::time::{Instant, sleep};

use super::call::{Call, created};
use super::operation::{BODY_BYTES_MAX, CONSISTENCY, Operation, Param, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};
use crate::tasks::versions;

/// How often a change of leader is polled.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Timeout for resolving a member's name.
const LOOK_UP_MAX: Duration = Duration::from_secs(1);

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/cluster",
        "cluster",
        "Replicas, leader and term as this replica knows them.",
        &[(200, of::<ClusterStatus>)],
        handler!(status),
    ),
    Operation::new(
        Verb::Post,
        "/v1/cluster/members",
        "cluster",
        "Adds a member: a learner, until it has started and caught up; then it votes. The id is new.",
        &[(201, of::<NewMember>), (200, of::<NewMember>)],
        handler!(add),
    )
    .body::<AddMemberBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/cluster/members/{id}",
        "cluster",
        "Removes a member; its id is never used again.",
        &[(200, of::<Changed>)],
        handler!(remove),
    )
    .query(&[Param::optional("force", "`true`: even if too few healthy members would be left")]),
    Operation::new(
        Verb::Post,
        "/v1/cluster/transfer",
        "cluster",
        "Hands leadership over, to a member or to the best one, and waits until it leads.",
        &[(200, of::<Leader>)],
        handler!(transfer),
    )
    .body::<TransferBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/cluster/resume",
        "cluster",
        "After a restore: goes on allocating without waiting for more hosts.",
        &[(200, of::<Changed>)],
        handler!(resume),
    ),
    Operation::new(
        Verb::Post,
        "/v1/cluster/version",
        "cluster",
        "Raises the version of behaviour as far as all replicas know it. That happens by itself when all \
         agents that are heard know it, too; with `force` they are not waited for: they stop at the first \
         event that they do not know and must not leave out.",
        &[(200, of::<Raised>)],
        handler!(raise),
    )
    .body::<RaiseBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Get,
        "/v1/digest",
        "cluster",
        "Revision and digest of the history. Equal revisions have equal digests on all replicas.",
        &[(200, of::<DigestAt>)],
        handler!(digest),
    )
    .query(&[CONSISTENCY]),
];

async fn status(call: Call) -> reply::Result {
    let status = call.api.replica().members().status();
    reply::ok(status.revision, &status)
}

fn no_member(id: u64) -> Failure {
    let message = format!("the cluster has no member {id}");
    Failure::new(Code::MemberNotFound, message).with("id", id)
}

async fn add(call: Call) -> reply::Result {
    let AddMemberBody { peer, replaces, force } = call.json()?;
    call.linearize().await?;
    let replica = call.api.replica();
    let status = replica.members().status();
    let member = |id: u64| status.members.iter().any(|member| member.id == id);
    if let Some(id) = replaces.filter(|id| !member(*id)) {
        return Err(no_member(id));
    }
    if let Some(id) = replaces.filter(|_| !force) {
        let mut voters = status.members.clone();
        voters.retain(|member| member.role != Role::Learner);
        if voters.iter().any(|member| member.id == id) {
            voters.retain(|member| member.id != id);
            // The new member takes the place of the old voter, and has no data yet.
            needed(id, &voters, voters.len() + 1)?;
        }
    }
    if let Some(id) = replaces {
        replica.with_state(|state| one_at_a_time(state, id, &peer))?;
    }
    if let Some(refusal) = taken(&peer, replaces, &status).await {
        return Err(refusal.into());
    }
    let floor = status.members.iter().map(|member| member.id).max().unwrap_or(0);
    let command = Command::AddMember(AddMember { peer: peer.clone(), floor, replaces });
    let change = call.change(command).await?;
    if change.changed
        && let Some((id, why)) = came_second(replica, &peer, replaces).await
    {
        call.change(Command::RemoveMember(MemberRef { id })).await?;
        return Err(why);
    }
    let apis = status.members.iter().filter(|member| member.healthy && !member.api.is_empty());
    let apis = apis.map(|member| member.api.as_str()).collect::<Vec<_>>().join(",");
    let start = start_line(&apis, &peer);
    let view = |state: &State| {
        let fits =
            |id: &u64| state.member(*id).is_some_and(|m| m.peer == peer && m.replaces == replaces);
        let id = state.members().map(|member| member.id).filter(fits).max()?;
        Some(NewMember { id, peer: peer.clone(), replaces, start: start.clone() })
    };
    call.show(created(change), change, view).await
}

/// The command line that starts a new member. It listens on the port of its peer address; if the address is a name,
/// only that machine knows the IP address.
fn start_line(apis: &str, peer: &str) -> String {
    let port = peer.rsplit_once(':').map_or(peer, |(_, port)| port);
    let listen = match peer.parse::<SocketAddr>() {
        Ok(_) => peer.to_owned(),
        Err(_) => format!("0.0.0.0:{port}"),
    };
    format!("romanad --join {apis} --data-dir DIR --peer-listen {listen} --advertise-peer {peer}")
}

async fn remove(call: Call) -> reply::Result {
    let id: u64 = call.path("id").parse().map_err(|why| {
        let message = format!("{:?} is not the id of a member: {why}", call.path("id"));
        Failure::new(Code::MalformedPath, message)
    })?;
    let force = call.query_as::<bool>("force")?.unwrap_or(false);
    call.linearize().await?;
    let replica = call.api.replica();
    let status = replica.members().status();
    let gone = |id| replica.with_state(|state| state.member_is_removed(id));
    let known = replica.with_state(|state| state.member(id).is_some());
    if !known && !gone(id) && !status.members.iter().any(|member| member.id == id) {
        return Err(no_member(id));
    }
    let mut voters = status.members;
    voters.retain(|member| member.role != Role::Learner && !gone(member.id));
    if voters.iter().any(|member| member.id == id) {
        voters.retain(|member| member.id != id);
        if voters.is_empty() || !force {
            needed(id, &voters, voters.len())?;
        }
    }
    let change = call.change(Command::RemoveMember(MemberRef { id })).await?;
    reply::json(StatusCode::OK, change.revision, &change)
}

/// Refuses to remove a voter when the other healthy voters would not form a majority.
fn needed(id: u64, others: &[MemberStatus], voters: usize) -> Result<(), Failure> {
    let healthy = others.iter().filter(|member| member.healthy).count();
    if healthy * 2 > voters {
        return Ok(());
    }
    let message = format!(
        "without member {id} there are {healthy} healthy voters of {voters}, which is no majority"
    );
    let failure = Failure::new(Code::MemberNeeded, message).with("id", id);
    Err(failure.with("voters", voters).with("healthy", healthy))
}

/// Refuses a second replacement of the same member: both would vote.
fn one_at_a_time(state: &State, id: u64, peer: &str) -> Result<(), Failure> {
    let other = state.members().find(|member| member.replaces == Some(id) && member.peer != peer);
    other.map_or(Ok(()), |other| Err(in_place(other, id)))
}

fn in_place(other: &Member, id: u64) -> Failure {
    let message =
        format!("member {} ({}) is in the place of member {id} already", other.id, other.peer);
    Failure::new(Code::MemberReplaced, message).with("id", id).with("by", other.id)
}

/// Of members that were added concurrently, possibly through several replicas, for the same place or the same address
/// under different names: the new one to remove again, and why.
async fn came_second(
    replica: &Replica,
    peer: &str,
    replaces: Option<u64>,
) -> Option<(u64, Failure)> {
    let members: Vec<Member> = replica.with_state(|state| state.members().cloned().collect());
    let is_new = |member: &&Member| member.peer == peer && member.replaces == replaces;
    let id = members.iter().filter(is_new).map(|member| member.id).max()?;
    let wanted = addresses(peer).await;
    for first in members.iter().filter(|member| member.id < id && Some(member.id) != replaces) {
        if replaces.is_some() && first.replaces == replaces {
            return Some((id, in_place(first, replaces?)));
        }
        let there = addresses(&first.peer).await;
        if same(peer, &first.peer) || there.iter().any(|at| wanted.contains(at)) {
            let refusal = Refusal::MemberExists { id: first.id, peer: first.peer.clone() };
            return Some((id, refusal.into()));
        }
    }
    None
}

/// Why no new member can use an address: another member has it, possibly under another name, or it is unusable.
async fn taken(peer: &str, replaces: Option<u64>, status: &ClusterStatus) -> Option<Refusal> {
    let wanted = addresses(peer).await;
    if let Some(ip) = wanted.iter().map(SocketAddr::ip).find(IpAddr::is_unspecified) {
        let why = format!("{ip} is where a program listens, not where others reach it");
        return Some(Refusal::InvalidPeer { peer: peer.into(), why });
    }
    for member in &status.members {
        let api = member.api.split("//").last().unwrap_or_default();
        let at_api = same(peer, api) || addresses(api).await.iter().any(|at| wanted.contains(at));
        if !api.is_empty() && at_api {
            let (id, there) = (member.id, &member.peer);
            let why = format!("member {id} has its API there; its peer address is {there}");
            return Some(Refusal::InvalidPeer { peer: peer.into(), why });
        }
        if Some(member.id) == replaces || member.peer == peer {
            // Equal spellings are compared by the state machine.
            continue;
        }
        let at_peer = addresses(&member.peer).await.iter().any(|at| wanted.contains(at));
        if same(peer, &member.peer) || at_peer {
            return Some(Refusal::MemberExists { id: member.id, peer: member.peer.clone() });
        }
    }
    None
}

/// Whether two addresses are spelled the same, ignoring case.
fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// The addresses that a `host:port` resolves to on this machine; empty if it does not resolve.
async fn addresses(peer: &str) -> Vec<SocketAddr> {
    let found = tokio::time::timeout(LOOK_UP_MAX, tokio::net::lookup_host(peer)).await;
    found.ok().and_then(Result::ok).into_iter().flatten().collect()
}

async fn transfer(call: Call) -> reply::Result {
    let TransferBody { to } = call.json_or_default()?;
    let replica = call.api.replica();
    let status = replica.members().status();
    let nobody = || Failure::new(Code::Unavailable, "no leader is known");
    let to = to.or_else(|| status.successor().or(status.leader)).ok_or_else(nobody)?;
    let member = status.members.iter().find(|member| member.id == to);
    let member = member.ok_or_else(|| no_member(to))?;
    if status.leader != Some(to) {
        // The leader would step down for a member that cannot lead.
        if !member.healthy {
            let message = format!("member {to} is not healthy, and cannot take over");
            return Err(Failure::new(Code::MemberNotHealthy, message).with("id", to));
        }
        let asked = replica.leadership().transfer(to, call.deadline).await;
        asked.map_err(|error| match &error {
            TransferError::NotVoter { .. } => Failure::new(Code::MemberNotVoter, error.to_string()),
            TransferError::Unavailable { .. } => Failure::new(Code::Unavailable, error.to_string()),
        })?;
    }
    loop {
        let ClusterStatus { leader, term, revision, .. } = replica.members().status();
        if leader == Some(to) {
            return reply::ok(revision, &Leader { leader: to, term });
        }
        if Instant::now() + LOOK_EVERY >= call.deadline {
            let message = format!("member {to} was asked to lead, and does not yet");
            return Err(Failure::new(Code::OutcomeUnknown, message));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn resume(call: Call) -> reply::Result {
    let change = call.change(Command::ResumeAllocation(ResumeAllocation {})).await?;
    reply::json(StatusCode::OK, change.revision, &change)
}

async fn raise(call: Call) -> reply::Result {
    let RaiseBody { force } = call.json_or_default()?;
    call.linearize().await?;
    let replica = call.api.replica();
    let first = replica.with_state(State::version);
    let unheard = |error: ReadError| Failure::new(Code::Unavailable, error.to_string());
    let agents = match force {
        true => Vec::new(),
        false => replica.agents().heard_by_leader(call.deadline).await.map_err(unheard)?,
    };
    let mut version = first;
    // Ask the members once for all versions to come.
    let facts = match first < VERSION_MAX {
        true => replica.members().facts(LOOK_UP_MAX).await,
        false => BTreeMap::new(),
    };
    while version < VERSION_MAX {
        if let Some(obstacle) = versions::obstacle(version + 1, &facts, &agents) {
            let message = format!("version {} is not switched on: {obstacle}", version + 1);
            let failure = Failure::new(Code::VersionNotRaised, message);
            return Err(failure.with("obstacle", obstacle.to_string()));
        }
        version += 1;
        let command = Command::RaiseVersion(RaiseVersion { version });
        let outcome = call.propose_all(vec![command]).await?.pop().map(|outcome| outcome.result);
        match outcome {
            // The leader's task was faster.
            Some(Err(refusal)) if !refusal.is_raised_already() => return Err(refusal.into()),
            _ => {}
        }
    }
    let (version, revision) = replica.with_state(|state| (state.version(), state.revision()));
    reply::ok(revision, &Raised { version, changed: version > first, revision })
}

async fn digest(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &DigestAt { revision: state.revision(), digest: state.digest() })
}
