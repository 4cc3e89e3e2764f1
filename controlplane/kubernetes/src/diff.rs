//! What the log has, against what it should have → commands.
//!
//! Every command is decided on a copy of the state first: one that changes nothing is not proposed, and one that is
//! refused is a problem of its object and does not hold up the others. So the commands are those that have an effect,
//! in an order in which they are accepted:
//!
//! 1. hosts, tenants, policies, endpoints, VIPs are created and changed: what replaces something is there before that
//!    goes, and an endpoint finds its policies;
//! 2. VIPs, endpoints, policies, hosts, tenants are withdrawn;
//! 3. the same again on the changed copy, until nothing changes: the address of a host or a VIP may be free now.

mod ownership;
mod trial;

use std::collections::BTreeSet;

use romana_statemachine::command::{Imported, ObjectKey, VipSpec, WithdrawObject};
use romana_statemachine::{Command, Refusal, State, Term, parse_cidr, version};

use crate::desired::{Desired, Translation, Wanted};
use crate::held::HeldKind;
use crate::problem::Problem;
use ownership::Claim;
use trial::Trial;

/// Kinds of sources whose objects are withdrawn when no object asks for them.
const KINDS: [&str; 5] = ["Node", "Namespace", "Pod", "NetworkPolicy", "Service"];

/// Rounds of one plan. Two are usual; the rest is for hosts or VIPs that wait for the address of another, in a row.
/// What is left then is in the next plan.
const ROUNDS_MAX: usize = 16;

/// What to propose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they must be proposed; empty: nothing has changed. There may be more than one entry takes
    /// ([`ENTRY_COMMANDS_MAX`](romana_statemachine::limits::ENTRY_COMMANDS_MAX)).
    pub commands: Vec<Command>,
    /// All problems that there are now, sorted: those of the translation, and what the log refuses.
    pub problems: Vec<Problem>,
}

/// The commands that give the log what it should have. They carry the term, and are refused in a later one. After they
/// have been applied, there are none for the same objects. Nothing before the cluster's version is
/// [`version::SOURCES`].
///
/// What is refused now may be accepted later without a change in Kubernetes (a tenant is deleted when its blocks have
/// been returned), so this is to be called after changes of the state too.
#[must_use]
pub fn diff(state: &State, translation: &Translation, term: Term) -> Plan {
    diff_but(state, translation, term, &[])
}

/// The same, without withdrawing objects of some kinds.
pub(crate) fn diff_but(
    state: &State,
    translation: &Translation,
    term: Term,
    held: &[HeldKind],
) -> Plan {
    if state.version() < version::SOURCES {
        return Plan::default();
    }
    let mut run = Run::new(state, translation, term, held);
    let mut refused = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let before = run.trial.commands.len();
        refused = run.round();
        if run.trial.commands.len() == before && !run.break_cycle(&refused) {
            break;
        }
    }
    run.finish(state, &refused)
}

/// An object that the log refuses, and why.
type Refused<'a> = (&'a Desired, Refusal);

struct Run<'a> {
    translation: &'a Translation,
    trial: Trial,
    /// Kinds of which nothing is withdrawn.
    held: &'a [HeldKind],
    /// Endpoints that are not those of the pods that show their addresses.
    lost: BTreeSet<ObjectKey>,
    problems: Vec<Problem>,
}

impl<'a> Run<'a> {
    fn new(state: &State, translation: &'a Translation, term: Term, held: &'a [HeldKind]) -> Self {
        let trial = Trial::new(state, term);
        Self { translation, trial, held, lost: BTreeSet::new(), problems: Vec::new() }
    }

    /// Imports what is wanted and withdraws what is not; returns what is refused.
    fn round(&mut self) -> Vec<Refused<'a>> {
        self.problems.clone_from(&self.translation.problems);
        self.lost.clear();
        let mut refused = Vec::new();
        for desired in self.wanted() {
            refused.extend(self.trial.import(desired).err().map(|refusal| (desired, refusal)));
        }
        self.withdraw(&refused);
        refused
    }

    /// The objects to import, in order. Of VIPs the one of the older Service comes first; those that ask for a certain
    /// address come before those that take any of a pool.
    fn wanted(&mut self) -> Vec<&'a Desired> {
        let translation = self.translation;
        let mut wanted = Vec::with_capacity(translation.desired.len());
        for (key, desired) in &translation.desired {
            let rivals = translation.rivals.get(key).map(Vec::as_slice).unwrap_or_default();
            match self.owner(key, desired, rivals) {
                Some(owner) => wanted.push((phase(key), key, owner)),
                None => _ = self.lost.insert(key.clone()),
            }
        }
        wanted.sort_by_key(|(phase, key, desired)| {
            let created = desired.created.as_ref().filter(|_| matches!(key, ObjectKey::Vip(_)));
            let pooled = matches!(desired.wanted, Wanted::VipFromPool(_));
            (*phase, pooled, created, *key)
        });
        wanted.into_iter().map(|(_, _, desired)| desired).collect()
    }

    /// The object that decides what is at a key: of several pods that show one address the one that it is allocated to,
    /// else the newest one. For the others it is a problem, unless they are being deleted.
    fn owner(
        &mut self,
        key: &ObjectKey,
        newest: &'a Desired,
        rivals: &'a [Desired],
    ) -> Option<&'a Desired> {
        let mut owner = None;
        let mut holder = None;
        for desired in [newest].into_iter().chain(rivals) {
            match ownership::claim(&self.trial.state, desired) {
                Claim::Own if owner.is_none() => owner = Some(desired),
                Claim::Another(name) => holder = Some(name),
                Claim::Own | Claim::Ended => {}
            }
        }
        let others = [newest].into_iter().chain(rivals).filter(|desired| !desired.ending);
        for other in others.filter(|other| owner.is_none_or(|owner| !std::ptr::eq(owner, *other))) {
            let whose = match (&holder, owner) {
                (Some(name), _) => format!("the address is allocated as {name}"),
                (None, Some(owner)) => format!("the address is that of {}", owner.object),
                (None, None) => continue,
            };
            let message = format!("{key} is not its own: {whose}. Restart it.");
            self.problems.push(other.object.problem("AddressOfAnotherPod", message));
        }
        owner
    }

    /// Withdraws a VIP that is to get another address, if another VIP waits for the one it has: two VIPs that exchange
    /// their addresses wait for each other.
    fn break_cycle(&mut self, refused: &[Refused<'a>]) -> bool {
        let waiting = refused.iter().filter_map(|(desired, _)| match &desired.wanted {
            Wanted::Object(Imported::Vip(spec)) => Some(spec),
            _ => None,
        });
        let waiting: Vec<&VipSpec> = waiting.collect();
        let moves = |spec: &&&VipSpec| {
            let has = self.trial.state.vip(&spec.name).map(|vip| vip.ip);
            has.is_some_and(|ip| ip != spec.ip && waiting.iter().any(|other| other.ip == ip))
        };
        let keys = waiting.iter().filter(moves).map(|spec| ObjectKey::Vip(spec.name.clone()));
        let keys: Vec<ObjectKey> = keys.collect();
        keys.iter().any(|key| self.withdraw_one(key))
    }

    /// Withdraws what came from Kubernetes and is not wanted any more.
    fn withdraw(&mut self, refused: &[Refused<'a>]) {
        let mut left = self.unwanted(refused);
        left.sort_by_key(last_phase);
        for key in &left {
            self.withdraw_one(key);
        }
    }

    fn unwanted(&self, refused: &[Refused<'a>]) -> Vec<ObjectKey> {
        // The endpoint of a pod that is gone must not decide for the next user of its address.
        let replaced = refused.iter().filter(|(desired, _)| {
            let (key, source) = (desired.wanted.key(), &desired.source);
            let found = self.trial.state.source(&key);
            matches!(key, ObjectKey::Endpoint(_)) && found.is_some_and(|found| found != source)
        });
        let replaced: BTreeSet<_> = replaced.map(|(desired, _)| desired.wanted.key()).collect();
        let occupied = ownership::occupied(&self.trial.state, self.translation);
        let unwanted = self.trial.state.sources().filter(|(key, source)| {
            let wanted = self.translation.desired.contains_key(*key) && !self.lost.contains(*key);
            let is_held = HeldKind::of(key).is_some_and(|kind| self.held.contains(&kind));
            let stays = wanted && !replaced.contains(*key)
                || self.translation.kept.contains(*key)
                || occupied.contains(*key)
                || is_held && !replaced.contains(*key);
            !stays && KINDS.contains(&source.kind.as_str())
        });
        unwanted.map(|(key, _)| key.clone()).collect()
    }

    /// Withdraws an object; returns whether that is accepted. A tenant that still owns blocks stays until they have
    /// been returned.
    fn withdraw_one(&mut self, object: &ObjectKey) -> bool {
        let Some(source) = self.trial.state.source(object) else { return false };
        let (object, uid, term) = (object.clone(), source.uid.clone(), self.trial.term);
        let withdraw = WithdrawObject { object, uid, term };
        self.trial.attempt(Command::WithdrawObject(withdraw)).is_ok()
    }

    fn finish(mut self, state: &State, refused: &[Refused<'a>]) -> Plan {
        let refused = refused.iter().map(|(desired, refusal)| desired.object.refused(refusal));
        self.problems.extend(refused);
        self.problems.extend(overlaps(state, self.translation));
        self.problems.extend(other_segments(&self.trial.state, self.translation));
        self.problems.sort();
        self.problems.dedup();
        Plan { commands: self.trial.commands, problems: self.problems }
    }
}

/// The position of a kind of object in the order of imports.
fn phase(key: &ObjectKey) -> u8 {
    match key {
        ObjectKey::Host(_) => 0,
        ObjectKey::Tenant(_) => 1,
        ObjectKey::Policy(_) => 2,
        ObjectKey::Endpoint(_) => 3,
        ObjectKey::Vip(_) => 4,
        ObjectKey::Kubernetes => 5,
    }
}

/// The position of a kind of object in the order of withdrawals: a tenant when nothing of its is left.
fn last_phase(key: &ObjectKey) -> u8 {
    match key {
        ObjectKey::Vip(_) => 0,
        ObjectKey::Endpoint(_) => 1,
        ObjectKey::Policy(_) => 2,
        ObjectKey::Host(_) => 3,
        ObjectKey::Tenant(_) => 4,
        ObjectKey::Kubernetes => 5,
    }
}

/// Nodes to which Kubernetes has assigned ranges of a network: what takes addresses from there gives them out twice.
fn overlaps<'a>(
    state: &'a State,
    translation: &'a Translation,
) -> impl Iterator<Item = Problem> + 'a {
    translation.pod_cidrs.iter().filter_map(|(object, text)| {
        let cidr = parse_cidr(text).ok()?;
        let networks = state.topology()?.networks();
        let network = networks.iter().find(|network| {
            network.cidr.contains(&cidr) || cidr.contains(&network.cidr)
        })?;
        let message = format!(
            "its podCIDR {cidr} shares addresses with network {} ({}). Romana does not use podCIDRs: make sure that \
             nothing else gives out addresses from it (kube-controller-manager --allocate-node-cidrs=false).",
            network.name, network.cidr
        );
        Some(object.problem("PodCIDROverlapsNetwork", message))
    })
}

/// Pods whose addresses were allocated for another segment: the label was changed while the pod runs, or the address
/// was taken from the reserve of its node. Policies go by the pod's segment; what goes by blocks does not.
fn other_segments<'a>(
    state: &'a State,
    translation: &'a Translation,
) -> impl Iterator<Item = Problem> + 'a {
    translation.desired.iter().filter(|(_, desired)| !desired.ending).filter_map(|(key, desired)| {
        let Wanted::Object(Imported::Endpoint(endpoint)) = &desired.wanted else { return None };
        let segment = &state.ipam().block_of(endpoint.ip)?.owner().segment;
        if *segment == endpoint.segment || state.source(key) != Some(&desired.source) {
            return None;
        }
        // The rest of a block is not allocated.
        state.ipam().by_ip(endpoint.ip)?;
        let message = format!(
            "its address {} was allocated in segment {segment}, and the pod is of segment {}. Policies treat it as of \
             {}; routers and others that go by blocks do not. Create the pod again to get an address of its segment.",
            endpoint.ip, endpoint.segment, endpoint.segment
        );
        Some(desired.object.problem("AddressOfOtherSegment", message))
    })
}
