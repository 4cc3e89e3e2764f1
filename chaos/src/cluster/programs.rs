//! Finds `romanad`, and builds the power-cut shim.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const POWERFAIL_C: &str = include_str!("../powerfail.c");

/// The `romanad` program: the given path; else next to this program (or one directory up, for
/// tests); else in `$CARGO_TARGET_DIR`.
///
/// # Errors
/// It is in none of these places.
pub fn find_romanad(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        ensure!(path.is_file(), "{} is not a program", path.display());
        return path.canonicalize().context("resolve the path of romanad");
    }
    let own = std::env::current_exe().context("find this program")?;
    let mut tried: Vec<PathBuf> =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("romanad")).collect();
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        let target = PathBuf::from(target);
        tried.extend(["release", "debug"].map(|profile| target.join(profile).join("romanad")));
    }
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "romanad was not found; build it first: cargo build --workspace --bins (tried {tried:?})"
        ),
    }
}

/// kube-apiserver: `$KUBE_APISERVER`, or what `deploy/test-kubernetes.sh` has built.
///
/// # Errors
/// There is none; how to get one.
pub fn find_kube_apiserver() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/test-kubernetes.sh");
    let output = Command::new(&script).arg("--built").output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "there is no kube-apiserver: {}", said.trim());
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Compiles the power-cut shim with the system's C compiler and returns its path.
///
/// # Errors
/// There is no C compiler, or it fails.
pub fn power_shim(dir: &Path) -> Result<PathBuf> {
    let (source, shim) = (dir.join("powerfail.c"), dir.join("powerfail.so"));
    std::fs::write(&source, POWERFAIL_C).context("write the power-cut shim")?;
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&shim)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .output()
        .context("run cc (a C compiler is needed for power cuts)")?;
    ensure!(
        output.status.success(),
        "cc did not compile the power-cut shim: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(shim)
}
