//! Replaces each file that a replica reads at its start by something else: the replica starts and has everything, or
//! it refuses, naming the file and the remedy.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use romana_daemon::error::chain;

use super::*;

/// What is put in the place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Directory,
    Empty,
    /// Bytes that are neither text nor anything that a replica writes.
    Bytes,
    Dangling,
    /// A symbolic link to itself.
    Circle,
}

const THINGS: [Thing; 5] =
    [Thing::Directory, Thing::Empty, Thing::Bytes, Thing::Dangling, Thing::Circle];

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

fn put(thing: Thing, path: &Path) {
    match thing {
        Thing::Directory => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("something"), "else").unwrap();
        }
        Thing::Empty => fs::write(path, "").unwrap(),
        Thing::Bytes => fs::write(path, [0xff, 0xfe, 0, 0x1b].repeat(300)).unwrap(),
        Thing::Dangling => symlink("/nowhere/at/all", path).unwrap(),
        Thing::Circle => symlink(path, path).unwrap(),
    }
}

/// Files and directories of a replica, by a part of their names; and whether it can start without them.
const NAMES: [(&str, bool); 11] = [
    ("identity.json", false),
    ("nonce", false),
    ("wal.mark", true),
    ("wal", false),
    ("wal/LOCK", true),
    ("wal/*", false),
    ("history", false),
    ("history/*", false),
    ("snapshots", false),
    ("snapshots/*", false),
    ("index", true),
];

/// The path of the first file that matches a name.
fn find(dir: &Path, name: &str) -> PathBuf {
    let Some(parent) = name.strip_suffix("/*") else { return dir.join(name) };
    let entries = fs::read_dir(dir.join(parent)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap() != "LOCK").collect();
    files.sort();
    files.into_iter().next().unwrap_or_else(|| panic!("{name}: there is none"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_place_of_a_file_is_said() {
    let mut cluster = Cluster::new(1).await;
    cluster.tuning.snapshot_entries = 5;
    cluster.tuning.keep_entries = 0;
    cluster.start(1).await;
    cluster.ready().await;
    for number in 0..20 {
        create(cluster.on(1), &format!("kept-{number}")).await;
    }
    eventually("a snapshot", || (cluster.on(1).snapshots().revision() > 5).then_some(())).await;
    cluster.stop(1).await;
    let (dir, whole) = (cluster.data(1), cluster.dir.path().join("whole"));
    fs::rename(&dir, &whole).unwrap();
    for (name, dispensable) in NAMES {
        for thing in THINGS {
            super::older::copy(&whole, &dir);
            let path = find(&dir, name);
            if path.is_dir() && thing == Thing::Directory {
                // A directory that contains only an unexpected file.
                remove(&path);
            } else if path.exists() {
                remove(&path);
            }
            put(thing, &path);
            let what = format!("{thing:?} in place of {name}");
            match cluster.try_start(cluster.config(1)).await {
                Ok(replica) => {
                    let ready = tokio::time::timeout(PATIENCE, replica.health().wait_ready()).await;
                    ready.unwrap().unwrap_or_else(|why| panic!("{what}: {why}"));
                    replica.reads().linearize(soon()).await.unwrap();
                    assert!(has(&replica, "kept-19") && has(&replica, "kept-0"), "{what}: lost");
                    replica.shutdown().await;
                }
                Err(error) => {
                    let said =
                        format!("{}; {}", chain(&error), error.advice(1).unwrap_or_default());
                    let file = path.file_stem().unwrap().to_string_lossy().into_owned();
                    let parent = name.split('/').next().unwrap();
                    assert!(said.contains(&file) || said.contains(parent), "{what}: {said}");
                    assert!(said.contains("romana cluster replace 1"), "{what}: {said}");
                    assert!(
                        !dispensable || thing != Thing::Empty && thing != Thing::Bytes,
                        "{what}: {said}"
                    );
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

/// A replica starts without the files that only guard others, and reports that until its next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_guard_is_reported() {
    let mut cluster = Cluster::new(1).await;
    cluster.start(1).await;
    cluster.ready().await;
    create(cluster.on(1), "kept").await;
    for missing in [Some("wal.mark"), Some("history/ORIGIN"), None] {
        cluster.stop(1).await;
        if let Some(file) = missing {
            fs::remove_file(cluster.data(1).join(file)).unwrap();
        }
        cluster.start(1).await;
        cluster.ready().await;
        assert!(has(cluster.on(1), "kept"), "{missing:?}");
        let members = eventually("the member", || {
            let members = cluster.on(1).members().status().members;
            (!members.is_empty()).then_some(members)
        });
        let problems: Vec<_> = members.await.remove(0).problems;
        let codes: Vec<&str> = problems.iter().map(|problem| &*problem.code).collect();
        let wanted: &[&str] = if missing.is_some() { &["FileMissing"] } else { &[] };
        assert_eq!(codes, wanted, "{missing:?}");
        let told = |file: &str| problems[0].what.contains(file);
        assert!(missing.is_none_or(told), "{problems:?}");
    }
}
