//! Every record of the specification, by `dig`.

use crate::api::Api;
use crate::support::{Dns, Upstream, until};
use crate::upstreams::example;

/// The cluster of these tests.
pub(crate) fn fill(api: &Api) {
    for object in [
        "{kind: Namespace, metadata: {name: default}}",
        "{kind: Namespace, metadata: {name: shop}}",
        "{kind: Service, metadata: {namespace: shop, name: web}, spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, \
         'fd00:96::5'], ports: [{name: https, port: 443}, {name: dns, protocol: UDP, port: 53}]}}",
        "{kind: EndpointSlice, metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}, \
         addressType: IPv4, ports: [{name: https, port: 8443}], endpoints: [{addresses: [10.1.0.9]}]}",
        "{kind: Service, metadata: {namespace: shop, name: pg}, spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}}",
        "{kind: EndpointSlice, metadata: {namespace: shop, name: pg-1, labels: {kubernetes.io/service-name: pg}}, \
         addressType: IPv4, ports: [{name: sql, port: 5432}], endpoints: [{addresses: [10.1.0.1], hostname: pg-0}, \
         {addresses: [10.1.0.2]}, {addresses: [10.1.0.3], conditions: {ready: false}}]}",
        "{kind: Service, metadata: {namespace: shop, name: none}, spec: {clusterIP: None}}",
        "{kind: Service, metadata: {namespace: shop, name: out}, spec: {type: ExternalName, externalName: www.example.com}}",
        "{kind: Service, metadata: {namespace: kube-system, name: kube-dns}, spec: {clusterIP: 10.96.0.10}}",
    ] {
        api.put(object);
    }
}

#[test]
fn every_record_of_the_specification_is_there() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let upstream = Upstream::start(example);
    let to = upstream.address.to_string();
    let dns = Dns::follow(&api, &dir, &["--upstream", &to, "--answer", "cluster-ip"]);
    for (asked, expected) in [
        ("dns-version.cluster.local TXT", &["\"1.1.0\""][..]),
        ("web.shop.svc.cluster.local A", &["10.96.0.5"]),
        ("web.shop.svc.cluster.local AAAA", &["fd00:96::5"]),
        ("_https._tcp.web.shop.svc.cluster.local SRV", &["0 100 443 web.shop.svc.cluster.local."]),
        ("_dns._udp.web.shop.svc.cluster.local SRV", &["0 100 53 web.shop.svc.cluster.local."]),
        ("-x 10.96.0.5", &["web.shop.svc.cluster.local."]),
        ("-x fd00:96::5", &["web.shop.svc.cluster.local."]),
        ("pg.shop.svc.cluster.local A", &["10.1.0.1", "10.1.0.2"]),
        ("pg-0.pg.shop.svc.cluster.local A", &["10.1.0.1"]),
        ("10-1-0-2.pg.shop.svc.cluster.local A", &["10.1.0.2"]),
        (
            "_sql._tcp.pg.shop.svc.cluster.local SRV",
            &[
                "0 100 5432 10-1-0-2.pg.shop.svc.cluster.local.",
                "0 100 5432 pg-0.pg.shop.svc.cluster.local.",
            ],
        ),
        ("-x 10.1.0.1", &["pg-0.pg.shop.svc.cluster.local."]),
        ("out.shop.svc.cluster.local CNAME", &["www.example.com."]),
        ("out.shop.svc.cluster.local A", &["192.0.2.1", "www.example.com."]),
        ("10-1-2-3.shop.pod.cluster.local A", &["10.1.2.3"]),
        ("cluster.local NS", &["ns.dns.cluster.local."]),
        ("ns.dns.cluster.local A", &["10.96.0.10"]),
        // The search path of a pod: the first name that exists.
        ("+search +domain=shop.svc.cluster.local web A", &["10.96.0.5"]),
    ] {
        assert_eq!(dns.short(asked), expected, "{asked}\n{}", dns.log());
        assert_eq!(dns.short(&format!("+tcp {asked}")), expected, "by TCP: {asked}");
    }
    for (asked, code, authoritative) in [
        ("no.shop.svc.cluster.local A", "NXDOMAIN", true),
        ("www.example.com.shop.svc.cluster.local A", "NXDOMAIN", true),
        ("web.shop.svc.cluster.local MX", "NOERROR", true),
        ("none.shop.svc.cluster.local A", "NOERROR", true),
        ("shop.svc.cluster.local A", "NOERROR", true),
        ("kube-dns.kube-system.svc.cluster.local AAAA", "NOERROR", true),
        ("nothing.example.com A", "NXDOMAIN", false),
        ("cluster.local AXFR", "REFUSED", false),
        ("version.bind TXT CH", "REFUSED", false),
        ("web.shop.svc.cluster.local A +edns=1 +noednsneg", "BADVERS", false),
        ("web.shop.svc.cluster.local A +opcode=notify", "NOTIMP", false),
    ] {
        // dig prints no header for a transfer.
        if asked.ends_with("AXFR") {
            assert!(dns.dig(asked).contains("Transfer failed"), "{asked}");
            continue;
        }
        let (found, flags) = dns.status(asked);
        let ours = flags.split(' ').any(|flag| flag == "aa");
        assert_eq!((&*found, ours), (code, authoritative), "{asked}: {flags}");
        if authoritative {
            let text = dns.dig(asked);
            assert!(text.contains("IN\tSOA\tns.dns.cluster.local."), "{asked}: {text}");
            assert!(text.contains("ANSWER: 0"), "{asked}: {text}");
        }
    }
    assert_eq!(dns.stop(), Some(0));
}

/// The sample of the documentation: endpoints and cluster IPs. (`tests/cases/sample.txt` has the VIP.)
#[test]
fn a_service_answers_its_endpoints_first() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let dns = Dns::follow(&api, &dir, &["--upstream", ""]);
    let text = dns.dig("+short web.shop.svc.cluster.local A");
    assert_eq!(text.lines().collect::<Vec<_>>(), ["10.1.0.9", "10.96.0.5"]);
}

#[test]
fn the_spelling_of_a_question_is_kept() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let upstream = Upstream::start(example);
    let to = upstream.address.to_string();
    for random_case in ["--random-case=false", "--random-case=true"] {
        let dns = Dns::follow(&api, &dir, &["--upstream", &to, random_case]);
        for name in ["WeB.sHoP.svc.ClUster.LOCAL.", "wWw.ExAmple.cOM."] {
            for _ in 0..2 {
                let text = dns.dig(&format!("+noall +question +answer {name} A"));
                assert!(text.contains(&format!(";{name}")), "{text}");
                assert!(text.contains(&format!("\n{name}")), "{text}");
            }
        }
        assert_eq!(dns.stop(), Some(0));
    }
}

/// 60 addresses: TC by UDP without EDNS, whole by TCP, and whole by UDP for who takes it.
#[test]
fn what_does_not_fit_is_truncated_and_whole_by_tcp() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let slice = |many: usize| {
        let endpoints: Vec<String> = (1..=many)
            .map(|at| format!("{{addresses: [10.2.{}.{}]}}", at / 250, at % 250 + 1))
            .collect();
        format!(
            "{{kind: EndpointSlice, metadata: {{namespace: shop, name: none-1, labels: \
             {{kubernetes.io/service-name: none}}}}, addressType: IPv4, endpoints: [{}]}}",
            endpoints.join(", ")
        )
    };
    api.put(&slice(60));
    let dns = Dns::follow(&api, &dir, &["--upstream", ""]);
    let name = "none.shop.svc.cluster.local A";
    let truncated = |how: &str| {
        let flags = dns.status(&format!("+ignore {how} {name}")).1;
        flags.split(' ').any(|flag| flag == "tc")
    };
    assert!(truncated("+noedns") && truncated("+bufsize=512"));
    assert!(!truncated("+tcp +noedns") && !truncated("+bufsize=4096"));
    // dig asks again by TCP.
    assert_eq!(dns.short(&format!("+noedns {name}")).len(), 60);
    assert_eq!(dns.short(&format!("+ignore +bufsize=4096 {name}")).len(), 60);
    // Never more than what is not fragmented.
    api.put(&slice(120));
    until("120 addresses", || dns.short(&format!("+tcp {name}")).len() == 120);
    assert!(truncated("+bufsize=4096"));
    // Endpoints take turns at the first place.
    let first = || dns.dig(&format!("+short +tcp {name}")).lines().next().map(str::to_owned);
    assert_ne!(first(), first());
}

#[test]
fn metrics_have_the_names_of_coredns() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let upstream = Upstream::start(example);
    let to = upstream.address.to_string();
    let dns = Dns::follow(&api, &dir, &["--upstream", &to]);
    for asked in [
        "web.shop.svc.cluster.local A",
        "www.example.com A",
        "www.example.com A",
        "no.shop.svc.cluster.local A",
    ] {
        dns.dig(asked);
    }
    let text = dns.get("/metrics").1;
    for line in [
        "coredns_dns_requests_total{zone=\"cluster\",proto=\"udp\",family=\"1\",type=\"A\"} 2",
        "coredns_dns_responses_total{zone=\"cluster\",rcode=\"NXDOMAIN\"} 1",
        "coredns_dns_responses_total{zone=\".\",rcode=\"NOERROR\"} 2",
        "coredns_dns_request_duration_seconds_count{zone=\".\"} 2",
        "coredns_cache_hits_total{type=\"success\"} 1",
        "coredns_cache_misses_total 1",
        "coredns_cache_entries 1",
        &format!("coredns_forward_requests_total{{to=\"{to}\"}} 1"),
        &format!("coredns_forward_responses_total{{to=\"{to}\",rcode=\"NOERROR\"}} 1"),
        "romana_dns_ready 1",
        "romana_dns_services 5",
        "romana_dns_kubernetes_follows 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}
