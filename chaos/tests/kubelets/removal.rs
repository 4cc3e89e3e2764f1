//! What is deleted leaves nothing behind.

use romana_chaos::cluster::find_romanad;
use serde_json::Value;

use crate::kernel::Traces;
use crate::lab::{Lab, until};
use crate::node::Node;
use crate::{output, overlay};

/// The traces on all nodes.
pub(crate) fn traces(lab: &Lab) -> Vec<Traces> {
    lab.nodes.iter().map(Traces::of).collect()
}

/// Namespaces with all that is in them: log and kernels are as they were before.
pub(crate) async fn of_namespaces(lab: &Lab, names: &[&str], before: &[Traces]) {
    lab.api.run(&[&["delete", "namespace", "--wait=false"], names].concat());
    let mut now = Vec::new();
    let kernels = lab.until("no pod is in the kernels", async || {
        now = traces(lab);
        now.iter().all(Traces::has_no_pods)
    });
    kernels.await;
    // A kubelet of 1.20 forgets pods that have ended once a minute.
    for name in names {
        let namespace = format!("--namespace={name}");
        let at_once = ["--force", "--grace-period=0", "--wait=false", "--ignore-not-found"];
        lab.api.run(&[&["delete", "pods", "--all", &namespace][..], &at_once].concat());
    }
    lab.until("the namespaces are gone", async || {
        let left = lab.api.list("/api/v1/namespaces").await;
        left.is_some_and(|left| !left.iter().any(|one| names.contains(&name(one))))
    })
    .await;
    lab.until("nothing of them is in the log", async || nothing_in_log(lab, names).await).await;
    let same = until("the kernels are as before", async || {
        now = traces(lab);
        now == before
    });
    if let Err(error) = same.await {
        panic!("{error}\nbefore: {before:#?}\nnow: {now:#?}");
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

async fn nothing_in_log(lab: &Lab, namespaces: &[&str]) -> bool {
    let of_tenant = |item: &Value, key: &str| {
        namespaces.iter().any(|namespace| item[key].as_str() == Some(*namespace))
    };
    let lists = [
        ("/v1/endpoints?limit=1000", "tenant"),
        ("/v1/addresses?limit=1000", "tenant"),
        ("/v1/tenants", "id"),
    ];
    for (path, key) in lists {
        let items = lab.romana_list(path).await;
        // Agents keep a reserve of addresses, which belongs to no pod.
        let is_reserve =
            |item: &Value| item["name"].as_str().is_some_and(|name| name.starts_with("reserve:"));
        let left = |item: &&Value| of_tenant(item, key) && !is_reserve(item);
        if items.is_none_or(|items| items.iter().any(|item| left(&item))) {
            return false;
        }
    }
    let policies = lab.romana_list("/v1/policies").await;
    policies.is_some_and(|policies| {
        !policies.iter().any(|policy| {
            let name = policy["name"].as_str().unwrap_or_default();
            namespaces.iter().any(|namespace| name.starts_with(&format!("kube.{namespace}.")))
        })
    })
}

/// Romana itself, as deploy/README.md says.
pub(crate) async fn of_romana(lab: &Lab) {
    lab.api.run(&["delete", "--kustomize", &overlay("single"), "--wait=false"]);
    lab.until("Romana's programs have ended", async || {
        let runs =
            |node: &Node| output(node.machine.command("pgrep").arg("romana")).status.success();
        !lab.nodes.iter().any(runs)
    })
    .await;
    let agent = find_romanad(None).expect("programs").with_file_name("romana-agent");
    let agent = agent.to_str().expect("a path");
    for node in &lab.nodes {
        node.machine.run(agent, &["install", "--uninstall"]);
        node.machine.run(agent, &["cleanup"]);
        let left = Traces::of(node);
        assert!(left.is_nothing(), "{left:#?}");
        assert_eq!(node.machine.run("ip", &["route", "show", "proto", "57"]), "");
    }
    lab.until("the nodes have no network", async || {
        lab.readiness().await.iter().all(|(ready, _)| !ready)
    })
    .await;
}
