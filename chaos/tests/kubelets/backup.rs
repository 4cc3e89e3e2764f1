//! The backup's CronJob, run now, and the restore that deploy/README.md describes, on replicas that have lost everything.

use std::net::IpAddr;
use std::process::Command;

use ipnet::IpNet;
use romana_chaos::cluster::find_romanad;
use serde_json::{Value, json};

use crate::lab::{Lab, romana_on, until_within};
use crate::pods::Pod;
use crate::streams::Streams;
use crate::{SLOW, all_reach_each_other, must, output, overlay, ready, replicas, rolling};

/// Where the volume of the backups is, on the first node.
const VOLUME: &str = "/var/lib/romana-backup";
const JOBS: &str = "/apis/batch/v1/namespaces/kube-system/jobs";
/// Services of the three founders, as the guide names them.
const FOUNDERS: &str = "http://10.96.0.100,http://10.96.0.101,http://10.96.0.102";

/// A volume for the claim of the component: the lab has no storage class.
pub(crate) fn make_volume(lab: &Lab) {
    let machine = &lab.node("n1").machine;
    machine.run("mkdir", &["-p", VOLUME]);
    // A class gives a volume to the pod's group. Who runs in the pod is in the component.
    machine.run("chown", &["65532:65532", VOLUME]);
    let on_n1 = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]);
    lab.api.apply(&[json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "romana-backup"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": "kube-system", "name": "romana-backup"},
            "hostPath": {"path": VOLUME, "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": on_n1}]}},
        },
    })]);
}

/// What must be the same after the restore, list by list: everything of the pods, and what they are in.
#[derive(Debug, PartialEq, Eq)]
struct Kept(Vec<(&'static str, Vec<String>)>);

/// The lists, whether only what belongs to pods is compared, and the fields.
const LISTS: [(&str, bool, &[&str]); 7] = [
    ("/v1/hosts", false, &["name", "ip", "labels", "state", "places"]),
    ("/v1/networks", false, &["name", "cidr", "block_mask"]),
    ("/v1/tenants", false, &["id"]),
    ("/v1/policies", false, &["name", "applied_to", "isolates_ingress", "ingress", "egress"]),
    ("/v1/endpoints?limit=1000", true, &["ip", "host", "tenant", "segment", "labels"]),
    ("/v1/addresses?limit=1000", true, &["name", "ip", "host", "tenant", "segment"]),
    ("/v1/blocks?limit=1000", true, &["cidr", "host", "tenant", "segment"]),
];

impl Kept {
    /// `None`: no replica answers.
    async fn of(lab: &Lab, pods: &[Pod]) -> Option<Self> {
        let mut kept = Vec::new();
        for (path, of_pods, fields) in LISTS {
            let items = lab.romana_list(path).await?;
            let shown = |item: &Value| {
                let fields = fields.iter().map(|field| format!("{field}={}", item[*field]));
                fields.collect::<Vec<_>>().join(" ")
            };
            let wanted = items.iter().filter(|item| !of_pods || belongs(item, pods));
            let mut lines: Vec<String> = wanted.map(shown).collect();
            lines.sort();
            kept.push((path, lines));
        }
        Some(Self(kept))
    }
}

/// Whether something belongs to pods. Agents keep a reserve of addresses and blocks, which belongs to none.
fn belongs(item: &Value, pods: &[Pod]) -> bool {
    let text = |field: &str| item[field].as_str().unwrap_or_default();
    match (text("cidr").parse::<IpNet>(), text("ip").parse::<IpAddr>()) {
        (Ok(block), _) => pods.iter().any(|pod| block.contains(&pod.ip)),
        (_, Ok(ip)) => pods.iter().any(|pod| pod.ip == ip),
        _ => false,
    }
}

/// Runs the CronJob's Job once: what `kubectl create job --from=cronjob/romana-backup` does. A kubectl of today cannot,
/// with a server that has CronJobs as v1beta1 only.
async fn run_now(lab: &Lab) {
    let path = "/apis/batch/v1beta1/namespaces/kube-system/cronjobs/romana-backup";
    let template = lab.api.get(path).await["spec"]["jobTemplate"].clone();
    assert!(template["spec"].is_object(), "there is no CronJob: {template}");
    lab.api.apply(&[json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "backup-now",
            "namespace": "kube-system",
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
        },
        "spec": template["spec"],
    })]);
    lab.until_within(SLOW, "the backup is saved", async || {
        let job = lab.api.get(&format!("{JOBS}/backup-now")).await;
        assert!(job["status"]["failed"].is_null(), "{job:#}\n{}", logs(lab));
        job["status"]["succeeded"] == 1
    })
    .await;
}

fn logs(lab: &Lab) -> String {
    lab.api.try_run(&["logs", "--namespace=kube-system", "job/backup-now"])
}

/// `romana` on the first node, where Services are.
fn on_n1(lab: &Lab, arguments: &[&str]) -> Command {
    let romana = find_romanad(None).expect("programs").with_file_name("romana");
    let mut command = lab.node("n1").machine.command(romana);
    command.args(arguments);
    command
}

/// Takes all replicas away, with all that they know.
async fn destroy(lab: &Lab) {
    let mut places = Vec::new();
    for ordinal in 0..3 {
        places.push((replicas::node_of(lab, ordinal).await, format!("romanad-{ordinal}")));
    }
    let scale = ["scale", "--namespace=kube-system", "statefulset", "romanad", "--replicas=0"];
    lab.api.run(&scale);
    lab.until("the replicas have ended", async || {
        let pods = lab.api.list("/api/v1/namespaces/kube-system/pods").await;
        let is_replica = |pod: &Value| {
            pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("romanad-"))
        };
        pods.is_some_and(|pods| !pods.iter().any(is_replica))
    })
    .await;
    for (node, replica) in places {
        let data = format!("/var/lib/romanad/{replica}");
        lab.node(&node).machine.run("rm", &["-r", &data]);
    }
}

/// Waits until all replicas wait for a backup.
async fn await_backup(lab: &Lab) {
    lab.until_within(SLOW, "the replicas wait for a backup", async || {
        let mut waiting = 0;
        for node in &lab.nodes {
            let health = romana_on(node, "/healthz").await.unwrap_or_default();
            waiting += usize::from(health["waiting"] == true);
        }
        waiting == 3
    })
    .await;
}

/// Waits until `romana doctor` finds nothing that is bad.
async fn doctor_is_content(lab: &Lab) {
    let mut said = String::new();
    let what = "romana doctor is content";
    let asked = until_within(SLOW, what, async || {
        let answer = output(&mut on_n1(lab, &["--rootURL", FOUNDERS, "doctor"]));
        said = String::from_utf8_lossy(&answer.stdout).into_owned();
        answer.status.success()
    });
    if let Err(error) = asked.await {
        panic!("{error}\n{said}\n{}", lab.report().await);
    }
}

/// Saved, lost, restored: all is as it was, and pods have not noticed.
pub(crate) async fn saved_and_restored(lab: &Lab, pods: &[Pod]) {
    rolling::only_each_other(lab, pods).await;
    let before = Kept::of(lab, pods).await.expect("a replica answers");
    assert!(before.0.iter().all(|(_, lines)| !lines.is_empty()), "nothing to keep: {before:#?}");
    let cluster = lab.romana("/v1/cluster").await["cluster_id"].clone();
    run_now(lab).await;
    let file = format!("{VOLUME}/romana.backup");
    let verified = must(&mut on_n1(lab, &["--format", "json", "backup", "verify", &file]));
    let verified: Value = serde_json::from_str(&verified).expect("JSON");
    let told = (&verified["verified"], &verified["complete"], &verified["cluster_id"]);
    assert_eq!(told, (&json!(true), &json!(true), &cluster), "{verified:#}");

    let streams = Streams::start(&rolling::one_on_each(lab, pods));
    destroy(lab).await;
    lab.api.run(&["apply", "--kustomize", &overlay("restore")]);
    await_backup(lab).await;
    println!("{}", must(&mut on_n1(lab, &["--rootURL", FOUNDERS, "backup", "restore", &file])));
    doctor_is_content(lab).await;
    lab.api.run(&["apply", "--kustomize", &overlay("backup")]);
    rolling::rolled_out(lab, "statefulset/romanad", async || ()).await;
    replicas::are(lab, &[0, 1, 2]).await;
    streams.finish();

    assert_ne!(lab.romana("/v1/cluster").await["cluster_id"], cluster, "it is a new cluster");
    let mut after = None;
    let same = until_within(SLOW, "the lists are those before", async || {
        after = Kept::of(lab, pods).await;
        after.as_ref() == Some(&before)
    });
    if let Err(error) = same.await {
        panic!("{error}\nbefore: {before:#?}\nnow: {after:#?}");
    }
    // The kernels, too; and what is new gets addresses that nobody has.
    all_reach_each_other(lab, pods).await;
    let more = pods.len() + 3;
    let count = format!("--replicas={more}");
    lab.api.run(&["scale", "--namespace=shop", "deployment/web", &count]);
    let all = ready(lab, "shop", "app=web", more).await;
    all_reach_each_other(lab, &all).await;
}
