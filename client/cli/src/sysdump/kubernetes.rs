//! What kubectl says about Romana's namespace and the nodes. Its credentials are not read into the archive.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::archive::{Content, ITEM_BYTES_MAX, Item};
use crate::process::{self, Limits, shown};

/// Time for one call, and for the request in it.
const WITHIN: Duration = Duration::from_secs(20);
const REQUEST: &str = "--request-timeout=10s";
/// Number of calls at a time.
const AT_ONCE: usize = 4;

/// The calls: the file and the argument vector.
pub(super) fn questions(namespace: &str) -> Vec<(String, Vec<String>)> {
    let namespaced = format!("--namespace={namespace}");
    let call = |file: &str, words: &[&str]| {
        let words = ["kubectl", REQUEST].iter().chain(words).map(|word| (*word).to_owned());
        (file.to_owned(), words.collect())
    };
    let within = |file: &str, words: &[&str]| call(file, &[words, &[&*namespaced]].concat());
    let logs = |file: &str, name: &str, more: &[&str]| {
        let selector = format!("--selector=app.kubernetes.io/name={name}");
        let usual = ["logs", &*selector, "--all-containers", "--prefix", "--tail=2000"];
        let usual = [&usual[..], &["--max-log-requests=50", "--ignore-errors"], more].concat();
        within(file, &usual)
    };
    let json = "--output=json";
    vec![
        call("version.json", &["version", json]),
        call("nodes.json", &["get", "nodes", json]),
        within("pods.json", &["get", "pods", json]),
        within("pods.txt", &["get", "pods", "--output=wide"]),
        within("events.json", &["get", "events", json]),
        within("workloads.json", &["get", "statefulsets,daemonsets,cronjobs,services", json]),
        within(
            "configmaps.json",
            &["get", "configmaps", json, "--selector=app.kubernetes.io/part-of=romana"],
        ),
        logs("romanad.log", "romanad", &[]),
        logs("romana-agent.log", "romana-agent", &[]),
        logs("romanad-previous.log", "romanad", &["--previous"]),
        logs("romana-agent-previous.log", "romana-agent", &["--previous"]),
    ]
}

/// The answers, as they come.
pub(super) async fn items(namespace: &str, mut add: impl FnMut(Item)) {
    let run = |(file, argv): (String, Vec<String>)| async move {
        let limits = Limits { within: WITHIN, bytes_max: ITEM_BYTES_MAX };
        let ran = process::run(&argv, limits).await;
        let found = ran.and_then(|ran| {
            let cut = ran.cut;
            Ok(Content { bytes: ran.ok(&argv)?, cut })
        });
        Item::new(format!("kubernetes/{file}"), shown(&argv), found)
    };
    let asked = stream::iter(questions(namespace)).map(run).buffer_unordered(AT_ONCE);
    asked
        .for_each(|item| {
            add(item);
            std::future::ready(())
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_secrets_are_not_asked_for() {
        for (file, argv) in questions("kube-system") {
            let line = shown(&argv);
            assert!(!line.contains("secret") && !line.contains("config view"), "{file}: {line}");
            assert!(line.starts_with("kubectl --request-timeout=10s "), "{line}");
        }
    }
}
