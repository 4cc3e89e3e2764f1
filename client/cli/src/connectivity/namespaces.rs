//! Endpoints in network namespaces of this host, attached by the CNI plugin as a container runtime does it.

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use romana_daemon::file::{self, CONFIG_BYTES_MAX};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::plan::{CLOSED, OPEN};
use crate::process::{self, Limits, argv};

/// The plugin's type in a configuration, which is its file name.
const PLUGIN: &str = "romana-cni";
/// Time for one program, and for a responder to listen.
const LIMITS: Limits = Limits { within: Duration::from_secs(30), bytes_max: 1 << 20 };
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// The interface in an endpoint.
const LINK: &str = "eth0";

/// The plugin as the container runtime would call it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plugin {
    program: String,
    bin_dir: String,
    config: Value,
}

impl Plugin {
    /// Reads the first configuration that has the plugin.
    pub(super) fn load(conf_dir: &Path, bin_dir: &Path) -> Result<Self, String> {
        let listed = std::fs::read_dir(conf_dir);
        let listed = listed.map_err(|error| format!("{}: {error}", conf_dir.display()))?;
        let mut files: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let texts = files.iter().filter_map(|file| file::read_text(file, CONFIG_BYTES_MAX).ok());
        let mut documents = texts.filter_map(|text| serde_json::from_str::<Value>(&text).ok());
        let config = documents.find_map(|document| config_of(&document)).ok_or_else(|| {
            format!("no configuration in {} has the plugin {PLUGIN}", conf_dir.display())
        })?;
        let program = bin_dir.join(PLUGIN);
        if !program.is_file() {
            return Err(format!("{} is missing", program.display()));
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(Self { program: text(&program), bin_dir: text(bin_dir), config })
    }

    /// Calls it. The result is empty where the command has none.
    async fn call(&self, verb: &str, one: &Attachment) -> Result<Value, String> {
        let env = one.environment(verb, &self.bin_dir);
        let argv = [self.program.clone()];
        let input = self.config.to_string();
        let ran = process::run_with(&argv, Some(&env), input.as_bytes(), LIMITS).await?;
        let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        if ran.code == Some(0) {
            return Ok(answer);
        }
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let said = [text("msg"), text("details"), ran.stderr.trim().to_owned()];
        let said: Vec<String> = said.into_iter().filter(|text| !text.is_empty()).collect();
        Err(format!("{PLUGIN} {verb}: {}", said.join(": ")))
    }
}

/// The plugin's own configuration in a document: of a list, or of a single plugin.
fn config_of(document: &Value) -> Option<Value> {
    let plugins = document["plugins"].as_array().cloned();
    let plugins = plugins.unwrap_or_else(|| vec![document.clone()]);
    let mut own = plugins.into_iter().find(|plugin| plugin["type"] == PLUGIN)?;
    for key in ["name", "cniVersion"] {
        own[key] = document[key].clone();
    }
    Some(own)
}

/// One endpoint of this test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// Name of the network namespace and of the container.
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) segment: String,
}

impl Attachment {
    fn netns(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// The environment of a call (CNI specification).
    fn environment(&self, verb: &str, bin_dir: &str) -> Vec<(String, String)> {
        let Self { name, tenant, segment } = self;
        let args = format!("IgnoreUnknown=1;ROMANA_TENANT={tenant};ROMANA_SEGMENT={segment}");
        let netns = self.netns();
        let pairs = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", name.as_str()),
            ("CNI_NETNS", netns.as_str()),
            ("CNI_IFNAME", LINK),
            ("CNI_PATH", bin_dir),
            ("CNI_ARGS", args.as_str()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Makes the namespace and attaches it. Returns its addresses.
    pub(super) async fn add(&self, plugin: &Plugin) -> Result<Vec<IpAddr>, String> {
        run(&argv(["ip", "netns", "add", &self.name])).await?;
        run(&argv(["ip", "-netns", &self.name, "link", "set", "lo", "up"])).await?;
        let ips = addresses(&plugin.call("ADD", self).await?);
        if ips.is_empty() { Err(format!("{PLUGIN} ADD gave no address")) } else { Ok(ips) }
    }

    /// Detaches it and removes the namespace. What is not there is no error.
    pub(super) async fn remove(&self, plugin: &Plugin) -> Result<(), String> {
        let detached = plugin.call("DEL", self).await.map(drop);
        let made = Path::new(&self.netns()).exists();
        let removed = match made {
            true => run(&argv(["ip", "netns", "delete", &self.name])).await,
            false => Ok(()),
        };
        detached.and(removed)
    }

    /// Starts the test's server in it. It ends with this program, whatever ends that.
    pub(super) async fn respond(&self) -> Result<Child, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let (own, ports) = (own.to_string_lossy().into_owned(), format!("{OPEN},{CLOSED}"));
        let words =
            ["ip", "netns", "exec", &*self.name, &*own, "connectivity", "respond", "--ports"];
        let words = [&words[..], &[&*ports, "--until-stdin-ends"]].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let mut command = process::command(&words)?;
        // In a process group of its own: Ctrl-C is for this program, which then removes everything in order.
        command.stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match timeout(LISTENS_WITHIN, reader.read_line(&mut line)).await {
            Ok(Ok(count)) if count > 0 => Ok(child),
            _ => Err(format!("the test's server does not start in {}", self.name)),
        }
    }
}

async fn run(argv: &[String]) -> Result<(), String> {
    process::run(argv, LIMITS).await?.ok(argv).map(drop)
}

/// The addresses in a result of ADD.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.iter().filter_map(address).collect()
}

/// The policy for this test's endpoints: what is allowed at the open port, and nothing else.
pub(super) fn policy(name: &str, tenant: &str, segment: &str, peers: &Value) -> Value {
    let rules = json!([
        {"protocol": "tcp", "ports": [OPEN]},
        {"protocol": "udp", "ports": [OPEN]},
    ]);
    json!({"securitypolicies": [{
        "name": name,
        "description": "of romana connectivity, removed when it ends",
        "direction": "ingress",
        "applied_to": [{"tenant": tenant, "segment": segment}],
        "peers": peers,
        "rules": rules,
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_called_as_a_runtime_does() {
        let one = Attachment {
            name: "rmct-1-client".into(),
            tenant: "t".into(),
            segment: "client".into(),
        };
        let env = one.environment("ADD", "/opt/cni/bin");
        let text: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "CNI_COMMAND=ADD",
                "CNI_CONTAINERID=rmct-1-client",
                "CNI_NETNS=/run/netns/rmct-1-client",
                "CNI_IFNAME=eth0",
                "CNI_PATH=/opt/cni/bin",
                "CNI_ARGS=IgnoreUnknown=1;ROMANA_TENANT=t;ROMANA_SEGMENT=client",
            ]
        );
    }

    #[test]
    fn the_configuration_is_that_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Plugin::load(dir.path(), dir.path());
        assert!(load().unwrap_err().contains("no configuration in"));
        std::fs::write(dir.path().join("05-x.conf"), r#"{"name": "x", "type": "bridge"}"#).unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "romana", "plugins": [
            {"type": PLUGIN, "socket": "/s"}, {"type": "portmap"}]});
        std::fs::write(dir.path().join("10-romana.conflist"), list.to_string()).unwrap();
        assert!(load().unwrap_err().ends_with("romana-cni is missing"));
        std::fs::write(dir.path().join(PLUGIN), "").unwrap();
        let config =
            json!({"type": PLUGIN, "socket": "/s", "name": "romana", "cniVersion": "1.0.0"});
        assert_eq!(load().unwrap().config, config);
        assert!(Plugin::load(Path::new("/no/such"), dir.path()).is_err());
    }

    #[test]
    fn results_are_read() {
        let result = json!({"ips": [{"address": "10.0.0.1/32"}, {"address": "fd00::1/128"}, {}]});
        let ips: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.1", "fd00::1"]);
        assert_eq!(addresses(&Value::Null), Vec::<IpAddr>::new());
    }
}
