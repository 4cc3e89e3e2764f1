//! Members of the control plane, since version 2.
//!
//! Raft's membership determines who votes. These records identify members, so that an id is never assigned twice and
//! a replica that lost its disk is distinguished from a new one.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::command::{AddMember, ClaimMember, MemberRef};
use crate::event::{Event, MemberAdded, MemberClaimed, MemberRemoved};
use crate::limits::{MEMBER_TEXT_BYTES_MAX, MEMBERS_MAX};
use crate::refusal::Refusal;
use crate::state::State;

/// Members by id, and the retired ids, which are never assigned again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    pub(crate) known: OrdMap<u64, Member>,
    pub(crate) removed: OrdSet<u64>,
}

/// A replica of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    /// Never assigned to another member.
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// Id of its data directory, chosen at random when the directory was created. `None` until it has started.
    pub nonce: Option<String>,
    /// The member that it was added to replace.
    pub replaces: Option<u64>,
}

pub(crate) fn decide_add(state: &State, add: &AddMember) -> Result<Vec<Event>, Refusal> {
    check_peer(&add.peer)?;
    let Members { known: members, removed } = &state.members;
    if members.len() >= MEMBERS_MAX {
        let (size, max) = (members.len() as u64 + 1, MEMBERS_MAX as u64);
        return Err(Refusal::TooLarge { field: "members".into(), size, max });
    }
    if let Some(id) = add.replaces.filter(|id| removed.contains(id)) {
        return Err(Refusal::MemberIsRemoved { id });
    }
    let same = members.values().find(|m| m.peer == add.peer && Some(m.id) != add.replaces);
    match same {
        // The same request repeated before the member has started.
        Some(member) if member.nonce.is_none() && member.replaces == add.replaces => Ok(Vec::new()),
        Some(member) => Err(Refusal::MemberExists { id: member.id, peer: add.peer.clone() }),
        None => {
            let id = state.last_member_id().max(add.floor).saturating_add(1);
            let (peer, replaces) = (add.peer.clone(), add.replaces);
            Ok(vec![Event::MemberAdded(MemberAdded { id, peer, replaces })])
        }
    }
}

/// Founding members have no `MemberAdded`: their first claim registers them.
pub(crate) fn decide_claim(state: &State, claim: &ClaimMember) -> Result<Vec<Event>, Refusal> {
    check_peer(&claim.peer)?;
    check_text("nonce", &claim.nonce)?;
    let id = claim.id;
    if state.members.removed.contains(&id) {
        return Err(Refusal::MemberIsRemoved { id });
    }
    match state.members.known.get(&id).and_then(|member| member.nonce.as_ref()) {
        Some(nonce) if *nonce == claim.nonce => Ok(Vec::new()),
        Some(_) => Err(Refusal::MemberIsClaimed { id }),
        None => {
            let (nonce, peer) = (claim.nonce.clone(), claim.peer.clone());
            Ok(vec![Event::MemberClaimed(MemberClaimed { id, nonce, peer })])
        }
    }
}

pub(crate) fn decide_remove(state: &State, member: &MemberRef) -> Result<Vec<Event>, Refusal> {
    if state.members.removed.contains(&member.id) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::MemberRemoved(MemberRemoved { id: member.id })])
}

fn check_peer(peer: &str) -> Result<(), Refusal> {
    check_text("peer", peer)?;
    let refuse = |why: &str| Err(Refusal::InvalidPeer { peer: peer.into(), why: why.into() });
    let Some((host, port)) = peer.rsplit_once(':') else {
        return refuse("it has no port");
    };
    if host.is_empty() || port.parse::<u16>().is_ok_and(|port| port == 0) {
        return refuse("host or port is missing");
    }
    if port.parse::<u16>().is_err() {
        return refuse("the port is not a number up to 65535");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return refuse("an IPv6 address goes in brackets");
    }
    Ok(())
}

/// Printable ASCII without spaces, of limited length.
fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MEMBER_TEXT_BYTES_MAX {
        let (size, max) = (text.len() as u64, MEMBER_TEXT_BYTES_MAX as u64);
        return Err(Refusal::TooLarge { field: field.into(), size, max });
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown: String = text.chars().flat_map(char::escape_default).collect();
        let why = format!("{field} must be printable ASCII, and not empty");
        return Err(Refusal::InvalidPeer { peer: shown, why });
    }
    Ok(())
}

impl Members {
    pub(crate) fn evolve_added(&mut self, added: &MemberAdded) {
        let MemberAdded { id, peer, replaces } = added.clone();
        self.known.insert(id, Member { id, peer, nonce: None, replaces });
    }

    pub(crate) fn evolve_claimed(&mut self, claimed: &MemberClaimed) {
        let MemberClaimed { id, nonce, peer } = claimed.clone();
        let replaces = self.known.get(&id).and_then(|member| member.replaces);
        self.known.insert(id, Member { id, peer, nonce: Some(nonce), replaces });
    }

    pub(crate) fn evolve_removed(&mut self, id: u64) {
        self.known.remove(&id);
        self.removed.insert(id);
    }
}

impl State {
    /// Members that were added or have started, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.known.values()
    }

    /// The member with an id, if it was added or has started.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.known.get(&id)
    }

    /// Whether a member of this id was removed: the id is never used again.
    #[must_use]
    pub fn member_is_removed(&self, id: u64) -> bool {
        self.members.removed.contains(&id)
    }

    /// The highest id ever assigned; 0 if none.
    #[must_use]
    pub fn last_member_id(&self) -> u64 {
        let present = self.members.known.get_max().map_or(0, |(id, _)| *id);
        present.max(self.members.removed.get_max().copied().unwrap_or(0))
    }
}
