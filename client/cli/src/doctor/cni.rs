//! Checks the CNI configuration of this host: whether the container runtime uses Romana.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use romana_daemon::file::{self, CONFIG_BYTES_MAX};
use serde_json::Value;

use super::{Finding, bad, good, warning};

/// Usual directories of configurations and plugins.
pub(super) const CONF_DIR: &str = "/etc/cni/net.d";
pub(super) const BIN_DIR: &str = "/opt/cni/bin";
/// The plugin, and the socket of a running agent.
const PLUGIN: &str = "romana-cni";
const SOCKET: &str = "/run/romana/agent.sock";
/// Endings of network configurations (CNI conventions).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
const INSTALL: &str = "romana-agent install";

/// Whether an agent runs on this machine.
pub(super) fn has_agent() -> bool {
    Path::new(SOCKET).exists()
}

/// Checks the directories of this host.
pub(super) fn check(conf_dir: &Path, bin_dir: &Path) -> Vec<Finding> {
    let plugin = bin_dir.join(PLUGIN).is_file();
    match configurations(conf_dir) {
        Ok(found) => {
            judge(&found, plugin, &conf_dir.display().to_string(), &bin_dir.display().to_string())
        }
        Err(why) => vec![warning("cni", why).remedy("run romana doctor as root")],
    }
}

/// A configuration: its file name, and its content or why there is none.
type Configuration = (String, Result<Value, String>);

/// The configurations in the order in which runtimes look: by name.
fn configurations(dir: &Path) -> Result<Vec<Configuration>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", dir.display())),
    };
    let mut found = Vec::new();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = file::read_text(&path, CONFIG_BYTES_MAX).map_err(|error| error.to_string());
            let content = text.and_then(|text| {
                serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"))
            });
            found.push((name, content));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Whether a configuration has Romana's plugin: as the network, or for its addresses.
fn is_ours(content: &Value) -> bool {
    let plugins = content["plugins"].as_array().cloned().unwrap_or_else(|| vec![content.clone()]);
    plugins.iter().any(|plugin| plugin["type"] == PLUGIN || plugin["ipam"]["type"] == PLUGIN)
}

fn judge(found: &[Configuration], plugin: bool, conf_dir: &str, bin_dir: &str) -> Vec<Finding> {
    // Runtimes skip files that they cannot read, or fail because of them.
    let unreadable = found.iter().filter_map(|(name, content)| {
        let why = content.as_ref().err()?;
        let what = format!("{conf_dir}/{name} is no network configuration: {why}");
        Some(warning("cni", what).remedy("remove it, or write it again"))
    });
    let valid = found.iter().filter_map(|(name, content)| Some((name, content.as_ref().ok()?)));
    let valid: Vec<(&String, &Value)> = valid.collect();
    let ours = valid.iter().find(|(_, content)| is_ours(content)).map(|(name, _)| name.as_str());
    let first = valid.first().map(|(name, _)| name.as_str());
    let mut findings: Vec<Finding> = unreadable.collect();
    findings.extend(used(ours, first, conf_dir));
    if ours.is_some() && !plugin {
        let what = format!("{bin_dir}/{PLUGIN} is missing: no container can be attached");
        findings.push(bad("cni", what).remedy(INSTALL));
    } else if ours.is_some() && ours == first {
        let own = first.unwrap_or_default();
        findings
            .push(good("cni", format!("{conf_dir}/{own} is the first, and the plugin is there")));
    }
    findings
}

/// What is wrong with the configuration that the runtime uses. `ours`: Romana's; `first`: the first by name.
fn used(ours: Option<&str>, first: Option<&str>, conf_dir: &str) -> Option<Finding> {
    let (what, remedy) = match (ours, first) {
        (None, None) => (
            format!("{conf_dir} has no network configuration: containers get no network here"),
            INSTALL.into(),
        ),
        (None, Some(other)) => (
            format!("{conf_dir}/{other} configures another network, and nothing Romana's"),
            format!("remove it if Romana is to be the network, then {INSTALL}"),
        ),
        (Some(own), Some(first)) if own != first => (
            format!("{conf_dir}/{first} comes before {own}: runtimes use the first by name"),
            format!("remove {conf_dir}/{first}; containers that run keep their network"),
        ),
        _ => return None,
    };
    Some(bad("cni", what).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::tones;
    use crate::table::Tone;

    const OURS: &str = r#"{"name": "romana", "plugins": [{"type": "romana-cni"}]}"#;
    const OTHER: &str = r#"{"name": "cbr0", "type": "flannel"}"#;
    const IPAM: &str = r#"{"name": "b", "type": "bridge", "ipam": {"type": "romana-cni"}}"#;

    fn findings(files: &[(&str, &str)], plugin: bool) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let (conf, bin) = (dir.path().join("net.d"), dir.path().join("bin"));
        fs::create_dir_all(&bin).unwrap();
        for (name, text) in files {
            fs::create_dir_all(&conf).unwrap();
            fs::write(conf.join(name), text).unwrap();
        }
        if plugin {
            fs::write(bin.join(PLUGIN), "").unwrap();
        }
        check(&conf, &bin)
    }

    #[test]
    fn what_the_runtime_uses_is_said() {
        let ok = findings(&[("10-romana.conflist", OURS), ("20-other.conf", OTHER)], true);
        assert_eq!(tones(&ok), [Tone::Good]);
        assert_eq!(tones(&findings(&[("10-b.conf", IPAM)], true)), [Tone::Good]);
        for (files, plugin, wanted) in [
            (&[][..], true, "no network configuration"),
            (&[("README", "x")], true, "no network configuration"),
            (&[("05-flannel.conf", OTHER)], true, "05-flannel.conf configures another network"),
            (
                &[("05-flannel.conf", OTHER), ("10-romana.conflist", OURS)],
                true,
                "comes before 10-romana.conflist",
            ),
            (&[("10-romana.conflist", OURS)], false, "romana-cni is missing"),
        ] {
            let found = findings(files, plugin);
            assert_eq!(tones(&found), [Tone::Bad], "{found:?}");
            assert!(found[0].what.contains(wanted) && !found[0].remedy.is_empty(), "{found:?}");
        }
        let damaged = findings(&[("00-x.conf", "{"), ("10-romana.conflist", OURS)], true);
        assert_eq!(tones(&damaged), [Tone::Warning, Tone::Good], "{damaged:?}");
    }
}
