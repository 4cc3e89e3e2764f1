//! What the log should have by the objects of the API server, by simple rules of its own: the judge does not use the
//! translation that it judges. Only for objects as [`Driver`](super::Driver) makes them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use romana_statemachine::command::{Endpoint, HostState, ObjectKey, Source};
use romana_statemachine::name::{HostName, SourceUid};
use romana_statemachine::policy::Port;
use romana_statemachine::{Labels, State};
use serde_json::Value;

use super::changes::{NAMESPACES_PATH, NODES_PATH};
use super::own;
use crate::cluster::Objects;

/// The label of every namespace with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// An object that the log should have.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// `drained`: its Node is unschedulable.
    Host {
        ip: IpAddr,
        labels: Labels,
        drained: bool,
    },
    Tenant {
        labels: Labels,
    },
    Endpoint(Endpoint),
    /// `port`: the only one of its only rule.
    Policy {
        port: u16,
    },
    Vip {
        ip: IpAddr,
        candidates: Vec<HostName>,
    },
}

/// All that the log should have from Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The uid of namespace `kube-system`, the identity of the cluster.
    pub cluster: SourceUid,
    pub objects: BTreeMap<ObjectKey, (Source, Wanted)>,
}

impl Asked {
    /// Reads the objects of an API server while nobody changes them.
    ///
    /// # Errors
    /// It does not answer, or has an object that lacks what every object has.
    pub(super) async fn read(objects: &Objects, slices: bool) -> Result<Self> {
        let mut asked = Self { cluster: "".into(), objects: BTreeMap::new() };
        for node in objects.list(NODES_PATH).await? {
            asked.add("Node", &node, host(&node)?);
        }
        for namespace in objects.list(NAMESPACES_PATH).await? {
            if name(&namespace) == "kube-system" {
                asked.cluster = uid(&namespace);
            }
            let key = ObjectKey::Tenant(name(&namespace).into());
            let mut labels = labels(&namespace);
            // Servers before 1.21 do not set it.
            labels.insert(NAME_LABEL.into(), name(&namespace).into());
            asked.add("Namespace", &namespace, Some((key, Wanted::Tenant { labels })));
        }
        for pod in objects.list("/api/v1/pods").await? {
            asked.add("Pod", &pod, endpoint(&pod)?);
        }
        for policy in objects.list("/apis/networking.k8s.io/v1/networkpolicies").await? {
            let port = policy.pointer("/spec/ingress/0/ports/0/port").and_then(Value::as_u64);
            let port = u16::try_from(port.context("a policy has no port")?)?;
            let key = format!("kube.{}.{}", namespace(&policy), name(&policy));
            let key = ObjectKey::Policy(key.as_str().into());
            asked.add("NetworkPolicy", &policy, Some((key, Wanted::Policy { port })));
        }
        let backends = Backends::read(objects, slices).await?;
        for service in objects.list("/api/v1/services").await? {
            asked.add("Service", &service, backends.vip(&service)?);
        }
        Ok(asked)
    }

    fn add(&mut self, kind: &str, object: &Value, wanted: Option<(ObjectKey, Wanted)>) {
        let Some((key, wanted)) = wanted.filter(|(key, _)| !own::is_own(key)) else { return };
        let source = Source { kind: kind.into(), uid: uid(object) };
        self.objects.insert(key, (source, wanted));
    }
}

fn host(node: &Value) -> Result<Option<(ObjectKey, Wanted)>> {
    let ip = node.pointer("/status/addresses/0/address").and_then(Value::as_str);
    let ip = ip.context("a Node has no address")?.parse()?;
    let drained = node["spec"]["unschedulable"].as_bool().unwrap_or_default();
    let labels = labels(node);
    Ok(Some((ObjectKey::Host(name(node).into()), Wanted::Host { ip, labels, drained })))
}

/// The endpoint of a pod that has an address and has not ended.
fn endpoint(pod: &Value) -> Result<Option<(ObjectKey, Wanted)>> {
    let Some(ip) = pod["status"]["podIP"].as_str() else { return Ok(None) };
    if pod["status"]["phase"] != "Running" {
        return Ok(None);
    }
    let (ip, labels) = (ip.parse()?, labels(pod));
    let segment = labels.get("romana.io/segment").map_or("default", String::as_str).into();
    let host = pod["spec"]["nodeName"].as_str().context("a pod is on no Node")?.into();
    let (tenant, ports) = (namespace(pod).into(), Vec::new());
    let endpoint = Endpoint { ip, tenant, segment, host, labels, ports };
    Ok(Some((ObjectKey::Endpoint(ip), Wanted::Endpoint(endpoint))))
}

/// The Node of the one endpoint of each Service, by namespace and name.
struct Backends(BTreeMap<(String, String), HostName>);

impl Backends {
    async fn read(objects: &Objects, slices: bool) -> Result<Self> {
        let (list, node) = match slices {
            true => ("/apis/discovery.k8s.io/v1/endpointslices", "/endpoints/0/nodeName"),
            false => ("/api/v1/endpoints", "/subsets/0/addresses/0/nodeName"),
        };
        let mut backends = BTreeMap::new();
        for backend in objects.list(list).await? {
            // That of the API server itself has none.
            let Some(node) = backend.pointer(node).and_then(Value::as_str) else { continue };
            let of = (namespace(&backend).to_owned(), name(&backend).to_owned());
            backends.insert(of, HostName::from(node));
        }
        Ok(Self(backends))
    }

    /// The VIP of a Service that asks for one and has an endpoint.
    fn vip(&self, service: &Value) -> Result<Option<(ObjectKey, Wanted)>> {
        let annotation = service["metadata"]["annotations"]["romanaip"].as_str();
        let (namespace, name) = (namespace(service).to_owned(), name(service).to_owned());
        let key = ObjectKey::Vip(format!("{name}.{namespace}").as_str().into());
        let node = self.0.get(&(namespace, name));
        let Some((annotation, node)) = annotation.zip(node) else { return Ok(None) };
        let request: Value = serde_json::from_str(annotation)?;
        let ip = request["ip"].as_str().context("a Service asks for no address")?.parse()?;
        Ok(Some((key, Wanted::Vip { ip, candidates: vec![node.clone()] })))
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn uid(object: &Value) -> SourceUid {
    object["metadata"]["uid"].as_str().unwrap_or_default().into()
}

fn labels(object: &Value) -> Labels {
    let labels = object["metadata"]["labels"].as_object();
    let pair = |(key, value): (&String, &Value)| {
        (key.clone(), value.as_str().unwrap_or_default().to_owned())
    };
    labels.into_iter().flatten().map(pair).collect()
}

/// Where a state differs from what is asked for: something is missing, is other than it should be, or is there although
/// no object asks for it.
#[must_use]
pub fn differences(state: &State, asked: &Asked) -> Vec<String> {
    let mut found = own::differences(state);
    let followed = state.kubernetes().and_then(|followed| followed.cluster);
    if followed.as_ref() != Some(&asked.cluster) {
        found.push(format!("cluster {} is followed as {followed:?}", asked.cluster));
    }
    for (key, (source, wanted)) in &asked.objects {
        match state.source(key) {
            None => found.push(format!("{key} is not there, which {source} asks for")),
            Some(other) if other != source => {
                found.push(format!("{key} comes from {other} instead of {source}"));
            }
            Some(_) if !is_as_wanted(state, key, wanted) => {
                found.push(format!("{key} is not as {source} asks for: {wanted:?}"));
            }
            Some(_) => {}
        }
    }
    let sources = state.sources().filter(|(key, _)| **key != ObjectKey::Kubernetes);
    for (key, source) in sources.filter(|(key, _)| !asked.objects.contains_key(*key)) {
        found.push(format!("{key} from {source} is there, and no object asks for it"));
    }
    found
}

fn is_as_wanted(state: &State, key: &ObjectKey, wanted: &Wanted) -> bool {
    match (key, wanted) {
        (ObjectKey::Host(name), Wanted::Host { ip, labels, drained }) => {
            state.host(name).is_some_and(|host| {
                let is_drained = host.state == HostState::Draining;
                host.ip == *ip && host.labels == *labels && is_drained == *drained
            })
        }
        (ObjectKey::Tenant(id), Wanted::Tenant { labels }) => {
            state.tenant(id).is_some_and(|tenant| tenant.labels == *labels)
        }
        (ObjectKey::Endpoint(ip), Wanted::Endpoint(endpoint)) => {
            state.endpoint(*ip) == Some(endpoint)
        }
        (ObjectKey::Policy(name), Wanted::Policy { port }) => {
            let policy = state.policy(name);
            let traffic = policy.and_then(|policy| policy.ingress.first()?.traffic.first());
            traffic.is_some_and(|traffic| traffic.ports == [Port::Number(*port)])
        }
        (ObjectKey::Vip(name), Wanted::Vip { ip, candidates }) => {
            state.vip(name).is_some_and(|vip| vip.ip == *ip && vip.candidates == *candidates)
        }
        _ => false,
    }
}
