//! `romana connectivity test --kubernetes`, as an operator runs it.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::Lab;
use crate::must;

/// A test that is stopped when its pods are there.
const STOPPED: &str = "stopped";

fn test(lab: &Lab, id: &str) -> Command {
    lab.cli(&["--format", "json", "connectivity", "test", "--kubernetes", "--id", id])
}

async fn namespace_is_gone(lab: &Lab, id: &str) -> bool {
    lab.api.is_gone(&format!("/api/v1/namespaces/romana-connectivity-{id}")).await
}

/// Every promise holds between pods of two nodes, and nothing of the test is left.
pub(crate) async fn promises_hold(lab: &Lab) {
    let report = must(&mut test(lab, "promises"));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let rows = report["items"].as_array().expect("rows");
    let failed: Vec<&Value> = rows.iter().filter(|row| row["result"] != "ok").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for promise in [
        "pod to pod, same host",
        "pod to pod, other host",
        "host to pod",
        "pod to host",
        "policy",
        "addresses",
    ] {
        assert!(rows.iter().any(|row| row["check"] == promise), "{promise}: {rows:#?}");
    }
    lab.until("the test's namespace is gone", async || namespace_is_gone(lab, "promises").await)
        .await;
}

/// Ctrl-C in the middle of it.
pub(crate) async fn stopped_tests_leave_nothing(lab: &Lab) {
    let mut command = test(lab, STOPPED);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("start romana");
    let namespace = format!("romana-connectivity-{STOPPED}");
    lab.until("the test has made pods", async || {
        !lab.api.pods(&namespace, "romana.io/connectivity-test").await.is_empty()
    })
    .await;
    must(Command::new("kill").args(["-s", "INT", &child.id().to_string()]));
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("everything that was made is removed"), "{said}");
    lab.until("the test's namespace is gone", async || namespace_is_gone(lab, STOPPED).await).await;
}
