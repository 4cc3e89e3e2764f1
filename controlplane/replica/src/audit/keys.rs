//! Keys of a record: short digests of its subjects, its kind and its actor. A collision only costs the read of a
//! record that the filter then rejects.

use romana_statemachine::audit::{Filter, Kind, Subject};
use romana_statemachine::{Digest, Record};
use std::net::IpAddr;

use ipnet::IpNet;

/// Length of a key, bytes.
pub(super) const KEY_BYTES: usize = 16;

pub(super) type Key = [u8; KEY_BYTES];

fn key(tag: u8, text: &[u8]) -> Key {
    let mut bytes = Vec::with_capacity(1 + text.len());
    bytes.push(tag);
    bytes.extend_from_slice(text);
    let Digest(digest) = Digest::of(&bytes);
    digest.first_chunk().copied().unwrap_or_default()
}

fn of_range(range: IpNet) -> Key {
    key(b'r', range.to_string().as_bytes())
}

/// The key of an address.
pub(super) fn of_ip(ip: IpAddr) -> Key {
    match ip {
        IpAddr::V4(ip) => key(b'4', &ip.octets()),
        IpAddr::V6(ip) => key(b'6', &ip.octets()),
    }
}

fn of_subject(subject: Subject<'_>) -> Key {
    match subject {
        Subject::Ip(ip) => of_ip(ip),
        Subject::Name(name) => key(b'n', name.as_bytes()),
        Subject::Host(host) => key(b'h', host.as_bytes()),
        Subject::Tenant(tenant) => key(b't', tenant.as_bytes()),
    }
}

/// All keys of a record.
pub(super) fn of_record(record: &Record, mut tell: impl FnMut(Key)) {
    let event = &record.event;
    event.subjects(|subject| tell(of_subject(subject)));
    if let Some(range) = event.range() {
        tell(of_range(range));
    }
    tell(key(b'e', event.name().as_bytes()));
    tell(key(b'o', event.topic().as_str().as_bytes()));
    tell(key(b'a', record.actor.as_str().as_bytes()));
}

/// Keys such that every record that matches a filter has one of them; derived from its most selective part.
/// `None`: any record may match.
pub(super) fn of_filter(filter: &Filter) -> Option<Vec<Key>> {
    let Filter { kind, ip, name, host, tenant, actor } = filter;
    if let Some(name) = name {
        return Some(vec![of_subject(Subject::Name(name))]);
    }
    if let Some(ip) = ip {
        return Some(around(*ip));
    }
    if let Some(host) = host {
        return Some(vec![of_subject(Subject::Host(host.as_str()))]);
    }
    if let Some(tenant) = tenant {
        return Some(vec![of_subject(Subject::Tenant(tenant.as_str()))]);
    }
    if let Some(actor) = actor {
        return Some(vec![key(b'a', actor.as_str().as_bytes())]);
    }
    kind.as_ref().map(|kind| match kind {
        Kind::Topic(topic) => vec![key(b'o', topic.as_str().as_bytes())],
        Kind::Name(name) => vec![key(b'e', name.as_bytes())],
    })
}

/// An address and all ranges that contain it.
fn around(ip: IpAddr) -> Vec<Key> {
    let all = IpNet::from(ip);
    let ranges = (0..=all.max_prefix_len()).filter_map(|length| IpNet::new(ip, length).ok());
    std::iter::once(of_ip(ip)).chain(ranges.map(|range| of_range(range.trunc()))).collect()
}
