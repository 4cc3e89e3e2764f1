//! Fail static: what is known is answered, whatever is away.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::api::Api;
use crate::records::fill;
use crate::support::{Dns, until};

const WEB: &str = "web.shop.svc.cluster.local A";

#[test]
fn the_api_server_may_be_away_also_after_a_restart() {
    let (mut api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let options = ["--upstream", "", "--answer", "cluster-ip"];
    let dns = Dns::follow(&api, &dir, &options);
    assert_eq!(dns.short(WEB), ["10.96.0.5"]);
    api.go();
    until("a problem", || dns.get("/status").1.contains("cannot"));
    assert_eq!((dns.short(WEB), dns.get("/readyz").0), (vec!["10.96.0.5".into()], 200));
    assert_eq!(dns.stop(), Some(0));

    // Started without the API server: the copy on disk.
    let dns = Dns::follow(&api, &dir, &options);
    assert_eq!(dns.short(WEB), ["10.96.0.5"]);
    assert_eq!(dns.short("pg.shop.svc.cluster.local A").len(), 2);
    assert_eq!(dns.status("shop.svc.cluster.local A").0, "NOERROR");

    // Back, with changes in between: one gone, one changed, one new.
    api.delete("Service", "shop", "none");
    api.put(
        "{kind: Service, metadata: {namespace: shop, name: web}, spec: {clusterIP: 10.96.0.55}}",
    );
    api.put(
        "{kind: Service, metadata: {namespace: shop, name: new}, spec: {clusterIP: 10.96.0.77}}",
    );
    api.come();
    until("the change", || dns.short(WEB) == ["10.96.0.55"]);
    assert_eq!(dns.short("new.shop.svc.cluster.local A"), ["10.96.0.77"]);
    assert_eq!(dns.status("none.shop.svc.cluster.local A").0, "NXDOMAIN");
    until("no problem", || !dns.get("/status").1.contains("cannot"));
    // Changes, and a namespace that goes, while it is followed.
    api.delete("Service", "shop", "new");
    until("the end", || dns.status("new.shop.svc.cluster.local A").0 == "NXDOMAIN");
}

/// What was never known is a failure, not NXDOMAIN, which clients would believe.
#[test]
fn before_anything_is_known_nothing_is_denied() {
    let (mut api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    api.go();
    let kubeconfig = api.kubeconfig(dir.path()).display().to_string();
    let dns =
        Dns::start(dir.path(), &["--kubernetes", "--kubeconfig", &kubeconfig, "--upstream", ""]);
    let (code, text) = dns.get("/readyz");
    assert_eq!(code, 503, "{text}");
    let answer = dns.ask("web.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    api.come();
    until("readiness", || dns.get("/readyz").0 == 200);
    assert_eq!(dns.short(WEB), ["10.1.0.9", "10.96.0.5"]);
}

/// A control plane that was never heard takes nothing from the Services, nor from the search path; what only it knows is a
/// failure.
#[test]
fn services_need_no_control_plane() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let dns = Dns::follow(&api, &dir, &["--upstream", "", "--server", "http://127.0.0.1:1"]);
    assert_eq!(dns.short(WEB), ["10.1.0.9", "10.96.0.5"]);
    assert_eq!(dns.status("www.example.com.shop.svc.cluster.local A").0, "NXDOMAIN");
    for name in ["web.vip.cluster.local.", "vm.s.t.endpoint.cluster.local."] {
        let answer = dns.ask(name, RecordType::A).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
}

/// A damaged copy is set aside, and the API server asked.
#[test]
fn a_damaged_copy_is_set_aside() {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let dns = Dns::follow(&api, &dir, &["--upstream", ""]);
    assert_eq!(dns.stop(), Some(0));
    let copy = dir.path().join("state/services");
    let mut bytes = std::fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    let dns = Dns::follow(&api, &dir, &["--upstream", ""]);
    assert_eq!(dns.short(WEB), ["10.1.0.9", "10.96.0.5"]);
    assert!(dir.path().join("state/services.damaged").exists());
    // Two of them would overwrite each other's copy.
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_romana-dns"))
        .args(["--kubernetes", "--upstream", "", "--listen", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains("another romana-dns uses"), "{said}");
}
