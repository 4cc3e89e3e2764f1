//! A log and the objects of an API server, and the passes of the translation over both.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use romana_kubernetes::guard::{Guard, Guarded};
use romana_kubernetes::writes::{Write as Change, writes};
use romana_kubernetes::{ObjectName, Objects, Store, diff, translate};
use romana_statemachine::{Command, Entry, Millis, Outcome, Position, Proposal, State, Term};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The term in which the tests decide.
const TERM: Term = Term(1);

pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) objects: Objects,
    pub(crate) at: u64,
    guard: Guard,
    began: Instant,
}

fn put<K>(store: &mut Store<K>, object: Value) -> bool
where
    K: DeserializeOwned + Metadata<Ty = ObjectMeta>,
{
    let Ok(object) = serde_json::from_value::<K>(object) else { return false };
    store.insert(ObjectName::of(object.metadata()), Arc::new(object));
    true
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in members {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

impl Cluster {
    /// A cluster at the newest version, without topology.
    pub(crate) fn new() -> Self {
        let (state, objects, guard) = (State::new(), Objects::default(), Guard::default());
        let mut cluster = Self { state, objects, at: 0, guard, began: Instant::now() };
        let raise = |version: u16| {
            serde_json::from_value(json!({"RaiseVersion": {"version": version}})).unwrap()
        };
        let raises: Vec<Command> = (2..=romana_statemachine::VERSION_MAX).map(raise).collect();
        cluster.apply(&raises, &mut String::new());
        cluster
    }

    /// Creates or replaces an object. Its uid is its kind and name, and its version 1, if none is given.
    pub(crate) fn put(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.entry("uid").or_insert_with(|| json!(format!("{kind}-{name}").to_lowercase()));
            meta.entry("resourceVersion").or_insert_with(|| json!("1"));
        }
        assert!(self.try_put(&kind, object.clone()), "not a {kind}: {object}");
    }

    /// The same with any JSON; whether it is an object of the kind.
    pub(crate) fn try_put(&mut self, kind: &str, object: Value) -> bool {
        let objects = &mut self.objects;
        match kind {
            "Node" => put(&mut objects.nodes, object),
            "Namespace" => put(&mut objects.namespaces, object),
            "Pod" => put(&mut objects.pods, object),
            "NetworkPolicy" => put(&mut objects.policies, object),
            "Service" => put(&mut objects.services, object),
            "EndpointSlice" => put(&mut objects.slices, object),
            "Endpoints" => put(&mut objects.endpoints, object),
            _ => false,
        }
    }

    /// Deletes an object.
    pub(crate) fn delete(&mut self, kind: &str, name: &str) {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let name = &ObjectName { namespace: namespace.into(), name: name.into() };
        let objects = &mut self.objects;
        let found = match kind {
            "Node" => objects.nodes.remove(name).is_some(),
            "Namespace" => objects.namespaces.remove(name).is_some(),
            "Pod" => objects.pods.remove(name).is_some(),
            "NetworkPolicy" => objects.policies.remove(name).is_some(),
            "Service" => objects.services.remove(name).is_some(),
            "EndpointSlice" => objects.slices.remove(name).is_some(),
            _ => objects.endpoints.remove(name).is_some(),
        };
        assert!(found, "no {kind} {name}");
    }

    /// Changes a Service, which has the next version then.
    pub(crate) fn merge(&mut self, name: &str, patch: &Value) {
        let (namespace, name) = name.split_once('/').expect("namespace and name");
        let name = ObjectName { namespace: namespace.into(), name: name.into() };
        let mut object = serde_json::to_value(&*self.objects.services[&name]).unwrap();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>();
        merge(&mut object, patch);
        object["metadata"]["resourceVersion"] = json!((version.unwrap() + 1).to_string());
        assert!(put(&mut self.objects.services, object), "not a Service: {patch}");
    }

    /// The API server takes what is to be written into Services, until there is nothing left.
    pub(crate) fn write(&mut self, out: &mut String) {
        for _ in 0..4 {
            let changes = writes(&self.state, &self.objects, &translate(&self.objects));
            if changes.is_empty() {
                return;
            }
            for Change { service, version, status, patch } in changes {
                let part = if status { " status" } else { "" };
                writeln!(out, "patch {service}{part} {patch}").unwrap();
                assert_eq!(patch["metadata"]["resourceVersion"], version, "{service}");
                self.merge(&format!("{}/{}", service.namespace, service.name), &patch);
            }
        }
        panic!("Services are written again and again: {out}");
    }

    /// Applies commands in one entry, and writes the events and refusals.
    pub(crate) fn apply(&mut self, commands: &[Command], out: &mut String) -> Vec<Outcome> {
        let proposal =
            |command: &Command| Proposal { actor: "test".into(), command: command.clone() };
        let proposals = commands.iter().map(proposal).collect();
        let position = Position { term: TERM, index: self.state.index().next() };
        let (outcomes, records) =
            self.state.apply(position, &Entry { at: Millis(self.at), proposals });
        for record in &records {
            writeln!(out, "  {}", record.event).unwrap();
        }
        for (command, outcome) in commands.iter().zip(&outcomes) {
            if let Err(refusal) = &outcome.result {
                writeln!(out, "  refused {}: {refusal} ({command})", refusal.code()).unwrap();
            }
        }
        if let Err(wrong) = self.state.validate() {
            panic!("{}", wrong.join("\n"));
        }
        outcomes
    }

    /// The objects are those of a complete list.
    pub(crate) fn listed(&mut self) {
        self.guard.listed(self.began + Duration::from_millis(self.at));
    }

    /// One pass: everything that is planned is accepted, has an effect, and leaves nothing to plan.
    pub(crate) fn pass(&mut self, out: &mut String) -> Guarded {
        let translation = translate(&self.objects);
        let unguarded = diff(&self.state, &translation, TERM);
        let guarded = self.guard.plan(&self.state, &self.objects, &translation, TERM);
        if guarded.held.is_none() {
            let follows = |command: &&Command| !matches!(command, Command::FollowKubernetes(_));
            let plan: Vec<&Command> = guarded.plan.commands.iter().filter(follows).collect();
            assert_eq!(plan, unguarded.commands.iter().collect::<Vec<_>>(), "nothing is held");
        }
        for command in &guarded.plan.commands {
            writeln!(out, "{command}").unwrap();
            let before = self.state.revision();
            let outcomes = self.apply(std::slice::from_ref(command), out);
            assert!(outcomes[0].result.is_ok(), "{command}: {outcomes:?}");
            assert_ne!(self.state.revision(), before, "{command} has no effect");
        }
        let again = self.guard.plan(&self.state, &self.objects, &translation, TERM);
        assert_eq!(again.plan.commands, [], "there is something left to do");
        assert_eq!(again.plan.problems, guarded.plan.problems, "the problems have changed");
        assert_eq!(again.held, guarded.held, "what is held back has changed");
        guarded
    }
}
