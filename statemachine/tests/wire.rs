//! Frozen wire forms: the bytes under `wire/v1` were written by the first release, and must be written and read alike
//! by all later ones. A new command or event gets a new file; existing files never change. `UPDATE=1 cargo test`
//! writes missing files and never changes an existing one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use romana_statemachine::command::{Access, Imported, ObjectKey};
use romana_statemachine::entry::{unwire, wire};
use romana_statemachine::refusal::Conflict;
use romana_statemachine::{
    Command, Digest, Entry, Event, Index, Millis, Outcome, Position, Proposal, Record, Refusal,
    State, Term,
};
use romana_testing::{hex, unhex};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn file(kind: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/v1");
    root.join(kind).join(format!("{name}.hex"))
}

/// Compares bytes with the frozen ones, and returns the frozen ones.
fn frozen(kind: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    let frozen = romana_testing::frozen(&file(kind, name), bytes);
    assert_eq!(hex(bytes), hex(&frozen), "{kind}/{name}: the wire form changed");
    frozen
}

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &str, value: &T) {
    let name = match serde_json::to_value(value).unwrap() {
        serde_json::Value::Object(map) => map.keys().next().unwrap().clone(),
        other => other.as_str().unwrap().to_string(),
    };
    let bytes = frozen(kind, &name, &wire(value));
    assert_eq!(unwire::<T>(&bytes).as_ref(), Ok(value), "{kind}/{name} reads differently");
}

const TOPOLOGY: &str = r#"{"networks": [{"name": "net-1", "cidr": "10.0.0.0/16", "block_mask": 29, "tenants": ["t"], "skip_first_last": true, "revision": 3}],
    "topologies": [{"networks": ["net-1"], "map": [{"name": "g", "assignment": {"rack": "1"}, "routing": "r", "groups": [
        {"hosts": [{"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"], "labels": {"k": "v"}}]},
        {"cidr": "10.0.128.0/17", "dummy": true}]}]}]}"#;

const POLICY: &str = r#"{"name": "p", "description": "d", "isolates_ingress": true, "isolates_egress": true,
    "applied_to": [{"Tenant": "t"}, {"Segment": ["t", "s"]}, {"Endpoints": ["t", {"labels": {"k": "v"}, "expressions": [
        {"In": ["a", ["1"]]}, {"NotIn": ["b", ["2"]]}, {"Exists": "c"}, {"DoesNotExist": "d"}]}]}, {"Cidr": "fd00::/8"}, "Host", "Local"],
    "ingress": [{"peers": ["Any", {"Tenant": "t"}, {"Segment": ["t", "s"]}, {"Endpoints": {"tenants": {"Id": "t"}, "endpoints": {}}},
        {"Endpoints": {"tenants": {"Labels": {}}, "endpoints": {}}}, {"Cidr": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, "Host", "Local"],
      "traffic": [{"protocol": "any"}, {"protocol": "tcp", "ports": [{"Number": 80}, {"Range": [8000, 8080]}, {"Named": "http"}]},
        {"protocol": "udp"}, {"protocol": "sctp"}, {"protocol": "icmp", "icmp": {"kind": 3, "code": 4}}]}],
    "egress": []}"#;

/// One of each command.
fn commands() -> Vec<Command> {
    let lines = [
        r#"{"SetTopology": TOPOLOGY}"#,
        r#"{"AddBlackout": {"cidr": "10.0.0.0/30"}}"#,
        r#"{"RemoveBlackout": {"cidr": "10.0.0.0/30"}}"#,
        r#"{"ChangeSettings": {"address_reuse_delay_ms": 1000, "vip_lease_ms": null}}"#,
        r#"{"RaiseVersion": {"version": 2}}"#,
        r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"], "labels": {"rack": "1"}, "info": {"os": "linux"}, "source": "kubernetes"}}"#,
        r#"{"UpdateHost": {"name": "h1", "ip": "192.168.0.2", "addresses": [], "labels": {}, "info": null}}"#,
        r#"{"SetHostState": {"name": "h1", "state": "draining", "term": 7}}"#,
        r#"{"RemoveHost": {"name": "h1", "force": true}}"#,
        r#"{"ReportHost": {"host": "h1", "revision": 300, "running": ["a", "b"]}}"#,
        r#"{"AllocateAddress": {"name": "a", "host": "h1", "tenant": "t", "segment": "s", "network": "net-1", "ip": "10.0.0.1"}}"#,
        r#"{"ReleaseAddress": {"address": "a"}}"#,
        r#"{"CreateTenant": {"id": "t", "labels": {"k": "v"}}}"#,
        r#"{"DeleteTenant": {"id": "t"}}"#,
        r#"{"CreateSegment": {"tenant": "t", "id": "s", "labels": {}}}"#,
        r#"{"DeleteSegment": {"tenant": "t", "id": "s"}}"#,
        r#"{"SetPolicy": POLICY}"#,
        r#"{"RemovePolicy": {"name": "p"}}"#,
        r#"{"SetEndpoint": {"ip": "10.0.0.1", "tenant": "t", "segment": "s", "host": "h1", "labels": {"k": "v"}, "ports": [{"name": "http", "protocol": "tcp", "port": 80}]}}"#,
        r#"{"RemoveEndpoint": {"ip": "fd00::1"}}"#,
        r#"{"RequestVip": {"name": "v", "ip": "192.168.0.99", "candidates": ["h1"]}}"#,
        r#"{"AssignVip": {"name": "v", "host": "h1", "term": 7}}"#,
        r#"{"UnassignVip": {"name": "v", "term": 7}}"#,
        r#"{"RemoveVip": {"name": "v"}}"#,
        r#"{"AssignRouter": {"prefix": "10.0.0.0/16", "table": "rtb-1", "host": "h1", "term": 7}}"#,
        r#"{"UnassignRouter": {"prefix": "10.0.0.0/16", "table": "rtb-1", "term": 7}}"#,
        r#"{"EndCooldowns": {"term": 7}}"#,
        r#"{"SetRetention": {"age_ms": 86400000, "bytes": null}}"#,
        r#"{"SignCheckpoint": {"term": 7, "revision": 300, "digest": "DIGEST", "state_digest": "DIGEST"}}"#,
        r#"{"AddMember": {"peer": "10.0.0.4:9601", "floor": 3, "replaces": 2}}"#,
        r#"{"ClaimMember": {"id": 4, "nonce": "c0ffee", "peer": "10.0.0.4:9601"}}"#,
        r#"{"RemoveMember": {"id": 2}}"#,
        r#"{"ResumeAllocation": {}}"#,
        r#"{"ReportAttachments": {"host": "h1", "revision": 300, "at": 1000, "running": [{"name": "a", "ip": "10.0.0.1", "tenant": "t", "segment": "s"}], "kept": ["b"]}}"#,
        r#"{"ClaimReserve": {"reserve": "reserve:h1:t.s:4:0", "name": "a", "host": "h1", "tenant": "t", "segment": "s", "since": 500}}"#,
        r#"{"ChangeAgentSettings": {"reserve_per_owner": 2, "host_down_after_ms": null, "restore_hold_max_ms": 60000}}"#,
        r#"{"EndHold": {"term": 7}}"#,
        r#"{"EnrolAgent": {"host": "h1", "instance": "c0ffee", "replaces": "decaf"}}"#,
        r#"{"ReserveServices": {"ranges": ["10.96.0.0/12", "fd00:10::/108"]}}"#,
        r#"{"ImportObject": {"source": {"kind": "Node", "uid": "u-1"}, "object": {"Host": {"name": "h1", "ip": "192.168.0.1", "addresses": [], "labels": {"rack": "1"}, "info": {}, "source": "kubernetes"}}, "term": 7}}"#,
        r#"{"WithdrawObject": {"object": {"Endpoint": "10.0.0.1"}, "uid": "u-1", "term": 7}}"#,
        r#"{"FollowKubernetes": {"cluster": "u-1", "term": 7}}"#,
        r#"{"PlaceVip": {"name": "v", "from": "h1", "since": 11, "to": "h2", "agent": "c0ffee", "reason": "holder_silent", "term": 7}}"#,
        r#"{"SetVipPools": {"pools": [{"name": "front", "ranges": ["192.168.9.0/28", "fd00:9::/120"]}]}}"#,
        r#"{"RequestVipFromPool": {"name": "v", "pool": "front", "family": "ipv6", "candidates": ["h1"]}}"#,
    ];
    lines.map(read).into()
}

/// Objects of all kinds that can be imported.
fn imported() -> Vec<Imported> {
    let lines = [
        r#"{"Host": {"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"], "labels": {"rack": "1"}, "info": {"os": "linux"}, "source": "kubernetes"}}"#,
        r#"{"Tenant": {"id": "t", "labels": {"k": "v"}}}"#,
        r#"{"Endpoint": {"ip": "10.0.0.1", "tenant": "t", "segment": "s", "host": "h1", "labels": {"k": "v"}, "ports": []}}"#,
        r#"{"Policy": {"name": "p", "applied_to": [{"Tenant": "t"}], "isolates_ingress": true, "isolates_egress": false}}"#,
        r#"{"Vip": {"name": "v", "ip": "192.168.0.99", "candidates": ["h1"]}}"#,
    ];
    lines.map(read).into()
}

/// One of each event.
fn events() -> Vec<Event> {
    let lines = [
        r#"{"TopologySet": {"topology": TOPOLOGY, "hosts": [{"host": "h1", "places": [{"network": "net-1", "group": "10.0.0.0/17"}]}]}}"#,
        r#"{"BlackoutAdded": {"cidr": "10.0.0.0/30"}}"#,
        r#"{"BlackoutRemoved": {"cidr": "10.0.0.0/30"}}"#,
        r#"{"VersionRaised": {"version": 2}}"#,
        r#"{"SettingsChanged": {"address_reuse_delay_ms": 1000, "vip_lease_ms": 500}}"#,
        r#"{"HostAdded": {"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"], "labels": {"rack": "1"}, "info": {}, "source": "topology", "places": [{"network": "net-1", "group": "10.0.0.0/17"}]}}"#,
        r#"{"HostUpdated": {"name": "h1", "ip": "192.168.0.1", "addresses": [], "labels": {}, "info": {"os": "linux"}, "places": []}}"#,
        r#"{"HostDown": {"name": "h1"}}"#,
        r#"{"HostUp": {"name": "h1"}}"#,
        r#"{"HostDraining": {"name": "h1"}}"#,
        r#"{"HostRemoved": {"name": "h1", "evicted": true}}"#,
        r#"{"BlockAssigned": {"cidr": "10.0.0.0/29", "network": "net-1", "group": "10.0.0.0/17", "host": "h1", "tenant": "t", "segment": "s"}}"#,
        r#"{"BlockReleased": {"cidr": "10.0.0.0/29", "host": "h1", "reusable_at": 31000}}"#,
        r#"{"AddressAllocated": {"name": "a", "ip": "10.0.0.1", "block": "10.0.0.0/29", "host": "h1", "tenant": "t", "segment": "s"}}"#,
        r#"{"AddressReleased": {"name": "a", "ip": "fd00::1", "block": "fd00::/122", "host": "h1", "tenant": "t", "segment": "s", "reason": {"reported": 300}}}"#,
        r#"{"CooldownsEnded": {"released_until": 31000}}"#,
        r#"{"TenantCreated": {"id": "t", "labels": {"k": "v"}}}"#,
        r#"{"TenantDeleted": {"id": "t"}}"#,
        r#"{"SegmentCreated": {"tenant": "t", "id": "s", "labels": {}}}"#,
        r#"{"SegmentDeleted": {"tenant": "t", "id": "s"}}"#,
        r#"{"PolicySet": POLICY}"#,
        r#"{"PolicyRemoved": {"name": "p"}}"#,
        r#"{"EndpointSet": {"ip": "10.0.0.1", "tenant": "t", "segment": "s", "host": "h1", "labels": {}, "ports": [{"name": "dns", "protocol": "udp", "port": 53}]}}"#,
        r#"{"EndpointRemoved": {"ip": "10.0.0.1", "host": "h1"}}"#,
        r#"{"VipRequested": {"name": "v", "ip": "192.168.0.99", "candidates": []}}"#,
        r#"{"VipAssigned": {"name": "v", "ip": "192.168.0.99", "host": "h1", "lease_ms": 1000}}"#,
        r#"{"VipUnassigned": {"name": "v", "ip": "192.168.0.99", "host": "h1"}}"#,
        r#"{"VipRemoved": {"name": "v"}}"#,
        r#"{"RouterAssigned": {"prefix": "10.0.0.0/16", "table": "rtb-1", "host": "h1"}}"#,
        r#"{"RouterUnassigned": {"prefix": "10.0.0.0/16", "table": "rtb-1", "host": "h1"}}"#,
        r#"{"RetentionSet": {"age_ms": null, "bytes": 1073741824}}"#,
        r#"{"CheckpointSigned": {"revision": 300, "digest": "DIGEST", "state_digest": "DIGEST"}}"#,
        r#"{"MemberAdded": {"id": 4, "peer": "10.0.0.4:9601", "replaces": 2}}"#,
        r#"{"MemberClaimed": {"id": 4, "nonce": "c0ffee", "peer": "10.0.0.4:9601"}}"#,
        r#"{"MemberRemoved": {"id": 2}}"#,
        r#"{"Restored": {"source": "c1", "cluster": "c2", "revision": 300, "digest": "DIGEST", "backup": "DIGEST"}}"#,
        r#"{"HostReported": {"host": "h1", "revision": 301}}"#,
        r#"{"AllocationResumed": {"by": "operator"}}"#,
        r#"{"AddressAdopted": {"name": "a", "ip": "10.0.0.1", "block": "10.0.0.0/29", "host": "h1", "tenant": "t", "segment": "s", "reported": 300}}"#,
        r#"{"AddressClaimed": {"name": "a", "reserve": "reserve:h1:t.s:4:0", "ip": "10.0.0.1", "block": "10.0.0.0/29", "host": "h1", "tenant": "t", "segment": "s", "since": 500}}"#,
        r#"{"ConflictsReported": {"host": "h1", "reported": 300, "conflicts": [{"name": "a", "ip": "10.0.0.1", "why": {"AddressInUse": {"ip": "10.0.0.1", "name": "b"}}}]}}"#,
        r#"{"AgentSettingsChanged": {"reserve_per_owner": 2, "host_down_after_ms": 10000, "restore_hold_max_ms": 60000}}"#,
        r#"{"AgentEnrolled": {"host": "h1", "instance": "c0ffee", "replaces": "decaf"}}"#,
        r#"{"ServicesReserved": {"ranges": ["10.96.0.0/12", "fd00:10::/108"]}}"#,
        r#"{"SourceSet": {"object": {"Host": "h1"}, "source": {"kind": "Node", "uid": "u-1"}}}"#,
        r#"{"VipPlaced": {"name": "v", "ip": "192.168.0.99", "from": null, "to": "h1", "reason": "first", "grant_ms": 1000}}"#,
        r#"{"VipPoolsSet": {"pools": [{"name": "front", "ranges": ["192.168.9.0/28", "fd00:9::/120"]}]}}"#,
    ];
    lines.map(read).into()
}

fn read<T: DeserializeOwned>(line: &str) -> T {
    let text = line.replace("TOPOLOGY", TOPOLOGY).replace("POLICY", POLICY);
    let text = text.replace("DIGEST", &"5a".repeat(32));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A sample value for each field of the refusals.
const FIELDS: &str = r#"{
    "cluster": "u-1", "followed": "u-2",
    "a": "a", "a_cidr": "10.0.0.0/8", "address": "a", "addresses": 3, "b": "b",
    "b_cidr": "10.1.0.0/16", "block": "10.0.0.0/29", "block_mask": 24, "by": "host h1",
    "cidr": "10.0.0.0/8", "cooling": 2, "current": 8, "field": "host",
    "group": "10.0.0.0/17", "host": "h1", "ip": "10.0.0.1", "max": 32,
    "min": 25, "name": "a", "network": "10.0.0.0/8", "networks": ["net-1"], "policy": "p",
    "prefix": "10.0.0.0/16", "released_at": 1000, "reuse_delay_ms": 30000, "revision": 9,
    "segment": "s", "setting": "vip_lease_ms", "size": 300, "supported": 1, "table": "rtb-1",
    "tenant": "t", "term": 7, "total": 1, "until": 2000, "value": 99, "version": 3, "vip": "v",
    "what": "segment s", "why": "because", "needed": 2, "signed": 7, "peer": "10.0.0.4:9601", "id": 4,
    "since": 11, "hosts": ["h1"], "waiting": 1, "names": ["a"], "instance": "c0ffee",
    "text": "10.0.0.1", "named": "address 10.0.0.0", "found": "address 10.0.0.1", "other": "H1",
    "object": {"Host": "h1"}, "uid": "u-1", "origin": {"kind": "Node", "uid": "u-2"},
    "holder": "h1", "command": "AssignVip", "replacement": "PlaceVip", "wanted": "front with addresses",
    "pools": ["front"]}"#;

/// The refusal with a code. Fields with the same name have the same sample value, with one exception.
fn refusal(code: &str) -> Refusal {
    if let Ok(refusal) = serde_json::from_value(serde_json::json!(code)) {
        return refusal;
    }
    let conflict = Conflict { subject: "host h1".into(), reason: "because".into() };
    let groups = match code {
        "TooManyGroups" => serde_json::json!(4),
        _ => serde_json::json!(["10.0.0.0/17", "fd00::/64"]),
    };
    let mut fields: serde_json::Value = serde_json::from_str(FIELDS).unwrap();
    fields["conflicts"] = serde_json::json!([conflict]);
    fields["groups"] = groups;
    let refusal = serde_json::json!({ code: fields });
    serde_json::from_value(refusal).unwrap_or_else(|error| panic!("{code}: {error}"))
}

#[test]
fn commands_are_frozen() {
    let commands = commands();
    assert!(commands.iter().map(Command::meta).eq(Command::TABLE));
    for command in &commands {
        check("command", command);
        // The term fences the commands of leader tasks.
        let fenced = command.term().is_some() || command.meta().access != Access::Leader;
        assert!(fenced, "{command}");
    }
}

#[test]
fn events_are_frozen() {
    let events = events();
    assert!(events.iter().map(Event::meta).eq(Event::TABLE));
    // New events come last, with the version that introduced them.
    assert!(events.iter().map(|event| event.meta().since).is_sorted());
    assert!(events.iter().all(|event| event.meta().since <= romana_statemachine::VERSION_MAX));
    events.iter().for_each(|event| check("event", event));
}

#[test]
fn refusals_are_frozen() {
    for (code, ..) in Refusal::TABLE {
        let refusal = refusal(code);
        assert_eq!(refusal.code(), *code);
        check("refusal", &refusal);
    }
}

/// The kinds of objects that come from outside, and their keys.
#[test]
fn imported_objects_are_frozen() {
    let imported = imported();
    imported.iter().for_each(|object| check("imported", object));
    let keys: Vec<ObjectKey> = imported.iter().map(Imported::key).collect();
    keys.iter().for_each(|key| check("object", key));
    assert!(imported.iter().map(|object| wire(object)[0]).eq(0..5));
    assert!(keys.iter().map(|key| wire(key)[0]).eq(0..5));
}

/// The number of a variant is its first byte: this detects a variant inserted in the middle.
#[test]
fn variants_are_numbered_in_order() {
    let first = |bytes: Vec<u8>| usize::from(bytes[0]);
    assert!(commands().iter().map(|c| first(wire(c))).eq(0..45));
    assert!(events().iter().map(|e| first(wire(e))).eq(0..47));
    let refusals = Refusal::TABLE.iter().map(|(code, ..)| first(wire(&refusal(code))));
    assert!(refusals.eq(0..Refusal::TABLE.len()));
}

/// A state with objects of every kind, and its outcomes and records.
fn history() -> (State, Vec<Outcome>, Vec<Record>) {
    let (mut state, mut outcomes, mut records) = (State::new(), Vec::new(), Vec::new());
    let lines = [
        r#"{"SetTopology": TOPOLOGY}"#,
        r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2", "labels": {"rack": "1"}}}"#,
        r#"{"AllocateAddress": {"name": "a", "host": "h2", "tenant": "t", "segment": "s"}}"#,
        r#"{"AllocateAddress": {"name": "b", "host": "h2", "tenant": "t", "segment": "s"}}"#,
        r#"{"AllocateAddress": {"name": "c", "host": "h2", "tenant": "t", "segment": "u"}}"#,
        r#"{"AllocateAddress": {"name": "a", "host": "h9", "tenant": "t", "segment": "s"}}"#,
        r#"{"ReleaseAddress": {"address": "b"}}"#,
        r#"{"ReleaseAddress": {"address": "c"}}"#,
        r#"{"AddBlackout": {"cidr": "10.0.200.0/24"}}"#,
        r#"{"SetHostState": {"name": "h2", "state": "draining"}}"#,
        r#"{"CreateTenant": {"id": "t", "labels": {"k": "v"}}}"#,
        r#"{"CreateSegment": {"tenant": "t", "id": "s", "labels": {}}}"#,
        r#"{"SetPolicy": POLICY}"#,
        r#"{"SetEndpoint": {"ip": "10.0.0.1", "tenant": "t", "segment": "s", "host": "h2"}}"#,
        r#"{"AddHost": {"name": "h3", "ip": "192.168.0.3", "labels": {"rack": "1"}}}"#,
        r#"{"RequestVip": {"name": "v", "ip": "192.168.0.99"}}"#,
        r#"{"AssignVip": {"name": "v", "host": "h3", "term": 2}}"#,
        r#"{"RequestVip": {"name": "w", "ip": "192.168.0.98"}}"#,
        r#"{"AssignVip": {"name": "w", "host": "h3", "term": 2}}"#,
        r#"{"UnassignVip": {"name": "w", "term": 2}}"#,
        r#"{"AssignRouter": {"prefix": "10.0.0.0/17", "table": "rtb-1", "host": "h3", "term": 2}}"#,
        r#"{"AllocateAddress": {"name": "d", "host": "h3", "tenant": "t", "segment": "s"}}"#,
        r#"{"RemoveHost": {"name": "h3", "force": true}}"#,
    ];
    for (n, line) in lines.into_iter().enumerate() {
        let position = Position { term: Term(2), index: Index(10 + n as u64) };
        let proposals = vec![Proposal { actor: "op".into(), command: read(line) }];
        let at = Millis(1_700_000_000_000 + n as u64);
        let (new_outcomes, new_records) = state.apply(position, &Entry { at, proposals });
        outcomes.extend(new_outcomes);
        records.extend(new_records);
    }
    (state, outcomes, records)
}

/// Entry, outcomes and records; the digests in the records also freeze the digest chain.
#[test]
fn entries_and_records_are_frozen() {
    let proposal = |command| Proposal { actor: "agent:h1".into(), command };
    let proposals = commands().into_iter().take(3).map(proposal).collect();
    let entry = Entry { at: Millis(1_700_000_000_000), proposals };
    assert_eq!(unwire(&frozen("entry", "three_commands", &wire(&entry))), Ok(entry));
    let (_, outcomes, records) = history();
    assert_eq!(unwire(&frozen("entry", "outcomes", &wire(&outcomes))), Ok(outcomes));
    let read: Vec<Record> = unwire(&frozen("entry", "records", &wire(&records))).unwrap();
    assert_eq!(read, records);
    let mut follower = State::new();
    read.iter().for_each(|record| follower.follow(record).unwrap());
    follower.validate().unwrap();
}

#[test]
fn snapshots_are_frozen() {
    let (state, ..) = history();
    let bytes = frozen("snapshot", "something_of_everything", &state.snapshot());
    let read = State::from_snapshot(&bytes).unwrap();
    read.validate().unwrap();
    assert_eq!(read.snapshot(), bytes);
    assert_eq!(read.digest(), state.digest());
    let empty = frozen("snapshot", "empty", &State::new().snapshot());
    assert_eq!(State::from_snapshot(&empty).unwrap().digest(), Digest::default());
}

/// Format 2: live addresses, members, retention, a signed checkpoint, and allocation held.
#[test]
fn snapshots_of_version_two_are_frozen() {
    let first = [
        r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
        r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1", "labels": {"rack": "1"}}}"#,
        r#"{"AllocateAddress": {"name": "a", "host": "h1", "tenant": "t", "segment": "s"}}"#,
        r#"{"AllocateAddress": {"name": "b", "host": "h1", "tenant": "t", "segment": "s"}}"#,
        r#"{"ReleaseAddress": {"address": "b"}}"#,
        r#"{"RaiseVersion": {"version": 2}}"#,
        r#"{"SignCheckpoint": {"term": 7, "revision": 3, "digest": "DIGEST", "state_digest": "DIGEST"}}"#,
        r#"{"RemoveMember": {"id": 2}}"#,
    ];
    let commands = first.map(read).into_iter().chain(commands().into_iter().skip(27).take(6));
    let proposals = commands.map(|command| Proposal { actor: "op".into(), command });
    let entry = Entry { at: Millis(1_700_000_000_000), proposals: proposals.collect() };
    let mut state = State::new();
    state.apply(Position { term: Term(7), index: Index(40) }, &entry);
    let restored = r#"{"source": "c1", "cluster": "c2", "revision": 9, "digest": "DIGEST", "backup": "DIGEST"}"#;
    let (mut state, _) = state.restored(read(restored));
    let claim = r#"{"ClaimMember": {"id": 1, "nonce": "aa", "peer": "10.0.0.1:9601"}}"#;
    let remove = r#"{"RemoveMember": {"id": 3}}"#;
    let proposals =
        [claim, remove].map(|line| Proposal { actor: "op".into(), command: read(line) });
    let entry = Entry { at: Millis(1_700_000_001_000), proposals: proposals.into() };
    state.apply(Position { term: Term(1), index: Index(2) }, &entry);
    let bytes = frozen("snapshot", "version_two", &state.snapshot());
    let again = State::from_snapshot(&bytes).unwrap();
    again.validate().unwrap();
    assert!(again.held().is_some() && again.signed().is_some());
    assert_eq!((again.members().count(), again.last_member_id()), (1, 3));
    assert_eq!(again.ipam().address_count(), 1);
    assert_eq!(again.snapshot(), bytes);
}

/// Format 3: reports of agents, and the settings for agents.
#[test]
fn snapshots_of_version_three_are_frozen() {
    let lines = [
        r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
        r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1"}}"#,
        r#"{"AllocateAddress": {"name": "reserve:h1:t.s:4:0", "host": "h1", "tenant": "t", "segment": "s"}}"#,
        r#"{"RaiseVersion": {"version": 2}}"#,
        r#"{"RaiseVersion": {"version": 3}}"#,
        r#"{"ClaimReserve": {"reserve": "reserve:h1:t.s:4:0", "name": "a", "host": "h1", "tenant": "t", "segment": "s", "since": 500}}"#,
        r#"{"ReportAttachments": {"host": "h1", "revision": 1, "at": 0, "running": [{"name": "b", "ip": "10.0.0.0", "tenant": "t", "segment": "s"}, {"name": "c", "ip": "10.0.0.9", "tenant": "t", "segment": "s"}]}}"#,
        r#"{"ChangeAgentSettings": {"reserve_per_owner": 2, "restore_hold_max_ms": 60000}}"#,
    ];
    let proposals = lines.map(|line| Proposal { actor: "op".into(), command: read(line) });
    let entry = Entry { at: Millis(1_700_000_000_000), proposals: proposals.into() };
    let mut state = State::new();
    let (_, records) = state.apply(Position { term: Term(7), index: Index(40) }, &entry);
    let bytes = frozen("snapshot", "version_three", &state.snapshot());
    let again = State::from_snapshot(&bytes).unwrap();
    again.validate().unwrap();
    assert_eq!((again.conflicts().count(), again.ipam().address_count()), (1, 2));
    assert_eq!(again.agent_settings().reserve_per_owner, 2);
    assert_eq!(again.snapshot(), bytes);
    // The digest of a state covers all of it, and the digests of older formats do not change.
    let mut follower = State::new();
    let mut digests = std::collections::BTreeSet::new();
    for record in &records {
        follower.follow(record).unwrap();
        assert!(digests.insert(follower.state_digest()));
    }
    let text = format!("{}\n", follower.state_digest());
    assert_eq!(unhex(&text), frozen("snapshot", "version_three_digest", &unhex(&text)));
}

/// Format 4: the agents enrolled for hosts; service ranges.
#[test]
fn snapshots_of_version_four_are_frozen() {
    let lines = [
        r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
        r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1"}}"#,
        r#"{"RaiseVersion": {"version": 2}}"#,
        r#"{"RaiseVersion": {"version": 3}}"#,
        r#"{"RaiseVersion": {"version": 4}}"#,
        r#"{"EnrolAgent": {"host": "h1", "instance": "c0ffee"}}"#,
        r#"{"ReserveServices": {"ranges": ["10.96.0.0/12", "fd00:10::/108"]}}"#,
        r#"{"ChangeAgentSettings": {"reserve_per_owner": 2}}"#,
    ];
    let proposals = lines.map(|line| Proposal { actor: "op".into(), command: read(line) });
    let entry = Entry { at: Millis(1_700_000_000_000), proposals: proposals.into() };
    let mut state = State::new();
    state.apply(Position { term: Term(7), index: Index(40) }, &entry);
    let bytes = frozen("snapshot", "version_four", &state.snapshot());
    let again = State::from_snapshot(&bytes).unwrap();
    again.validate().unwrap();
    assert_eq!(again.agent_of(&"h1".into()).map(|id| id.as_str()), Some("c0ffee"));
    assert_eq!(again.agent_settings().reserve_per_owner, 2);
    assert_eq!(again.service_ranges().count(), 2);
    assert_eq!((again.snapshot(), again.state_digest()), (bytes, state.state_digest()));
}

/// Format 5: where objects come from.
#[test]
fn snapshots_with_sources_are_frozen() {
    let raise = |version| read(&format!(r#"{{"RaiseVersion": {{"version": {version}}}}}"#));
    let topology = r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#;
    let import = |object| {
        let object = serde_json::to_value(object).unwrap();
        let source = json!({"kind": "Kind", "uid": "u-1"});
        json!({"ImportObject": {"source": source, "object": object, "term": 7}})
    };
    let imports = imported().into_iter().map(import);
    let imports = imports.map(|command| serde_json::from_value(command).unwrap());
    let place = read(r#"{"PlaceVip": {"name": "v", "to": "h1", "reason": "first", "term": 7}}"#);
    let commands = [read(topology)].into_iter().chain((2..=4).map(raise)).chain(imports);
    let commands = commands.chain([place]);
    let proposals = commands.map(|command| Proposal { actor: "op".into(), command });
    let entry = Entry { at: Millis(1_700_000_000_000), proposals: proposals.collect() };
    let mut state = State::new();
    let (outcomes, records) = state.apply(Position { term: Term(7), index: Index(40) }, &entry);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    let bytes = frozen("snapshot", "with_sources", &state.snapshot());
    let again = State::from_snapshot(&bytes).unwrap();
    again.validate().unwrap();
    assert_eq!((again.sources().count(), again.vip_grant_max_ms()), (5, 1000));
    assert!(again.vips().all(|vip| vip.placement.is_some()));
    assert_eq!((again.snapshot(), again.state_digest()), (bytes, state.state_digest()));
    let mut follower = State::new();
    let mut digests = std::collections::BTreeSet::new();
    for record in &records {
        follower.follow(record).unwrap();
        assert!(digests.insert(follower.state_digest()), "{record}");
    }
    assert_eq!(follower.state_digest(), state.state_digest());
}

/// Truncated or modified snapshots are refused or read as a valid state; reading never panics.
#[test]
fn damaged_snapshots_do_no_harm() {
    let bytes = history().0.snapshot();
    for len in 0..bytes.len() {
        State::from_snapshot(&bytes[..len]).unwrap_err();
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        if let Ok(state) = State::from_snapshot(&changed) {
            let _ = state.validate();
        }
    }
}

/// Replaces the times in a value by current ones and extends its lists; `largest` sets durations and sizes to their
/// maximum.
fn swell(value: &Value, name: &str, largest: bool) -> Value {
    let is_time = matches!(name, "until" | "at" | "released_until") || name.ends_with("_at");
    let is_amount = name.ends_with("_ms") || name.ends_with("bytes");
    match value {
        Value::Number(_) if is_time => json!(1_795_908_366_022_u64),
        Value::Number(_) if largest && is_amount => json!(u64::MAX),
        Value::Array(list) if matches!(name, "hosts" | "groups" | "conflicts" | "networks") => {
            let one = list.first().map(|one| swell(one, "", largest));
            Value::Array(one.into_iter().cycle().take(300).collect())
        }
        Value::Array(list) => list.iter().map(|one| swell(one, name, largest)).collect(),
        Value::Object(map) => {
            let member =
                |(name, value): (&String, &Value)| (name.clone(), swell(value, name, largest));
            Value::Object(map.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// Checks the text of a value, also with current times and large numbers.
fn check_sentence<T: Serialize + DeserializeOwned + std::fmt::Display>(sample: &T) {
    let sample = serde_json::to_value(sample).unwrap();
    for largest in [false, true] {
        let value = serde_json::from_value::<T>(swell(&sample, "", largest)).unwrap();
        let sentence = value.to_string();
        let machine = [
            "1795908366022",
            "18446744073709551615",
            "Some(",
            "None",
            "source:",
            "Name(",
            "[\"",
            "\", \"",
            " ms",
        ];
        let machine = machine.iter().find(|text| sentence.contains(**text));
        assert_eq!(machine, None, "{sentence}");
        let times = sentence.contains("2026-11-28T23:26:06.022Z");
        assert!(
            times || !swell(&sample, "", false).to_string().contains("1795908366022"),
            "{sentence}"
        );
        assert!(sentence.len() < 1000, "{} bytes: {sentence}", sentence.len());
    }
}

/// Text for people has formatted times, durations and sizes, and no debug representations.
#[test]
fn no_sentence_has_machine_values() {
    events().iter().for_each(check_sentence);
    let refusals = Refusal::TABLE.iter().map(|(code, ..)| refusal(code));
    refusals.for_each(|refusal| check_sentence(&refusal));
    history().2.iter().for_each(check_sentence);
}
