use romana_statemachine::{Digest, Index, Millis, Revision};
use serde_json::{Value, json};

use super::*;

fn apply(names: &mut Names, revision: u64, event: Value) {
    let event: Event = serde_json::from_value(event).unwrap();
    let record = Record {
        revision: Revision(revision),
        index: Index(revision),
        at: Millis(0),
        actor: "t".into(),
        event,
        digest: Digest::default(),
    };
    names.apply(&record);
    names.advance(record.revision);
}

fn address(name: &str, ip: &str, more: Value) -> Value {
    let mut all = json!({"name": name, "ip": ip, "block": "10.0.0.0/29", "host": "h", "tenant": "T", "segment": "s"});
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

fn endpoint(ip: &str) -> Value {
    json!({"ip": ip, "tenant": "T", "segment": "s", "host": "h", "labels": {}, "ports": []})
}

#[test]
fn events_lead_where_a_snapshot_does() {
    let mut names = Names::default();
    let vip = |name: &str, ip: &str| json!({"name": name, "ip": ip, "candidates": []});
    let topology = json!({"networks": [{"name": "n", "cidr": "203.0.113.0/24"}], "topologies": []});
    let events = [
        json!({"TopologySet": {"topology": topology, "hosts": []}}),
        json!({"VipRequested": vip("Web", "192.168.0.1")}),
        json!({"VipRequested": vip("gone", "192.168.0.3")}),
        json!({"VipRequested": vip("web", "192.168.0.2")}),
        json!({"VipRemoved": {"name": "gone"}}),
        json!({"AddressAllocated": address("VM", "10.0.0.1", json!({}))}),
        json!({"AddressAllocated": address("cni:T.p:c:eth0", "10.0.0.2", json!({}))}),
        json!({"AddressAllocated": address("old", "10.0.0.3", json!({}))}),
        json!({"EndpointSet": endpoint("10.0.0.1")}),
        json!({"EndpointSet": endpoint("10.0.0.2")}),
        json!({"EndpointSet": endpoint("10.0.0.4")}),
        json!({"EndpointRemoved": {"ip": "10.0.0.4", "host": "h"}}),
        json!({"AddressReleased": address("old", "10.0.0.3", json!({"reason": "requested"}))}),
    ];
    for (revision, event) in (1..).zip(events) {
        apply(&mut names, revision, event);
    }
    let snapshot = json!({
        "revision": 13,
        "topology": topology,
        "vips": [{"name": "web", "ip": "192.168.0.2", "candidates": [], "holder": null}],
        "addresses": [address("VM", "10.0.0.1", json!({})), address("cni:T.p:c:eth0", "10.0.0.2", json!({}))],
        "endpoints": [endpoint("10.0.0.1"), endpoint("10.0.0.2")],
    });
    let fresh = Names::default().restart(&serde_json::from_value(snapshot).unwrap()).unwrap();
    assert_eq!(names, fresh);
    // The copy on disk has what follows from it.
    let copy: Names = serde_json::from_value(json!(names)).unwrap();
    assert_eq!(copy, names);
    assert_eq!(names.named("t", "s", "vm"), Some(vec!["10.0.0.1".parse().unwrap()]));
    assert_eq!(names.vip_at("192.168.0.1".parse().unwrap()), None);
    assert_eq!(names.tenant_of("10.0.0.2".parse().unwrap()), Some("t"));
    assert_eq!(names.networks(), ["203.0.113.0/24".parse().unwrap()]);
}

/// Endpoint and allocation of an address come and go in any order.
#[test]
fn an_address_is_gone_when_both_its_uses_are() {
    let ip = "10.0.0.1".parse().unwrap();
    let allocated = json!({"AddressAllocated": address("vm", "10.0.0.1", json!({}))});
    let released =
        json!({"AddressReleased": address("vm", "10.0.0.1", json!({"reason": "requested"}))});
    let (set, removed) = (
        json!({"EndpointSet": endpoint("10.0.0.1")}),
        json!({"EndpointRemoved": {"ip": "10.0.0.1", "host": "h"}}),
    );
    for order in [[&allocated, &set, &released, &removed], [&set, &allocated, &removed, &released]]
    {
        let mut names = Names::default();
        for (at, event) in (0..).zip(order) {
            apply(&mut names, at + 1, event.clone());
            assert_eq!(names.at(ip).is_some(), at < 3, "after {event}");
            assert_eq!(names.has_tenant("t"), at < 3);
        }
    }
}
