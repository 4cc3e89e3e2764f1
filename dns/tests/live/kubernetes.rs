//! Beside a real kube-apiserver (1.20, which has Endpoints only, or what KUBE_APISERVER names).

use romana_testing::ApiServer;

use crate::support::{Dns, until};

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.5, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Endpoints
metadata: {namespace: shop, name: web}
subsets: [{addresses: [{ip: 10.1.0.9}], ports: [{name: https, port: 8443}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: pg}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Endpoints
metadata: {namespace: shop, name: pg}
subsets: [{addresses: [{ip: 10.1.0.1, hostname: pg-0}], notReadyAddresses: [{ip: 10.1.0.2}], ports: [{name: sql, port: 5432}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: out}
spec: {type: ExternalName, externalName: www.example.com}
";

#[test]
fn services_of_a_real_api_server_have_names() {
    let Some(server) = ApiServer::start("10.96.0.0/16", &[]) else { return };
    until("a ready API server", || server.is_ready());
    let apply = |objects: &str| {
        server.kubectl(&["apply", "--validate=false", "-f", "-"], objects).unwrap();
    };
    apply(OBJECTS);
    let (dir, kubeconfig) = (tempfile::tempdir().unwrap(), server.kubeconfig("admin"));
    let kubeconfig = kubeconfig.display().to_string();
    let options = ["--kubernetes", "--kubeconfig", &kubeconfig, "--upstream", ""];
    let dns = Dns::start(dir.path(), &options);
    until("readiness", || dns.get("/readyz").0 == 200);
    for (asked, expected) in [
        ("web.shop.svc.cluster.local A", &["10.1.0.9", "10.96.0.5"][..]),
        ("_https._tcp.web.shop.svc.cluster.local SRV", &["0 100 443 web.shop.svc.cluster.local."]),
        ("-x 10.96.0.5", &["web.shop.svc.cluster.local."]),
        ("pg.shop.svc.cluster.local A", &["10.1.0.1"]),
        (
            "_sql._tcp.pg.shop.svc.cluster.local SRV",
            &["0 100 5432 pg-0.pg.shop.svc.cluster.local."],
        ),
        ("-x 10.1.0.1", &["pg-0.pg.shop.svc.cluster.local."]),
        ("out.shop.svc.cluster.local CNAME", &["www.example.com."]),
        ("kubernetes.default.svc.cluster.local A", &["10.96.0.1"]),
    ] {
        assert_eq!(dns.short(asked), expected, "{asked}\n{}", dns.log());
    }
    assert_eq!(dns.status("shop.svc.cluster.local A").0, "NOERROR");
    // Changes arrive.
    apply(&OBJECTS.replace("10.1.0.9", "10.1.0.10"));
    until("the change", || dns.short("web.shop.svc.cluster.local A") == ["10.1.0.10", "10.96.0.5"]);
    server.kubectl(&["delete", "service", "web", "-n", "shop"], "").unwrap();
    until("the end", || dns.status("web.shop.svc.cluster.local A").0 == "NXDOMAIN");
    // The API server is killed: everything stays, after a restart as well.
    drop(server);
    assert_eq!(dns.short("pg.shop.svc.cluster.local A"), ["10.1.0.1"]);
    assert_eq!(dns.stop(), Some(0));
    let dns = Dns::start(dir.path(), &["--kubernetes", "--upstream", ""]);
    until("readiness", || dns.get("/readyz").0 == 200);
    assert_eq!(dns.short("pg.shop.svc.cluster.local A"), ["10.1.0.1"]);
}
