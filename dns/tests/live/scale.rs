//! Ten thousand Services, and changes faster than clusters have them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::Api;
use crate::support::{Dns, until};

const SERVICES: usize = 10_000;

fn service(at: usize, ip: &str) -> serde_json::Value {
    json!({"kind": "Service", "metadata": {"namespace": format!("n{}", at % 100), "name": format!("s{at}")},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}})
}

fn slice(at: usize, ip: &str) -> serde_json::Value {
    json!({"kind": "EndpointSlice", "metadata": {"namespace": format!("n{}", at % 100), "name": format!("s{at}-x"),
        "labels": {"kubernetes.io/service-name": format!("s{at}")}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [ip]}]})
}

#[test]
fn ten_thousand_services_and_a_hundred_changes_a_second() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    for at in 0..SERVICES {
        api.put_value(service(at, &format!("10.96.{}.{}", at / 250, at % 250)));
        api.put_value(slice(at, &format!("10.1.{}.{}", at / 250, at % 250)));
    }
    let dns = Dns::follow(&api, &dir, &["--upstream", ""]);
    assert!(dns.get("/metrics").1.contains("\nromana_dns_services 10000\n"));
    let name = |at: usize| format!("s{at}.n{}.svc.cluster.local A", at % 100);
    for at in [0, 4_321, SERVICES - 1] {
        let ips =
            [format!("10.1.{}.{}", at / 250, at % 250), format!("10.96.{}.{}", at / 250, at % 250)];
        assert_eq!(dns.short(&name(at)), ips);
    }
    // Three seconds of them, each at its time; the last of each second is waited for.
    let begin = Instant::now();
    for change in 0..300_usize {
        let due = begin + Duration::from_millis(10) * u32::try_from(change).unwrap();
        let ip = format!("10.9.{}.{}", change / 250, change % 250);
        api.put_value(slice(change, &ip));
        if change % 100 == 99 {
            until("the change", || dns.short(&name(change)).contains(&ip));
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    for change in [0, 150, 299] {
        let ip = format!("10.9.{}.{}", change / 250, change % 250);
        until("the change", || dns.short(&name(change)).contains(&ip));
    }
    assert!(!dns.log().contains("ERROR"), "{}", dns.log());
}
