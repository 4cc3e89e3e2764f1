//! Installs and uninstalls the CNI plugin and its network configuration.
//!
//! Both are written to a temporary file and renamed, so a runtime never reads a partial file. Another network
//! configuration is not overridden: the operator has to choose one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use romana_daemon::file::{self, Replacement};
use serde_json::json;

use crate::ownership::{CONFLIST_FILE, PLUGIN_FILE, PLUGIN_TYPE, SOCKET, STATE_DIR};

/// File extensions of network configurations (CNI conventions).
const CONFIG_ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// Size limit of the plugin, bytes.
const PLUGIN_BYTES_MAX: u64 = 1 << 30;

/// The version of the CNI specification that every runtime in use supports, and the one with GC and
/// STATUS. Runtimes that support the second read `cniVersions` and choose the newest; others read
/// `cniVersion` only (spec 1.1, section 1).
const COMMON_VERSION: &str = "1.0.0";
const GC_VERSION: &str = "1.1.0";

/// What to install, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Install {
    /// Directory of CNI plugins
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub bin_dir: PathBuf,
    /// Directory of network configurations
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub conf_dir: PathBuf,
    /// Name of the network in the configuration
    #[arg(long, default_value = "romana", value_name = "NAME")]
    pub network_name: String,
    /// Socket of the agent
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// State directory of the agent
    #[arg(long, default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Only this version of the CNI specification [default: the newest one that the runtime speaks]
    #[arg(long, value_name = "VERSION")]
    pub cni_version: Option<String>,
    /// Also beside other network configurations (the runtime uses the first by name)
    #[arg(long)]
    pub force: bool,
    /// Take both away instead
    #[arg(long)]
    pub uninstall: bool,
}

/// Installation failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} configures another network: remove it, or install with --force (a runtime uses the first by \
         name)", .0.display()
    )]
    Other(PathBuf),
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { action, path, source }
}

/// Installs or uninstalls. Returns a line for each action. `plugin`: the file to install.
///
/// # Errors
/// [`InstallError`].
pub fn run(wanted: &Install, plugin: &Path) -> Result<Vec<String>, InstallError> {
    let (bin, conf) = (wanted.bin_dir.join(PLUGIN_FILE), wanted.conf_dir.join(CONFLIST_FILE));
    if wanted.uninstall {
        // Start with the file that makes runtimes use the plugin.
        let removed = [remove(&conf)?, remove(&bin)?];
        let mut said: Vec<String> = removed.into_iter().flatten().collect();
        said.push(String::from(
            "rules, sets, routes and links stay as they are; to take them away, stop romana-agent and run: \
             romana-agent cleanup",
        ));
        return Ok(said);
    }
    for dir in [&wanted.bin_dir, &wanted.conf_dir] {
        fs::create_dir_all(dir).map_err(io("make", dir))?;
    }
    if !wanted.force
        && let Some(other) = other(&wanted.conf_dir)?
    {
        return Err(InstallError::Other(other));
    }
    let program = file::read(plugin, PLUGIN_BYTES_MAX).map_err(io("read", plugin))?;
    let done = [place(&bin, &program, 0o755)?, place(&conf, conflist(wanted).as_bytes(), 0o644)?];
    Ok(done.into_iter().flatten().collect())
}

fn conflist(wanted: &Install) -> String {
    let plugin = json!({"type": PLUGIN_TYPE, "socket": wanted.socket, "stateDir": wanted.state_dir,
        "capabilities": {"ips": true, "mac": true}});
    let mut list = json!({"cniVersion": wanted.cni_version.as_deref().unwrap_or(COMMON_VERSION),
        "name": wanted.network_name, "plugins": [plugin]});
    if wanted.cni_version.is_none() {
        list["cniVersions"] = json!([COMMON_VERSION, GC_VERSION]);
    }
    format!("{list:#}\n")
}

/// The path of another network configuration, if any.
fn other(dir: &Path) -> Result<Option<PathBuf>, InstallError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let ours = path.file_name().is_some_and(|name| name == CONFLIST_FILE);
        if CONFIG_ENDINGS.contains(&ending) && !ours {
            found.push(path);
        }
    }
    Ok(found.into_iter().min())
}

/// Writes a file unless it has this content already.
fn place(path: &Path, content: &[u8], mode: u32) -> Result<Option<String>, InstallError> {
    let same = fs::metadata(path).is_ok_and(|found| {
        found.permissions().mode() & 0o7777 == mode
            && file::read(path, PLUGIN_BYTES_MAX).is_ok_and(|found| found == content)
    });
    if same {
        return Ok(None);
    }
    let mut new = Replacement::create_regular(path, mode).map_err(io("write", path))?;
    new.write_all(content).map_err(io("write", path))?;
    new.finish().map_err(io("put in place", path))?;
    Ok(Some(format!("installed {}", path.display())))
}

fn remove(path: &Path) -> Result<Option<String>, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(format!("removed {}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::NetConf;

    fn wanted(dir: &Path) -> Install {
        Install {
            bin_dir: dir.join("bin"),
            conf_dir: dir.join("net.d"),
            network_name: "romana".into(),
            socket: SOCKET.into(),
            state_dir: STATE_DIR.into(),
            cni_version: None,
            force: false,
            uninstall: false,
        }
    }

    #[test]
    fn it_is_put_in_place_once_and_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("built");
        fs::write(&plugin, "one").unwrap();
        let wanted = wanted(dir.path());
        assert_eq!(run(&wanted, &plugin).unwrap().len(), 2);
        assert_eq!(run(&wanted, &plugin).unwrap(), Vec::<String>::new(), "it is there");
        fs::write(&plugin, "two").unwrap();
        assert_eq!(run(&wanted, &plugin).unwrap().len(), 1);
        let installed = wanted.bin_dir.join(PLUGIN_FILE);
        assert_eq!(fs::read_to_string(&installed).unwrap(), "two");
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(&wanted.bin_dir).unwrap().count(), 1);
        let away = Install { uninstall: true, ..wanted.clone() };
        let said = run(&away, &plugin).unwrap();
        assert!(said.len() == 3 && said[2].contains("romana-agent cleanup"), "{said:?}");
        assert_eq!(
            run(&away, &plugin).unwrap().len(),
            1,
            "they are gone, the kernel's part may not be"
        );
        assert_eq!(fs::read_dir(&wanted.conf_dir).unwrap().count(), 0);
    }

    #[test]
    fn another_network_is_not_overruled() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("built");
        fs::write(&plugin, "one").unwrap();
        let wanted = wanted(dir.path());
        fs::create_dir_all(&wanted.conf_dir).unwrap();
        fs::write(wanted.conf_dir.join("20-other.conflist"), "{}").unwrap();
        fs::write(wanted.conf_dir.join("README"), "not one").unwrap();
        let refused = run(&wanted, &plugin).unwrap_err();
        assert!(
            matches!(&refused, InstallError::Other(path) if path.ends_with("20-other.conflist"))
        );
        assert!(!wanted.bin_dir.join(PLUGIN_FILE).exists(), "nothing is done by halves");
        assert_eq!(run(&Install { force: true, ..wanted }, &plugin).unwrap().len(), 2);
    }

    #[test]
    fn the_configuration_is_one_that_the_plugin_reads() {
        let text = conflist(&wanted(Path::new("/")));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut single = list["plugins"][0].clone();
        (single["cniVersion"], single["name"]) = (list["cniVersion"].clone(), list["name"].clone());
        let config = NetConf::parse(single.to_string().as_bytes()).unwrap();
        assert_eq!((&*config.socket, &*config.state_dir), (SOCKET, STATE_DIR));
        assert_eq!(list["cniVersions"], json!(["1.0.0", "1.1.0"]));
        let only = Install { cni_version: Some("1.0.0".into()), ..wanted(Path::new("/")) };
        assert!(!conflist(&only).contains("cniVersions"));
    }
}
