//! Fuzzing: for any input the answer is one of the documented ones: no panic, no 500.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::world::World;

const TARGETS: [(&str, &str); 15] = [
    ("POST", "/v1/addresses"),
    ("POST", "/v1/batch"),
    ("PUT", "/v1/topology"),
    ("POST", "/v1/topology/plan"),
    ("POST", "/v1/hosts"),
    ("PATCH", "/v1/hosts/h1"),
    ("POST", "/v1/policies"),
    ("POST", "/v1/policies/check"),
    ("PUT", "/v1/tenants/t"),
    ("PUT", "/v1/vips/v"),
    ("PUT", "/v1/vip-pools"),
    ("PUT", "/v1/endpoints/10.0.0.1"),
    ("PATCH", "/v1/settings"),
    ("POST", "/address"),
    ("POST", "/policies"),
];

/// JSON that resembles valid requests.
fn jsonish() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "ip",
        "host",
        "tenant",
        "segment",
        "cidr",
        "networks",
        "topologies",
        "map",
        "groups",
        "hosts",
        "labels",
        "applied_to",
        "peers",
        "rules",
        "ports",
        "protocol",
        "securitypolicies",
        "AllocateAddress",
        "SetTopology",
        "SetPolicy",
        "block_mask",
        "state",
        "candidates",
        "id",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        prop::sample::select(vec![
            "h1",
            "10.0.0.0/8",
            "::1",
            "10.111.0.9",
            "",
            "tcp",
            "any",
            "\u{0}é"
        ])
        .prop_map(|s| serde_json::to_string(s).unwrap()),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

#[test]
fn no_body_or_query_breaks_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::furnished());
    let body = prop_oneof![
        4 => jsonish().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let query =
        "[a-z]{0,8}(=[a-z0-9%:/.,-]{0,12})?(&(limit|continue|for|topics|from)=[0-9a-z%:.]{0,8})?";
    let case = (prop::sample::select(TARGETS.to_vec()), body, query);
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let result = runner.run(&case, |((method, target), body, query)| {
        let answer = runtime.block_on(async {
            let headers = [("content-type", "application/json")];
            let first = world.ask(method, target, &headers, body).await;
            let lists = ["/v1/addresses", "/v1/hosts", "/v1/routes", "/v1/snapshot"];
            let list = lists[query.len() % lists.len()];
            let second = world.ask("GET", &format!("{list}?{query}"), &[], "").await;
            [first, second]
        });
        for answer in answer {
            prop_assert!(answer.status != 500, "{}", String::from_utf8_lossy(&answer.body));
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok());
        }
        Ok(())
    });
    runtime.block_on(world.end());
    result.unwrap();
}
