//! Facts of this host: network, Romana's chains and sets, CNI configuration, programs and their options.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use romana_daemon::file;
use serde_json::{Value, json};

use super::archive::{Content, ITEM_BYTES_MAX, Item, part};
use crate::process::{self, Limits, argv, shown};

/// Time for one program.
const WITHIN: Duration = Duration::from_secs(10);
/// Number of programs at a time.
const AT_ONCE: usize = 8;
/// Files of a directory at most.
const FILES_MAX: usize = 200;

/// Directories that a host of Romana has: without any of them this is another machine.
const SIGNS: [&str; 5] =
    ["/run/romana", "/var/lib/romana", "/var/lib/romanad", "/etc/romana", "/opt/romana"];
/// Directories of which the names and sizes of files are listed. Their contents may be secret.
const LISTED: [&str; 7] = [
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/etc/romana",
    "/run/romana",
    "/var/lib/romana",
    "/var/lib/romanad",
    "/run/netns",
];
/// Directories of configurations, and the endings of the files that are read. Others there may be credentials.
const CONFIGURED: [(&str, &[&str]); 2] =
    [("/etc/cni/net.d", &["conf", "conflist", "json"]), ("/etc/romana", &["toml"])];
/// Kernel settings that decide about packets.
const SYSCTLS: [&str; 16] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/all/proxy_arp",
    "net/ipv4/conf/all/accept_redirects",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv6/bindv6only",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3",
];
/// Programs whose processes are described.
const PROGRAMS: [&str; 3] = ["romanad", "romana-agent", "romana-publisher"];

/// Whether this machine is a host or a replica of Romana.
pub(super) fn is_host(root: &Path) -> bool {
    SIGNS.iter().any(|sign| below(root, sign).is_dir())
}

/// A path of this host below `root`, where its file system is: `/`, or where a debugging pod has it.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// What is done with an output before it is kept.
type Filter = fn(&str) -> String;

/// The programs that are asked: the file, the argument vector, the filter.
fn questions() -> Vec<(&'static str, Vec<String>, Filter)> {
    let all: Filter = str::to_owned;
    vec![
        ("ip-address.txt", argv(["ip", "-details", "address", "show"]), all),
        ("ip-link-statistics.txt", argv(["ip", "-statistics", "link", "show"]), all),
        ("ip-route.txt", argv(["ip", "route", "show", "table", "all"]), all),
        ("ip-route-6.txt", argv(["ip", "-6", "route", "show", "table", "all"]), all),
        ("ip-rule.txt", argv(["ip", "rule", "show"]), all),
        ("ip-rule-6.txt", argv(["ip", "-6", "rule", "show"]), all),
        ("ip-neighbour.txt", argv(["ip", "neighbour", "show"]), all),
        ("ip-netns.txt", argv(["ip", "netns", "list"]), all),
        ("iptables.txt", argv(["iptables-save", "-c"]), rules),
        ("ip6tables.txt", argv(["ip6tables-save", "-c"]), rules),
        ("ipset.txt", argv(["ipset", "save"]), sets),
        ("nft-tables.txt", argv(["nft", "list", "tables"]), all),
        ("conntrack-statistics.txt", argv(["conntrack", "-S"]), all),
        ("iptables-version.txt", argv(["iptables", "--version"]), all),
        ("romana-agent-version.txt", argv(["romana-agent", "--version"]), all),
        ("romanad-version.txt", argv(["romanad", "--version"]), all),
        ("units.txt", argv(["systemctl", "--no-pager", "show", "romanad", "romana-agent"]), all),
        ("journal.txt", journal(), all),
    ]
}

fn journal() -> Vec<String> {
    argv(["journalctl", "--no-pager", "--lines=5000", "--unit=romanad", "--unit=romana-agent"])
}

/// Our chains, and what comes before them: the built-in chains. Chains of other programs are left out.
fn rules(text: &str) -> String {
    const BUILT_IN: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];
    let mut left_out = 0;
    let mut kept = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let chain = match words.as_slice() {
            [first, ..] if first.starts_with(':') => first.strip_prefix(':'),
            ["-A", chain, ..] | [_, "-A", chain, ..] => Some(*chain),
            _ => None,
        };
        let ours = |chain: &str| chain.starts_with("ROMANA-") || BUILT_IN.contains(&chain);
        if chain.is_none_or(ours) {
            kept.push(line);
        } else {
            left_out += 1;
        }
    }
    format!("{}\n# {left_out} lines of other programs' chains are left out\n", kept.join("\n"))
}

/// Our sets.
fn sets(text: &str) -> String {
    let ours = |line: &&str| {
        line.split_whitespace().nth(1).is_some_and(|name| name.starts_with("ROMANA-"))
    };
    let lines: Vec<&str> = text.lines().filter(ours).collect();
    lines.join("\n") + "\n"
}

/// All facts of this host, as they come: files first, which are read at once.
pub(super) async fn items(root: &Path, mut add: impl FnMut(Item)) {
    let root = root.to_owned();
    match tokio::task::spawn_blocking(move || files(&root)).await {
        Ok(items) => items.into_iter().for_each(&mut add),
        Err(error) => add(Item::new("host/files", "files", Err(error.to_string()))),
    }
    let run = |(file, argv, filter): (&'static str, Vec<String>, Filter)| async move {
        let limits = Limits { within: WITHIN, bytes_max: ITEM_BYTES_MAX };
        let ran = process::run(&argv, limits).await;
        let found = ran.and_then(|ran| {
            let cut = ran.cut;
            let text = String::from_utf8_lossy(&ran.ok(&argv)?).into_owned();
            Ok(Content { bytes: filter(&text).into_bytes(), cut })
        });
        Item::new(format!("host/{file}"), shown(&argv), found)
    };
    let asked = stream::iter(questions()).map(run).buffer_unordered(AT_ONCE);
    asked
        .for_each(|item| {
            add(item);
            std::future::ready(())
        })
        .await;
}

/// What is read from files.
fn files(root: &Path) -> Vec<Item> {
    let settings = below(root, "/proc/sys");
    let sysctl = |key: &str| -> Result<Value, String> {
        read(&settings.join(key)).map(|text| text.trim().into())
    };
    let sysctls = SYSCTLS.map(|key| (key.replace('/', "."), sysctl(key))).to_vec();
    let text = |name: &str, path: &str| {
        let path = below(root, path);
        Item::new(format!("host/{name}"), path.display().to_string(), content(&path))
    };
    let mut items = vec![
        listing("host/sysctl.json", "/proc/sys", sysctls),
        text("kernel.txt", "/proc/version"),
        text("os-release.txt", "/etc/os-release"),
        text("mounts.txt", "/proc/mounts"),
        listing("host/environment.json", "the environment of this command", environment()),
        listing("host/processes.json", "/proc", processes(&below(root, "/proc"))),
    ];
    for dir in LISTED {
        let path = format!("host/files/{}.json", place(dir));
        items.push(match list(&below(root, dir)) {
            Ok(files) => listing(&path, dir, files),
            Err(why) => Item::new(path, dir, Err(why)),
        });
    }
    for (dir, endings) in CONFIGURED {
        items.extend(configurations(&below(root, dir), &place(dir), endings));
    }
    items
}

/// A directory as one part of a path.
fn place(dir: &str) -> String {
    part(&dir.trim_start_matches('/').replace('/', "_"))
}

type Facts = Vec<(String, Result<Value, String>)>;

/// Facts as a document; what could not be had is said in place.
fn listing(path: &str, from: &str, facts: Facts) -> Item {
    let facts = facts.into_iter().map(|(name, fact)| {
        let fact = fact.unwrap_or_else(|why| json!({"missing": why}));
        (name, fact)
    });
    let document = Value::Object(facts.collect());
    let bytes = format!("{document:#}\n").into_bytes();
    Item::new(path, from, Ok(Content { bytes, cut: false }))
}

fn read(path: &Path) -> Result<String, String> {
    // Files of the kernel have no size, so the limit applies while reading.
    file::read_text(path, ITEM_BYTES_MAX as u64)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn content(path: &Path) -> Result<Content, String> {
    read(path).map(|text| Content { bytes: text.into_bytes(), cut: false })
}

/// Variables that concern Romana or Kubernetes. The names decide which values are secret.
fn environment() -> Facts {
    let ours = |name: &str| name.starts_with("ROMANA") || name.starts_with("KUBE");
    let all = std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    });
    all.filter(|(name, _)| ours(name)).map(|(name, value)| (name, Ok(value.into()))).collect()
}

/// Our processes with their options, by process id.
fn processes(proc: &Path) -> Facts {
    let entries = fs::read_dir(proc).into_iter().flatten().filter_map(Result::ok);
    let dirs = entries.map(|entry| entry.path());
    let words = |text: &str| -> Vec<String> {
        text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let describe = |dir: PathBuf| {
        let id = dir.file_name()?.to_str()?.parse::<u32>().ok()?;
        let name = read(&dir.join("comm")).ok()?.trim().to_owned();
        PROGRAMS.contains(&&*name).then_some(())?;
        let argv = read(&dir.join("cmdline")).map(|text| words(&text)).unwrap_or_default();
        let variables = read(&dir.join("environ")).map(|text| words(&text)).unwrap_or_default();
        let ours = variables.iter().filter(|pair| pair.starts_with("ROMANA"));
        let pairs = ours.filter_map(|pair| pair.split_once('='));
        let variables: BTreeMap<&str, &str> = pairs.collect();
        let fact = json!({"name": name, "arguments": argv, "environment": variables});
        Some((id.to_string(), Ok(fact)))
    };
    dirs.filter_map(describe).collect()
}

/// The names and sizes of the files in a directory.
fn list(dir: &Path) -> Result<Facts, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut files: Facts = Vec::new();
    for entry in entries.take(FILES_MAX).filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let found = entry
            .metadata()
            .map(|found| json!({"bytes": found.len(), "directory": found.is_dir()}));
        files.push((name, found.map_err(|error| error.to_string())));
    }
    Ok(files)
}

/// The configurations in a directory.
fn configurations(dir: &Path, place: &str, endings: &[&str]) -> Vec<Item> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).take(FILES_MAX);
    let is_one = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending))
    };
    let item = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let from = path.display().to_string();
        Item::new(format!("host/{place}/{}", part(&name)), from, content(&path))
    };
    entries.map(|entry| entry.path()).filter(is_one).map(item).collect()
}

/// Secrets of this process: they are removed wherever they occur.
pub(super) fn known_secrets() -> Vec<String> {
    let variables = std::env::vars_os();
    let variables =
        variables.filter(|(name, _)| super::redact::is_name_of_secret(&name.to_string_lossy()));
    let mut known: Vec<String> =
        variables.map(|(_, value)| value.to_string_lossy().into_owned()).collect();
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    known.extend(read(Path::new(token)));
    for kubeconfig in kubeconfigs() {
        let text = read(&kubeconfig).unwrap_or_default();
        known.extend(super::redact::secrets_of_yaml(&text));
    }
    known
}

/// The files that kubectl reads its credentials from.
pub(super) fn kubeconfigs() -> Vec<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
    let all: Vec<PathBuf> = std::env::split_paths(&named).chain(usual).collect();
    all.into_iter().filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_sets_of_others_are_left_out() {
        let saved = "*filter\n:INPUT ACCEPT [1:2]\n:DOCKER - [0:0]\n:ROMANA-FORWARD - [0:0]\n\
            [1:60] -A INPUT -j ROMANA-INPUT\n[0:0] -A DOCKER -j RETURN\n-A ROMANA-FORWARD -j DROP\nCOMMIT\n";
        let kept = "*filter\n:INPUT ACCEPT [1:2]\n:ROMANA-FORWARD - [0:0]\n[1:60] -A INPUT -j ROMANA-INPUT\n\
            -A ROMANA-FORWARD -j DROP\nCOMMIT\n# 2 lines of other programs' chains are left out\n";
        assert_eq!(rules(saved), kept);
        let saved = "create KUBE-X hash:ip\ncreate ROMANA-L hash:ip\nadd ROMANA-L 10.0.0.1\nadd KUBE-X 1.1.1.1\n";
        assert_eq!(sets(saved), "create ROMANA-L hash:ip\nadd ROMANA-L 10.0.0.1\n");
    }

    #[test]
    fn files_are_listed_and_configurations_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("10-romana.conflist"), "{}").unwrap();
        fs::write(at("calico-kubeconfig"), "token: secret").unwrap();
        let listed = list(dir.path()).unwrap();
        assert_eq!(listed.len(), 2);
        let found = configurations(dir.path(), "net.d", &["conflist"]);
        assert!(found.len() == 1 && found[0].path.ends_with("/10-romana.conflist"), "{found:?}");
        assert!(list(&at("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn processes_are_described() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("12");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("comm"), "romanad\n").unwrap();
        fs::write(own.join("cmdline"), "romanad\0--id\x001\0").unwrap();
        fs::write(own.join("environ"), "ROMANAD_LOG=info\0HOME=/root\0").unwrap();
        fs::create_dir(dir.path().join("self")).unwrap();
        let fact = json!({"name": "romanad", "arguments": ["romanad", "--id", "1"],
            "environment": {"ROMANAD_LOG": "info"}});
        assert_eq!(processes(dir.path()), [("12".to_owned(), Ok(fact))]);
    }
}
