//! What is held back when the API server lists much less than the log has from it: it may be another cluster's, or an
//! empty one, and a host without a Node is evicted with all that runs there. Pure.
//!
//! Only what a complete list lacks is in doubt. What a watch reports as deleted has been deleted.
//!
//! | the list | then |
//! |---|---|
//! | is that of another cluster: another uid of namespace `kube-system`, or none | nothing is imported or withdrawn |
//! | lacks the Nodes of all hosts, or of three and more than half of them | no host is withdrawn |
//! | has no object of another kind, of which the log has three or more | none is withdrawn before another such list |
//!
//! An operator confirms the first two (`romana kubernetes confirm`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use romana_statemachine::command::{FollowKubernetes, ObjectKey};
use romana_statemachine::name::SourceUid;
use romana_statemachine::{Command, State, Term, plural, version};

use crate::desired::Translation;
use crate::diff::{Plan, diff_but};
use crate::held::HeldKind;
use crate::objects::{ObjectName, Objects};

/// The namespace that every cluster has, as long as it lives.
const KUBE_SYSTEM: &str = "kube-system";
/// Number of hosts, or of objects of another kind, from which on a share or the absence of all is in doubt.
const MANY: usize = 3;
/// Time between two lists that have no object of a kind, after which that is believed.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Names in a message.
const NAMES_MAX: usize = 5;
/// Kinds that may be withdrawn when another list confirms it.
const OTHERS: [HeldKind; 4] =
    [HeldKind::Tenant, HeldKind::Policy, HeldKind::Endpoint, HeldKind::Vip];

/// What is planned, and what is held back of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guarded {
    pub plan: Plan,
    /// Why objects are held back, and the remedy; `None`: none are.
    pub held: Option<String>,
    /// The number of objects that are not withdrawn.
    pub count: usize,
    /// Whether the API server is that of another cluster than the followed one: nothing is written to it.
    pub foreign: bool,
    /// Another complete list should follow after this time.
    pub list_after: Option<Duration>,
}

/// Remembers what is in doubt between passes.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Whether the objects are those of a complete list, and of changes after it, that no pass has taken as they are.
    unproven: bool,
    /// Kinds of which a complete list had no object, and when the first such list arrived.
    empty: BTreeMap<HeldKind, Instant>,
    /// When the last complete list arrived.
    listed: Option<Instant>,
}

/// What is in doubt.
enum Doubt {
    Nothing,
    /// The whole list: why, and the remedy.
    List(String),
    /// Some kinds, and the number of objects that are not withdrawn.
    Kinds(Vec<(HeldKind, String)>, usize),
}

impl Guard {
    /// A complete list has arrived.
    pub fn listed(&mut self, now: Instant) {
        self.unproven = true;
        self.listed = Some(now);
    }

    /// Plans what is not in doubt. Everything that is planned must be proposed, or planned again.
    pub fn plan(
        &mut self,
        state: &State,
        objects: &Objects,
        translation: &Translation,
        term: Term,
    ) -> Guarded {
        if state.version() < version::SOURCES {
            return Guarded::default();
        }
        let cluster = identity(objects);
        let followed = state.kubernetes();
        let confirmed = followed.as_ref().is_some_and(|followed| followed.confirmed);
        let known = followed.and_then(|followed| followed.cluster);
        let doubt = match other_cluster(known.as_ref(), cluster.as_ref()) {
            Some(why) => Doubt::List(why),
            None if confirmed || !self.unproven => Doubt::Nothing,
            None => self.doubt(state, objects, translation),
        };
        let (held, count, kinds) = match doubt {
            Doubt::List(why) => {
                let count = state.sources().filter(|(key, _)| HeldKind::of(key).is_some()).count();
                return Guarded { held: Some(why), count, foreign: true, ..Guarded::default() };
            }
            Doubt::Nothing => (None, 0, Vec::new()),
            Doubt::Kinds(kinds, count) => {
                let whys: Vec<&str> = kinds.iter().map(|(_, why)| why.as_str()).collect();
                (Some(whys.join(" ")), count, kinds.into_iter().map(|(kind, _)| kind).collect())
            }
        };
        let mut plan = diff_but(state, translation, term, &kinds);
        follow(&mut plan, known.as_ref(), cluster, confirmed, term);
        if held.is_none() {
            (self.unproven, self.empty) = (false, BTreeMap::new());
        }
        let again = held.is_some() && !kinds.contains(&HeldKind::Host);
        let list_after = again.then_some(AGAIN_AFTER);
        Guarded { plan, held, count, foreign: false, list_after }
    }

    fn doubt(&mut self, state: &State, objects: &Objects, translation: &Translation) -> Doubt {
        let (mut kinds, mut count) = (Vec::new(), 0);
        if let Some((why, absent)) = absent_hosts(state, translation) {
            kinds.push((HeldKind::Host, why));
            count += absent;
        }
        for kind in OTHERS {
            let there = of_kubernetes(state, kind).count();
            if there < MANY || !is_empty(kind, objects) {
                self.empty.remove(&kind);
                continue;
            }
            let Some(listed) = self.listed else { continue };
            let first = *self.empty.entry(kind).or_insert(listed);
            if listed.duration_since(first) < AGAIN_AFTER {
                let why = format!(
                    "The API server lists no {}, and the log has {there} from there: they are not withdrawn until \
                     another list says the same.",
                    in_words(kind),
                );
                kinds.push((kind, why));
                count += there;
            }
        }
        if kinds.is_empty() { Doubt::Nothing } else { Doubt::Kinds(kinds, count) }
    }
}

/// What the API server lists of a kind.
fn in_words(kind: HeldKind) -> &'static str {
    match kind {
        HeldKind::Host => "Nodes",
        HeldKind::Tenant => "Namespaces",
        HeldKind::Policy => "NetworkPolicies",
        HeldKind::Endpoint => "Pods",
        HeldKind::Vip => "Services",
    }
}

fn is_empty(kind: HeldKind, objects: &Objects) -> bool {
    match kind {
        HeldKind::Host => objects.nodes.is_empty(),
        HeldKind::Tenant => objects.namespaces.is_empty(),
        HeldKind::Policy => objects.policies.is_empty(),
        HeldKind::Endpoint => objects.pods.is_empty(),
        HeldKind::Vip => objects.services.is_empty(),
    }
}

/// Objects of a kind that come from Kubernetes.
fn of_kubernetes(state: &State, kind: HeldKind) -> impl Iterator<Item = &ObjectKey> {
    state.sources().map(|(key, _)| key).filter(move |key| HeldKind::of(key) == Some(kind))
}

/// The identity of a cluster: the uid of a namespace that is as old as it.
fn identity(objects: &Objects) -> Option<SourceUid> {
    let name = ObjectName { namespace: String::new(), name: KUBE_SYSTEM.into() };
    let uid = objects.namespaces.get(&name)?.metadata.uid.as_deref()?;
    Some(uid.into())
}

/// Why the objects are those of another cluster than the followed one.
fn other_cluster(known: Option<&SourceUid>, cluster: Option<&SourceUid>) -> Option<String> {
    match (known?, cluster) {
        (known, Some(cluster)) if known == cluster => None,
        (known, Some(cluster)) => Some(format!(
            "The API server is that of another Kubernetes cluster, {cluster}; this one follows {known} (the uids of \
             namespace {KUBE_SYSTEM}). Nothing of it is imported, and nothing is withdrawn. Correct the kubeconfig of \
             romanad. If the cluster was made anew, `romana kubernetes confirm {cluster}`: hosts without a Node are \
             evicted then."
        )),
        (known, None) => Some(format!(
            "The API server does not list namespace {KUBE_SYSTEM}, which every cluster has; this one follows {known}. \
             Nothing is imported or withdrawn. Look at the API server and its etcd, and at the kubeconfig of romanad."
        )),
    }
}

/// Why hosts are not withdrawn, and how many: too many of them have no Node.
fn absent_hosts(state: &State, translation: &Translation) -> Option<(String, usize)> {
    let all = of_kubernetes(state, HeldKind::Host).count();
    let is_absent = |key: &&ObjectKey| !translation.has(key);
    let absent: Vec<&ObjectKey> = of_kubernetes(state, HeldKind::Host).filter(is_absent).collect();
    let lost = absent.len();
    if lost == 0 || lost < all && (lost < MANY || lost * 2 <= all) {
        return None;
    }
    let names: Vec<String> = absent.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let more = if lost > NAMES_MAX { ", …" } else { "" };
    let why = format!(
        "The API server lists no Node for {} of {} ({}{more}): they are not withdrawn, as all that runs there would be \
         evicted. If these Nodes were deleted, `romana kubernetes confirm`.",
        lost,
        plural(all as u64, "host"),
        names.join(", "),
    );
    Some((why, lost))
}

/// Records the cluster at first sight, and ends a confirmation when the plan has been carried out.
fn follow(
    plan: &mut Plan,
    known: Option<&SourceUid>,
    cluster: Option<SourceUid>,
    confirmed: bool,
    term: Term,
) {
    let command =
        |cluster| Command::FollowKubernetes(FollowKubernetes { cluster, term: Some(term) });
    if known.is_none() && cluster.is_some() && !confirmed {
        plan.commands.insert(0, command(cluster));
    } else if confirmed {
        plan.commands.push(command(cluster));
    }
}
