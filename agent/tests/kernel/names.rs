//! Which host an agent is: the one of its name in any case of letters; and whose that host is.

use romana_statemachine::Command;
use serde_json::{Value, json};

use crate::lab::{Lab, until};
use crate::routes::flat;

fn command(value: Value) -> Command {
    serde_json::from_value(value).expect("a command")
}

/// The host that came from Kubernetes, as its Node has it.
fn node(lab: &Lab) {
    let spec = json!({"name": "h1", "ip": "10.77.0.1", "source": "kubernetes"});
    lab.submit(vec![command(json!({"AddHost": spec}))]);
}

fn says(lab: &Lab, what: &str) -> bool {
    let status = lab.status("h1");
    status.is_some_and(|status| status.problems.iter().any(|problem| problem.contains(what)))
}

#[test]
fn a_host_is_found_in_any_case_of_letters_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    node(&lab);
    lab.spawn_agent_as("h1", "H1.", &[], None);
    let named = |lab: &Lab| lab.status("h1").is_some_and(|status| status.host == "h1");
    until("it takes the name of the log", || named(&lab));
    let heard = |lab: &Lab| {
        let beats = &lab.get(vec!["/v1/heartbeats".into()])[0];
        beats["items"][0]["heartbeat"]["host"] == "h1"
    };
    until("it sends heartbeats as that host", || heard(&lab));
    // Without a control plane, it starts as the host that it was.
    lab.stop_agent("h1");
    lab.kill_replicas();
    lab.spawn_agent_as("h1", "H1.", &[], None);
    until("it knows its name", || named(&lab));
    until("it has its view", || lab.status("h1").is_some_and(|status| status.revision.is_some()));
}

#[test]
fn a_node_is_not_registered_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    node(&lab);
    let more = ["--register", "--host-ip", "10.77.0.1,fd77::1"];
    lab.start_agent("h1", &more);
    let shown = |lab: &Lab| lab.romana(&["host", "show", "h1"]);
    until("it tells its version", || shown(&lab)["info"]["agent"].is_string());
    assert_eq!(shown(&lab)["addresses"], json!([]), "those of the Node stay");
    assert_eq!(shown(&lab)["source"], "kubernetes");
    lab.submit(vec![command(json!({"RemoveHost": {"name": "h1", "force": true}}))]);
    until("it waits for its Node", || says(&lab, "belongs to Kubernetes"));
    let hosts = lab.romana(&["host", "list"]);
    assert_eq!(hosts["items"], json!([]), "it does not come back by itself");
    // Also not after a restart.
    lab.stop_agent("h1");
    lab.spawn_agent("h1", &more, None);
    until("it waits for its Node", || says(&lab, "belongs to Kubernetes"));
    node(&lab);
    until("it is there again", || !says(&lab, "belongs to Kubernetes"));
}
