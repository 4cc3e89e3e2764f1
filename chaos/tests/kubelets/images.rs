//! Images for the nodes' containerd: an archive with one layer each, as `docker save` writes them. The programs are those
//! that were just built, with the libraries that they are linked to, so that nothing is compiled for these tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use romana_chaos::cluster::find_romanad;
use serde_json::json;

use crate::must;

/// Programs of the image, as in deploy/image/build.sh.
const PROGRAMS: [&str; 4] = ["romanad", "romana", "romana-agent", "romana-cni"];
/// What the pods of the tests use.
const APPLETS: [&str; 5] = ["sh", "httpd", "hostname", "sleep", "nc"];

/// A first process: it ends its children's records, and itself when it is told to.
const PAUSE: &str = r"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// Compiles the first process of sandboxes and of the lab's machines.
pub(crate) fn pause(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("pause.c"), dir.join("pause"));
    fs::write(&source, PAUSE).expect("write a source");
    must(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source));
    program
}

/// The archives of all images.
pub(crate) fn all(dir: &Path, pause: &Path) -> Vec<PathBuf> {
    vec![of_pause(dir, pause), of_busybox(dir), of_romana(dir)]
}

fn of_pause(dir: &Path, pause: &Path) -> PathBuf {
    let root = dir.join("root-pause");
    install(pause, &root.join("pause"));
    archive(dir, "pause", "localhost/pause:1", &root, "/pause")
}

fn of_busybox(dir: &Path) -> PathBuf {
    let root = dir.join("root-busybox");
    install(Path::new("/bin/busybox"), &root.join("bin/busybox"));
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    archive(dir, "busybox", "localhost/busybox:1", &root, "/bin/busybox")
}

/// The layout of deploy/image/build.sh, and libraries.
fn of_romana(dir: &Path) -> PathBuf {
    let root = dir.join("root-romana");
    for part in ["etc/alternatives", "run", "tmp", "usr/bin", "usr/sbin", "usr/lib64", "var/lib"] {
        fs::create_dir_all(root.join(part)).expect("a directory");
    }
    for part in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{part}"), root.join(part)).expect("a link");
    }
    symlink("/run", root.join("var/run")).expect("a link");
    let protocols = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image/protocols");
    fs::copy(protocols, root.join("etc/protocols")).expect("copied");
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let (built, placed) = (romanad.with_file_name(name), root.join("opt/romana").join(name));
        libraries.extend(linked(&built));
        install(&built, &placed);
        // Debug information is most of a program.
        must(Command::new("strip").arg(&placed));
    }
    for library in libraries {
        let usr = if library.starts_with("/usr") { "" } else { "usr" };
        let inside = Path::new(usr).join(library.strip_prefix("/").expect("a path from the root"));
        install(&library, &root.join(inside));
    }
    let version = env!("CARGO_PKG_VERSION");
    archive(dir, "romana", &format!("localhost/romana:{version}"), &root, "/opt/romana/romana")
}

/// Paths of the loader and of the libraries of a program.
fn linked(program: &Path) -> Vec<PathBuf> {
    let said = must(Command::new("ldd").arg(program));
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn install(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("a directory");
    let copied = fs::copy(from, to);
    copied.unwrap_or_else(|error| panic!("{}: {error} (deploy/test-setup.sh)", from.display()));
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// Packs a root directory as an image.
fn archive(dir: &Path, name: &str, reference: &str, root: &Path, entry: &str) -> PathBuf {
    let parts = dir.join(format!("parts-{name}"));
    fs::create_dir_all(&parts).expect("a directory");
    let layer = parts.join("layer.tar");
    pack(root, &layer);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [entry], "Env": ["PATH=/opt/romana:/usr/sbin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", checksum(&layer))]},
        "history": [{"created_by": "the tests"}],
    });
    fs::write(parts.join("config.json"), config.to_string()).expect("write the configuration");
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]);
    fs::write(parts.join("manifest.json"), manifest.to_string()).expect("write the manifest");
    let archive = dir.join(format!("{name}.tar"));
    pack(&parts, &archive);
    archive
}

fn pack(root: &Path, archive: &Path) {
    let owner = ["--owner=0", "--group=0", "--numeric-owner", "--create", "--file"];
    let parts =
        fs::read_dir(root).expect("a directory").map(|part| part.expect("read").file_name());
    let mut command = Command::new("tar");
    command.args(owner).arg(archive).arg("--directory").arg(root).args(parts);
    must(&mut command);
}

/// SHA-256.
fn checksum(file: &Path) -> String {
    let said = must(Command::new("sha256sum").arg(file));
    said.split_whitespace().next().expect("a checksum").to_owned()
}

/// This machine's, in the words of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
