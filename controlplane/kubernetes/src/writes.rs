//! Where Services show their VIPs, against where they should → patches; and their way to the API server.
//!
//! A VIP is shown while the log has it: in `spec.externalIPs` of a Service that asks by annotation, in
//! `status.loadBalancer` of a load balancer of our class. Entries of others in `spec.externalIPs` stay, and so does one
//! of the same address that was there before: what is ours is noted in annotation `romana.io/vip-status`.
//!
//! [`writes`] decides (pure), [`send`] sends. Each patch names the version of the object that it was made for, so that
//! the API server refuses it if the object has changed since; the next pass sees that.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use romana_statemachine::command::ObjectKey;
use romana_statemachine::{State, Vip, version};
use serde_json::{Map, Value, json};

use crate::desired::Translation;
use crate::objects::{ObjectName, Objects};
use crate::problem::{ObjectRef, Problem};
use crate::shown::{ANNOTATION, Record, Shown, ShownVip};

/// A change of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub service: ObjectRef,
    /// The version of the object that the patch was made for.
    pub version: String,
    /// Whether it goes to the subresource `status`.
    pub status: bool,
    /// A JSON merge patch.
    pub patch: Value,
}

/// The changes that make the Services show the VIPs that the log has, at most one of each Service: what else there is
/// follows when that has arrived.
#[must_use]
pub fn writes(state: &State, objects: &Objects, translation: &Translation) -> Vec<Write> {
    if state.version() < version::SOURCES {
        return Vec::new();
    }
    let living =
        objects.services.values().filter(|service| service.metadata.deletion_timestamp.is_none());
    let changes = living.filter_map(|service| {
        let (ours, wanted) = (Record::of(service), wanted(state, translation, service));
        external(service, &ours, &wanted).or_else(|| ingress(service, &ours, &wanted))
    });
    changes.collect()
}

/// What a Service should show.
fn wanted(state: &State, translation: &Translation, service: &Service) -> Record {
    // Of a request that is not understood, the VIPs stay that the Service had itself.
    let own = ShownVip::of(service);
    let kept = translation.kept.contains(&ObjectKey::Vip(own.name.clone())).then_some(&own);
    let shown = translation.shown.get(&ObjectName::of(&service.metadata));
    let found = kept.into_iter().chain(shown).find_map(|shown| {
        let vips = shown.all().filter_map(|vip| in_log(state, &vip));
        let addresses: Vec<String> = vips.map(|vip| vip.ip.to_string()).collect();
        (!addresses.is_empty()).then(|| (shown.name.to_string(), addresses))
    });
    let Some((name, addresses)) = found else { return Record::default() };
    let vip = Some(name);
    match Shown::of(service) {
        Shown::External => Record { vip, external: addresses, ..Record::default() },
        Shown::LoadBalancer => Record { vip, ingress: addresses, ..Record::default() },
    }
}

/// The VIP, if the log has it from its owner.
fn in_log<'a>(state: &'a State, shown: &ShownVip) -> Option<&'a Vip> {
    let source = state.source(&ObjectKey::Vip(shown.name.clone()))?;
    state.vip(&shown.name).filter(|_| source.uid == shown.owner)
}

/// The change of `spec.externalIPs`, if there is one.
fn external(service: &Service, ours: &Record, wanted: &Record) -> Option<Write> {
    let spec = service.spec.as_ref();
    let actual = spec.and_then(|spec| spec.external_ips.as_deref()).unwrap_or_default();
    let stays = |ip: &&String| !has(&ours.external, ip) || has(&wanted.external, ip);
    let mut entries: Vec<String> = actual.iter().filter(stays).cloned().collect();
    let mut noted = Vec::new();
    for ip in &wanted.external {
        let there = has(&entries, ip);
        if !there || has(&ours.external, ip) {
            noted.push(ip.clone());
        }
        if !there {
            entries.push(ip.clone());
        }
    }
    // Of a load balancer, it is noted with its status.
    let balances = !wanted.ingress.is_empty() || !ours.ingress.is_empty();
    let vip = if balances { ours.vip.clone() } else { wanted.vip.clone() };
    let record = Record { vip, external: noted, ingress: ours.ingress.clone() };
    if entries == actual && record == *ours {
        return None;
    }
    let mut patch = noting(service, &record);
    if entries != actual {
        let entries = (!entries.is_empty()).then_some(entries);
        patch.insert("spec".into(), json!({ "externalIPs": entries }));
    }
    Some(write(service, false, patch))
}

/// The change of `status.loadBalancer`, if there is one.
fn ingress(service: &Service, ours: &Record, wanted: &Record) -> Option<Write> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let actual = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let entries = match Shown::of(service) {
        Shown::LoadBalancer => balanced(actual, &wanted.ingress),
        // It was a load balancer of our class before: what others have written since stays.
        Shown::External => {
            let stays = |entry: &&LoadBalancerIngress| {
                entry.ip.as_ref().is_none_or(|ip| !has(&ours.ingress, ip))
            };
            actual.iter().filter(stays).cloned().collect()
        }
    };
    let (vip, external) = (wanted.vip.clone(), ours.external.clone());
    let record = Record { vip, external, ingress: wanted.ingress.clone() };
    if entries == actual && record == *ours {
        return None;
    }
    let mut patch = noting(service, &record);
    if entries != actual {
        let entries = (!entries.is_empty()).then_some(entries);
        patch.insert("status".into(), json!({ "loadBalancer": { "ingress": entries } }));
    }
    Some(write(service, true, patch))
}

/// The entries for these addresses. Those that are there stay as the API server has completed them.
fn balanced(actual: &[LoadBalancerIngress], wanted: &[String]) -> Vec<LoadBalancerIngress> {
    let entry = |ip: &String| {
        let found = actual.iter().find(|entry| {
            entry.hostname.is_none() && entry.ip.as_ref().is_some_and(|there| same(there, ip))
        });
        let new = || LoadBalancerIngress { ip: Some(ip.clone()), ..LoadBalancerIngress::default() };
        found.cloned().unwrap_or_else(new)
    };
    wanted.iter().map(entry).collect()
}

/// The beginning of a patch: for which version of the object it is, and the note.
fn noting(service: &Service, record: &Record) -> Map<String, Value> {
    let mut patch = Map::new();
    let metadata = json!({
        "resourceVersion": service.metadata.resource_version,
        "annotations": { ANNOTATION: record.text() },
    });
    patch.insert("metadata".into(), metadata);
    patch
}

fn write(service: &Service, status: bool, patch: Map<String, Value>) -> Write {
    let version = service.metadata.resource_version.clone().unwrap_or_default();
    Write { service: ObjectRef::of(service), version, status, patch: Value::Object(patch) }
}

fn has(entries: &[String], ip: &str) -> bool {
    entries.iter().any(|entry| same(entry, ip))
}

/// Whether two texts are one address: IPv6 addresses have several forms.
fn same(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.parse::<IpAddr>();
    match (parse(one), parse(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// Sends a change.
///
/// # Errors
/// The API server refuses it, or does not answer.
pub async fn send(client: &Client, write: &Write) -> Result<(), kube::Error> {
    let ObjectRef { namespace, name, .. } = &write.service;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&write.patch));
    let sent = match write.status {
        true => services.patch_status(name, &parameters, &patch).await,
        false => services.patch(name, &parameters, &patch).await,
    };
    sent.map(drop)
}

/// What becomes of a change that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// The Service has changed since, or is gone: the next pass sees it.
    Outdated,
    /// The API server does not accept it: what its owner is told.
    Forbidden(Problem),
}

/// Why the API server has not taken a change; `None`: it, or its network, is in trouble.
#[must_use]
pub fn refused(write: &Write, error: &kube::Error) -> Option<Refused> {
    let kube::Error::Api(status) = error else { return None };
    // The role lacks a rule, which is no fault of the Service.
    let unauthorised = status.message.contains("cannot patch resource");
    match status.code {
        404 | 409 => Some(Refused::Outdated),
        // 403: an admission plugin, such as DenyServiceExternalIPs.
        400 | 403 | 422 if !unauthorised => {
            let place = if write.status { "status.loadBalancer" } else { "spec.externalIPs" };
            let message = format!(
                "the API server does not take its VIP into {place}: {}. kube-proxy does not forward what arrives there \
                 before it does.",
                status.message
            );
            Some(Refused::Forbidden(write.service.problem("VipNotShown", message)))
        }
        _ => None,
    }
}
