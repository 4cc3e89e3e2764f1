//! Arbitrary commands over a small set of objects, so that they interact: four hosts, a dozen names, two tenants,
//! networks of 64 addresses in both families.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use romana_statemachine::Command;
use romana_statemachine::topology::TopologySpec;

/// Topologies that keep, move or refuse the blocks of the others.
const TOPOLOGIES: &[&str] = &[
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{}]}]}"#,
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{}, {}]}]}"#,
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 30}],
        "topologies": [{"networks": ["n"], "map": [{}, {}, {}]}]}"#,
    r#"{"networks": [{"name": "m", "cidr": "10.0.0.0/25", "block_mask": 29}],
        "topologies": [{"networks": ["m"], "map": [{"assignment": {"rack": "1"}}, {}, {"groups": [{}, {"assignment": {"rack": "2"}}]}]}]}"#,
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29, "tenants": ["t0"]},
                     {"name": "six", "cidr": "fd00::/122", "block_mask": 125}],
        "topologies": [{"networks": ["n", "six"], "map": [{}, {}]}]}"#,
    r#"{"networks": [{"name": "six", "cidr": "fd00::/122", "block_mask": 125, "skip_first_last": true}],
        "topologies": [{"networks": ["six"], "map": [{}]}]}"#,
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29}, {"name": "six", "cidr": "fd00::/122", "block_mask": 125}],
        "topologies": [{"networks": ["n"], "map": [{"hosts": [{"name": "h0", "ip": "192.168.0.1"}]}, {}]}, {"networks": ["six"], "map": [{}]}]}"#,
    // Zone labels, by their old and their current name.
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{}, {"assignment": {"failure-domain.beta.kubernetes.io/zone": "a"}}]}]}"#,
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{"groups": [{}, {}]}, {"assignment": {"topology.kubernetes.io/zone": "a"}}]}]}"#,
    // Blocks that are large enough to store their free addresses as ranges.
    r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 25}, {"name": "six", "cidr": "fd00::/118", "block_mask": 120, "skip_first_last": true}],
        "topologies": [{"networks": ["n", "six"], "map": [{}]}]}"#,
];

fn json(text: String) -> Command {
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn topology() -> impl Strategy<Value = Command> {
    select(TOPOLOGIES)
        .prop_map(|text| Command::SetTopology(serde_json::from_str::<TopologySpec>(text).unwrap()))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..64u8).prop_map(|(six, n)| {
        if six {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
        } else {
            IpAddr::from([10, 0, 0, n])
        }
    })
}

fn cidr() -> impl Strategy<Value = String> {
    (ip(), 0..6u8).prop_map(|(ip, bits)| {
        let len = if ip.is_ipv4() { 32 } else { 128 } - bits;
        ipnet::IpNet::new(ip, len).unwrap().trunc().to_string()
    })
}

fn labels() -> impl Strategy<Value = &'static str> {
    select(vec![
        "{}",
        r#"{"rack":"1"}"#,
        r#"{"rack":"2"}"#,
        r#"{"rack":"1","topology.kubernetes.io/zone":"a"}"#,
        r#"{"rack":"2","failure-domain.beta.kubernetes.io/zone":"a"}"#,
    ])
}

fn allocate() -> impl Strategy<Value = Command> {
    let asked = prop_oneof![4 => Just(None), 1 => ip().prop_map(Some)];
    let network = prop_oneof![6 => Just("null"), 1 => Just("\"n\""), 1 => Just("\"six\"")];
    (0..14, 0..4, 0..2, 0..2, network, asked).prop_map(|(name, host, tenant, segment, network, ip)| {
        let ip = ip.map_or_else(|| String::from("null"), |ip| format!("\"{ip}\""));
        json(format!(
            r#"{{"AllocateAddress":{{"name":"n{name}","host":"h{host}","tenant":"t{tenant}","segment":"s{segment}","network":{network},"ip":{ip}}}}}"#
        ))
    })
}

fn host() -> impl Strategy<Value = Command> {
    let add = (0..4, 0..6, labels()).prop_map(|(host, ip, labels)| {
        json(format!(
            r#"{{"AddHost":{{"name":"h{host}","ip":"192.168.0.{}","labels":{labels}}}}}"#,
            ip + 1
        ))
    });
    let update = (0..4, 0..6, labels()).prop_map(|(host, ip, labels)| {
        json(format!(r#"{{"UpdateHost":{{"name":"h{host}","ip":"192.168.0.{}","addresses":["2001:db8::{}"],"labels":{labels}}}}}"#, ip + 1, ip + 1))
    });
    let state = (0..4, select(vec!["up", "up", "down", "draining"])).prop_map(|(host, state)| {
        json(format!(r#"{{"SetHostState":{{"name":"h{host}","state":"{state}"}}}}"#))
    });
    let remove = (0..4, any::<bool>()).prop_map(|(host, force)| {
        json(format!(r#"{{"RemoveHost":{{"name":"h{host}","force":{force}}}}}"#))
    });
    let report = (0..4, 0..60u64, proptest::collection::vec(0..14, 0..14)).prop_map(
        |(host, revision, names)| {
            let names: Vec<_> = names.iter().map(|n| format!("\"n{n}\"")).collect();
            json(format!(
                r#"{{"ReportHost":{{"host":"h{host}","revision":{revision},"running":[{}]}}}}"#,
                names.join(",")
            ))
        },
    );
    // Addresses that networks, endpoints and VIPs may have as well.
    let inside = (0..4, ip())
        .prop_map(|(host, ip)| json(format!(r#"{{"AddHost":{{"name":"h{host}","ip":"{ip}"}}}}"#)));
    let spelled = (0..4).prop_map(|host| {
        json(format!(r#"{{"AddHost":{{"name":"H{host}","ip":"192.168.1.{host}"}}}}"#))
    });
    prop_oneof![8 => add, 2 => update, 4 => state, 2 => remove, 2 => report, 1 => inside, 1 => spelled]
}

fn owners() -> impl Strategy<Value = Command> {
    let tenant = (0..2, any::<bool>(), labels()).prop_map(|(t, create, labels)| match create {
        true => json(format!(r#"{{"CreateTenant":{{"id":"t{t}","labels":{labels}}}}}"#)),
        false => json(format!(r#"{{"DeleteTenant":{{"id":"t{t}"}}}}"#)),
    });
    let segment = (0..2, 0..2, any::<bool>()).prop_map(|(t, s, create)| match create {
        true => json(format!(r#"{{"CreateSegment":{{"tenant":"t{t}","id":"s{s}"}}}}"#)),
        false => json(format!(r#"{{"DeleteSegment":{{"tenant":"t{t}","id":"s{s}"}}}}"#)),
    });
    let endpoint = (ip(), 0..4, 0..2, any::<bool>()).prop_map(|(ip, host, t, set)| match set {
        true => json(format!(
            r#"{{"SetEndpoint":{{"ip":"{ip}","host":"h{host}","tenant":"t{t}","segment":"s0","ports":[{{"name":"http","protocol":"tcp","port":80}}]}}}}"#
        )),
        false => json(format!(r#"{{"RemoveEndpoint":{{"ip":"{ip}"}}}}"#)),
    });
    let policy = (0..2, 0..2, any::<bool>()).prop_map(|(p, t, set)| match set {
        true => json(format!(
            r#"{{"SetPolicy":{{"name":"p{p}","applied_to":[{{"Tenant":"t{t}"}}],"isolates_ingress":true,"isolates_egress":false,
                 "ingress":[{{"peers":["Any"],"traffic":[{{"protocol":"tcp","ports":[{{"Number":80}}]}}]}}]}}}}"#
        )),
        false => json(format!(r#"{{"RemovePolicy":{{"name":"p{p}"}}}}"#)),
    });
    prop_oneof![1 => tenant, 3 => segment, 1 => endpoint, 1 => policy]
}

fn duties(term: u64) -> impl Strategy<Value = Command> {
    let request = (0..3, 0..3).prop_map(|(v, ip)| {
        json(format!(r#"{{"RequestVip":{{"name":"v{v}","ip":"10.0.0.{ip}","candidates":[]}}}}"#))
    });
    let assign = (0..3, 0..4, 0..2u64).prop_map(move |(v, host, stale)| {
        json(format!(
            r#"{{"AssignVip":{{"name":"v{v}","host":"h{host}","term":{}}}}}"#,
            term + stale / 7
        ))
    });
    let reason = prop_oneof![Just("first"), Just("holder_silent"), Just("grant_changed")];
    let agent = prop_oneof![2 => Just("null"), 1 => Just("\"i0\""), 1 => Just("\"i1\"")];
    let place = (0..3, 0..5, 0..5, agent, reason, 0..8u64);
    let place = place.prop_map(move |(v, from, to, agent, reason, stale)| {
        let host = |n: i32| if n == 4 { "null".to_string() } else { format!("\"h{n}\"") };
        json(format!(
            r#"{{"PlaceVip":{{"name":"v{v}","from":{},"to":{},"agent":{agent},"reason":"{reason}","term":{}}}}}"#,
            host(from),
            host(to),
            term + stale / 7
        ))
    });
    let unassign = (0..3)
        .prop_map(move |v| json(format!(r#"{{"UnassignVip":{{"name":"v{v}","term":{term}}}}}"#)));
    let remove = (0..3).prop_map(|v| json(format!(r#"{{"RemoveVip":{{"name":"v{v}"}}}}"#)));
    let router = (0..2, 0..4, any::<bool>()).prop_map(move |(table, host, assign)| match assign {
        true => json(format!(r#"{{"AssignRouter":{{"prefix":"10.0.0.0/26","table":"r{table}","host":"h{host}","term":{term}}}}}"#)),
        false => json(format!(r#"{{"UnassignRouter":{{"prefix":"10.0.0.0/26","table":"r{table}","term":{term}}}}}"#)),
    });
    let pools =
        select(vec!["10.0.0.4/30", "10.0.0.0/30\",\"10.9.0.0/30", "10.9.0.0/31", "fd00::/126"]);
    let pools = pools.prop_map(|ranges| {
        json(format!(r#"{{"SetVipPools":{{"pools":[{{"name":"p","ranges":["{ranges}"]}}]}}}}"#))
    });
    let pooled =
        (0..3).prop_map(|v| json(format!(r#"{{"RequestVipFromPool":{{"name":"v{v}"}}}}"#)));
    prop_oneof![
        2 => request, 6 => assign, 9 => place, 1 => unassign, 1 => remove, 3 => router, 1 => pools, 1 => pooled
    ]
}

/// Objects from outside: two sources, which want and give up the objects that operators make as well.
fn imports(term: u64) -> impl Strategy<Value = Command> {
    let object = prop_oneof![
        (0..4, 0..6, labels()).prop_map(|(host, ip, labels)| format!(
            r#"{{"Host":{{"name":"h{host}","ip":"192.168.0.{}","labels":{labels},"info":{{"k":"{ip}"}}}}}}"#,
            ip + 1
        )),
        (0..2, labels())
            .prop_map(|(t, labels)| format!(r#"{{"Tenant":{{"id":"t{t}","labels":{labels}}}}}"#)),
        (ip(), 0..4, 0..2, labels()).prop_map(|(ip, host, t, labels)| format!(
            r#"{{"Endpoint":{{"ip":"{ip}","host":"h{host}","tenant":"t{t}","segment":"s0","labels":{labels}}}}}"#
        )),
        (0..2, 0..2).prop_map(|(p, t)| format!(
            r#"{{"Policy":{{"name":"p{p}","applied_to":[{{"Tenant":"t{t}"}}],"isolates_ingress":true,"isolates_egress":false}}}}"#
        )),
        (0..3, 0..3, 0..4).prop_map(|(v, ip, host)| format!(
            r#"{{"Vip":{{"name":"v{v}","ip":"10.0.0.{ip}","candidates":["h{host}"]}}}}"#
        )),
    ];
    let import = (object, 0..2, 0..8u64).prop_map(move |(object, uid, stale)| {
        json(format!(
            r#"{{"ImportObject":{{"source":{{"kind":"Kind","uid":"u{uid}"}},"object":{object},"term":{}}}}}"#,
            term + stale / 7
        ))
    });
    let key = prop_oneof![
        (0..4).prop_map(|host| format!(r#"{{"Host":"h{host}"}}"#)),
        (0..2).prop_map(|t| format!(r#"{{"Tenant":"t{t}"}}"#)),
        ip().prop_map(|ip| format!(r#"{{"Endpoint":"{ip}"}}"#)),
        (0..2).prop_map(|p| format!(r#"{{"Policy":"p{p}"}}"#)),
        (0..3).prop_map(|v| format!(r#"{{"Vip":"v{v}"}}"#)),
        Just(String::from(r#""Kubernetes""#)),
    ];
    let withdraw = (key, 0..2).prop_map(move |(key, uid)| {
        json(format!(r#"{{"WithdrawObject":{{"object":{key},"uid":"u{uid}","term":{term}}}}}"#))
    });
    let follow =
        (prop::option::of(0..2), prop::option::of(0..8u64)).prop_map(move |(uid, stale)| {
            let cluster = uid.map_or_else(|| String::from("null"), |uid| format!("\"u{uid}\""));
            let term =
                stale.map_or_else(|| String::from("null"), |stale| (term + stale / 7).to_string());
            json(format!(r#"{{"FollowKubernetes":{{"cluster":{cluster},"term":{term}}}}}"#))
        });
    prop_oneof![12 => import, 4 => withdraw, 1 => follow]
}

/// The command that enables a version.
pub(crate) fn raise(version: u16) -> Command {
    json(format!(r#"{{"RaiseVersion":{{"version":{version}}}}}"#))
}

/// Commands about the cluster: most are refused until the version is raised.
fn cluster() -> impl Strategy<Value = Command> {
    let raise = select(vec![2, 3, 4]).prop_map(raise);
    let retention =
        Just(json(String::from(r#"{"SetRetention":{"age_ms":60000,"bytes":1048576}}"#)));
    let sign = (0..90u64).prop_map(|revision| {
        let digest = "0".repeat(64);
        json(format!(
            r#"{{"SignCheckpoint":{{"term":1,"revision":{revision},"digest":"{digest}","state_digest":"{digest}"}}}}"#
        ))
    });
    let add = (0..4u16, 0..4u64, prop::option::of(1..4u64)).prop_map(|(port, floor, replaces)| {
        let replaces = replaces.map_or_else(|| String::from("null"), |id| id.to_string());
        json(format!(
            r#"{{"AddMember":{{"peer":"m:{port}","floor":{floor},"replaces":{replaces}}}}}"#
        ))
    });
    let claim = (1..6u64, 0..2, 1..4u16).prop_map(|(id, nonce, port)| {
        json(format!(r#"{{"ClaimMember":{{"id":{id},"nonce":"x{nonce}","peer":"m:{port}"}}}}"#))
    });
    let remove = (1..6u64).prop_map(|id| json(format!(r#"{{"RemoveMember":{{"id":{id}}}}}"#)));
    let resume = Just(json(String::from(r#"{"ResumeAllocation":{}}"#)));
    let services = prop::collection::vec(cidr(), 0..2).prop_map(|ranges| {
        let ranges: Vec<_> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
        json(format!(r#"{{"ReserveServices":{{"ranges":[{}]}}}}"#, ranges.join(",")))
    });
    prop_oneof![2 => raise, 1 => services, 1 => retention, 1 => sign, 2 => add, 2 => claim, 1 => remove, 1 => resume]
}

/// Reports of agents; refused until the version is raised.
fn agents() -> impl Strategy<Value = Command> {
    let attached = (0..14, ip(), 0..2, 0..2).prop_map(|(name, ip, tenant, segment)| {
        format!(r#"{{"name":"n{name}","ip":"{ip}","tenant":"t{tenant}","segment":"s{segment}"}}"#)
    });
    let attached = prop::collection::vec(attached, 0..8);
    let kept = prop::collection::vec((0..14).prop_map(|n| format!("\"n{n}\"")), 0..8);
    let report = (0..4, 0..60u64, 0..100_000u64, attached, kept).prop_map(
        |(host, revision, at, running, kept)| {
            let (running, kept) = (running.join(","), kept.join(","));
            json(format!(
                r#"{{"ReportAttachments":{{"host":"h{host}","revision":{revision},"at":{at},"running":[{running}],"kept":[{kept}]}}}}"#
            ))
        },
    );
    let reserve = (0..3).prop_map(|host| {
        json(format!(
            r#"{{"AllocateAddress":{{"name":"reserve:{host}","host":"h{host}","tenant":"t0","segment":"s0"}}}}"#
        ))
    });
    let claim = (0..3, 0..5, 0..14).prop_map(|(host, tenant, name)| {
        json(format!(
            r#"{{"ClaimReserve":{{"reserve":"reserve:{host}","name":"n{name}","host":"h{host}","tenant":"t{}","segment":"s0","since":1}}}}"#,
            tenant / 4
        ))
    });
    let settings = (0..3u32)
        .prop_map(|n| json(format!(r#"{{"ChangeAgentSettings":{{"reserve_per_owner":{n}}}}}"#)));
    let end = Just(json(String::from(r#"{"EndHold":{"term":1}}"#)));
    let enrol = (0..3, 0..3, 0..4).prop_map(|(host, instance, replaces)| {
        let replaces = match replaces {
            3 => String::from("null"),
            n => format!("\"i{n}\""),
        };
        json(format!(
            r#"{{"EnrolAgent":{{"host":"h{host}","instance":"i{instance}","replaces":{replaces}}}}}"#
        ))
    });
    prop_oneof![6 => report, 3 => reserve, 3 => claim, 1 => settings, 1 => end, 2 => enrol]
}

/// Any command; those of leader tasks are in term 1.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    let release = prop_oneof![
        4 => (0..14).prop_map(|n| format!("n{n}")),
        1 => ip().prop_map(|ip| ip.to_string())
    ];
    let release =
        release.prop_map(|a| json(format!(r#"{{"ReleaseAddress":{{"address":"{a}"}}}}"#)));
    let blackout = (cidr(), any::<bool>()).prop_map(|(cidr, add)| match add {
        true => json(format!(r#"{{"AddBlackout":{{"cidr":"{cidr}"}}}}"#)),
        false => json(format!(r#"{{"RemoveBlackout":{{"cidr":"{cidr}"}}}}"#)),
    });
    let settings = select(vec![0, 1000, 30_000])
        .prop_map(|ms| json(format!(r#"{{"ChangeSettings":{{"address_reuse_delay_ms":{ms}}}}}"#)));
    let cooldowns = Just(json(String::from(r#"{"EndCooldowns":{"term":1}}"#)));
    prop_oneof![
        3 => topology(), 6 => host(), 16 => allocate(), 8 => release, 2 => blackout,
        1 => settings, 3 => cooldowns, 6 => owners(), 6 => duties(1), 3 => cluster(),
        6 => agents(), 4 => imports(1),
    ]
}
