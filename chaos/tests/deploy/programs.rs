//! The programs accept what the manifests give them: arguments, environment, files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use romana_chaos::cluster::free_ports;
use serde_json::Value;
use tempfile::TempDir;

use crate::kustomize::{Template, items, named, overlays, rendered, text};
use crate::manifests::PROGRAMS;
use crate::{built, must, output};

/// A container, as a kubelet starts it: its volumes are directories of a temporary one.
struct Started {
    dir: TempDir,
    program: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Started {
    /// `pod`: the name of the pod.
    fn new(objects: &[Value], template: &Template<'_>, container: &Value, pod: &str) -> Self {
        let dir = TempDir::with_prefix("deploy-").unwrap();
        let mut mounts = Vec::new();
        for mount in items(&container["volumeMounts"]) {
            let at = text(mount, "mountPath");
            let inside = dir.path().join(at.trim_start_matches('/'));
            fs::create_dir_all(&inside).unwrap();
            mounts.push(at.to_owned());
            let volume = items(&template.pod["volumes"]).find(|one| one["name"] == mount["name"]);
            if let Some(name) = volume.and_then(|volume| volume["configMap"]["name"].as_str()) {
                let data = named(objects, "ConfigMap", name)["data"].as_object().unwrap();
                for (file, content) in data {
                    fs::write(inside.join(file), content.as_str().unwrap()).unwrap();
                }
            }
        }
        let env = environment(objects, container, pod);
        let words = items(&container["command"]).chain(items(&container["args"]));
        let words = words.map(|word| expand(word.as_str().unwrap(), &env));
        let mut args: Vec<String> = words.map(|word| moved(&word, &mounts, dir.path())).collect();
        let env = env.into_iter().map(|(name, value)| (name, moved(&value, &mounts, dir.path())));
        let env = env.collect();
        let program = args.remove(0);
        let program = program.strip_prefix(PROGRAMS).expect("a program of the image");
        Self { program: built(program), dir, args, env }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env).current_dir(self.dir.path());
        command
    }
}

/// A path below a mount, below `dir`.
fn moved(text: &str, mounts: &[String], dir: &Path) -> String {
    let mount = mounts.iter().find(|mount| {
        let path = text.rsplit_once('=').map_or(text, |(_, value)| value);
        path == **mount || path.starts_with(&format!("{mount}/"))
    });
    let below =
        |mount: &String| text.replacen(mount.as_str(), &format!("{}{mount}", dir.display()), 1);
    mount.map_or_else(|| text.to_owned(), below)
}

/// Replaces `$(NAME)`, as the kubelet does.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    env.iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// A container's variables: those of its ConfigMaps, then its own.
fn environment(objects: &[Value], container: &Value, pod: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for source in items(&container["envFrom"]) {
        let data = &named(objects, "ConfigMap", text(&source["configMapRef"], "name"))["data"];
        for (name, value) in data.as_object().unwrap() {
            env.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
    }
    for variable in items(&container["env"]) {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => pod.to_owned(),
            Some("spec.nodeName") => "Node-1.example".to_owned(),
            Some(other) => panic!("{other} is not known to this test"),
            None => expand(text(variable, "value"), &env),
        };
        env.insert(text(variable, "name").to_owned(), value);
    }
    env
}

/// The container of a workload, and its template.
fn with_container<'a>(objects: &'a [Value], kind: &str, name: &str) -> (Template<'a>, &'a Value) {
    let owner = named(objects, kind, name);
    let templates = Template::all(objects).into_iter();
    let template = templates.into_iter().find(|one| one.owner == owner).unwrap();
    let container = items(&template.pod["containers"]).next().unwrap();
    (template, container)
}

/// Flags and variables that a program's help names.
fn assert_known(program: &Path, args: &[String], env: &BTreeMap<String, String>, prefix: &str) {
    let help = must(Command::new(program).arg("--help"));
    for name in env.keys().filter(|name| name.starts_with(prefix)) {
        assert!(help.contains(&format!("[env: {name}=]")), "{} has no {name}", program.display());
    }
    for flag in args.iter().filter(|arg| arg.starts_with("--")) {
        let flag = flag.split_once('=').map_or(&**flag, |(flag, _)| flag);
        assert!(help.contains(&format!("{flag} ")), "{} has no {flag}", program.display());
    }
}

/// `romanad --check` with the arguments, environment and files of each replica. That `--kubernetes` finds its
/// credentials can be checked in a pod only.
#[test]
fn romanad_accepts_what_each_replica_gets() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let (template, container) = with_container(&objects, "StatefulSet", "romanad");
        for at in 0..5 {
            let mut pod = Started::new(&objects, &template, container, &format!("romanad-{at}"));
            assert_known(&pod.program, &pod.args, &pod.env, "ROMANAD_");
            let followed = pod.env.insert("ROMANAD_KUBERNETES".into(), "false".into());
            assert_eq!(followed.as_deref(), Some("true"), "{overlay}");
            let is_aws = pod.env.contains_key("ROMANAD_CLOUD");
            if is_aws {
                // In AWS, the instance metadata service knows it.
                pod.env.insert("ROMANAD_REGION".into(), "us-west-1".into());
            }
            let api = if is_aws { "100.64.0.1" } else { "10.96.0.1" };
            pod.env.insert("KUBERNETES_SERVICE_HOST".into(), api.into());
            let dir = &pod.env["ROMANAD_DATA_DIR"];
            assert!(dir.ends_with(&format!("/var/lib/romanad/romanad-{at}")), "{dir}");
            must(pod.command().arg("--check"));
        }
    }
}

#[test]
fn the_agent_accepts_what_it_gets() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let (template, container) = with_container(&objects, "DaemonSet", "romana-agent");
        let agent = Started::new(&objects, &template, container, "romana-agent-x");
        assert_known(&agent.program, &agent.args, &agent.env, "ROMANA_AGENT_");
        must(agent.command().arg("--check"));
    }
}

/// That it finds the credentials of its pod can be checked in a pod only.
#[test]
fn dns_accepts_what_it_gets() {
    let objects = rendered("kubeadm-dns");
    let (template, container) = with_container(&objects, "Deployment", "romana-dns");
    let dns = Started::new(&objects, &template, container, "romana-dns-x");
    assert_known(&dns.program, &dns.args, &dns.env, "ROMANA_DNS_");
    must(dns.command().arg("--check"));
    let spoilt = dns.command().args(["--check", "--zone", "."]).output().unwrap();
    assert_eq!(spoilt.status.code(), Some(2));
    // The server is where the agents have it, and listens where the container says.
    let agents = named(&objects, "DaemonSet", "romana-agent");
    let templates = Template::all(&objects).into_iter();
    let agent = templates.into_iter().find(|one| one.owner == agents).unwrap();
    let env = environment(&objects, items(&agent.pod["containers"]).next().unwrap(), "x");
    assert_eq!(dns.env["ROMANA_DNS_SERVER"], env["ROMANA_AGENT_SERVER"]);
    for (variable, ports) in [("ROMANA_DNS_LISTEN", 2), ("ROMANA_DNS_METRICS", 1)] {
        let port: u64 = dns.env[variable].rsplit(':').next().unwrap().parse().unwrap();
        let declared = items(&container["ports"]).filter(|one| one["containerPort"] == port);
        assert_eq!(declared.count(), ports, "{variable}");
    }
}

/// The init container puts the plugin and its configuration where the volumes are, also when it does so again.
#[test]
fn the_plugin_is_installed() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let (template, _) = with_container(&objects, "DaemonSet", "romana-agent");
        let container = items(&template.pod["initContainers"]).next().unwrap();
        let install = Started::new(&objects, &template, container, "romana-agent-x");
        must(&mut install.command());
        must(&mut install.command());
        let host = install.dir.path().join("host");
        assert!(host.join("opt/cni/bin/romana-cni").is_file());
        let conflist = fs::read_to_string(host.join("etc/cni/net.d/10-romana.conflist")).unwrap();
        let conflist: Value = serde_json::from_str(&conflist).unwrap();
        let plugin = &conflist["plugins"][0];
        // The agent's volumes are at the plugin's paths on the node.
        let (template, container) = with_container(&objects, "DaemonSet", "romana-agent");
        let same = |path: &str| {
            items(&container["volumeMounts"]).any(|mount| {
                let volume = items(&template.pod["volumes"])
                    .find(|volume| volume["name"] == mount["name"])
                    .unwrap();
                mount["mountPath"] == *path && volume["hostPath"]["path"] == *path
            })
        };
        assert!(same(text(plugin, "stateDir")), "{plugin}");
        let socket = Path::new(text(plugin, "socket"));
        assert!(same(socket.parent().unwrap().to_str().unwrap()), "{plugin}");
    }
}

/// The backup's command is one of the CLI's: with no control plane it fails as unavailable, not as misused.
#[test]
fn the_backup_is_a_command() {
    const UNAVAILABLE: i32 = 3;
    let objects = rendered("kops-aws");
    let (template, container) = with_container(&objects, "CronJob", "romana-backup");
    let mut backup = Started::new(&objects, &template, container, "romana-backup-x");
    let closed = free_ports(1).unwrap()[0];
    for arg in &mut backup.args {
        if arg.starts_with("--rootURL=") {
            *arg = "--rootURL=http://127.0.0.1".into();
        } else if arg.starts_with("--rootPort=") {
            *arg = format!("--rootPort={closed}");
        }
    }
    let output = output(backup.command().arg("--timeout=1s"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{:?}: {errors}", backup.args);
}
