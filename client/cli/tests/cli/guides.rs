//! Runs the commands of the guides in `deploy/`, or says why one cannot be run here.

use crate::readme::{root, run, steps};
use crate::real::Dev;

/// How commands begin that no test can run, with the reason.
const NOT_RUN: &[(&str, &str)] = &[
    ("cp /usr/share/doc/romana", "the package is not installed here"),
    ("systemctl enable", "it would start services on this machine"),
    ("romanad --config /etc/romana", "the file is the operator's"),
    ("romana-agent status", "an agent needs root; agent/tests/kernel asks agents all the time"),
    ("romana-agent install", "it would install into this machine; agent/src/install.rs tests it"),
    ("romana connectivity", "an agent needs root; agent/tests/kernel/connectivity.rs runs both"),
];

/// The text without code blocks that are no commands.
fn commands(text: &str) -> String {
    let mut kept = String::new();
    let mut other = false;
    for line in text.lines() {
        let fence = line.strip_prefix("```");
        if let Some(kind) = fence.filter(|kind| !kind.is_empty()) {
            other = kind != "sh";
        }
        if !other {
            kept.push_str(line);
            kept.push('\n');
        }
        if fence == Some("") {
            other = false;
        }
    }
    kept
}

fn follow(guide: &str, files: &[(&str, &str)]) {
    let text = std::fs::read_to_string(root().join("deploy").join(guide)).unwrap();
    let dev = Dev::start();
    std::os::unix::fs::symlink(root().join("deploy"), dev.dir.path().join("deploy")).unwrap();
    files.iter().for_each(|(name, text)| dev.file(name, text));
    let (mut wrong, mut ran, mut unused) = (Vec::new(), 0, NOT_RUN.to_vec());
    for step in steps(&commands(&text)) {
        if NOT_RUN.iter().any(|(begin, _)| step.line.starts_with(begin)) {
            unused.retain(|(begin, _)| !step.line.starts_with(begin));
            continue;
        }
        let output = run(&dev, &step.line);
        ran += 1;
        if !output.status.success() {
            wrong.push(format!("{}: {output:?}", step.line));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran > 10, "{ran} ran");
    if guide == "bare-metal.md" {
        assert!(unused.is_empty(), "not in the guide: {unused:?}");
    }
}

#[test]
fn the_guide_for_bare_metal_is_true() {
    let policy = r#"{"name": "web", "applied_to": [{"tenant": "shop", "segment": "frontend"}],
        "direction": "ingress", "peers": [{"tenant": "shop"}],
        "rules": [{"protocol": "tcp", "ports": [80]}]}"#;
    follow("bare-metal.md", &[("web.json", policy)]);
}

#[test]
fn the_guide_for_openstack_is_true() {
    // As Romana 2.0's command line sent it.
    let policy = r#"{"id": "ssh", "direction": "ingress", "applied_to": [{"tenant_id":
        "5c7f3f2b8d0e4a6f9b1c2d3e4f5a6b7c", "segment_id": "default"}], "ingress": [{"peers": [{"peer": "any"}],
        "rules": [{"protocol": "TCP", "ports": [22]}, {"protocol": "ICMP"}]}]}"#;
    follow("openstack.md", &[("ssh.json", policy)]);
}

#[test]
fn blocks_of_other_kinds_are_left_out() {
    let text = "a\n```ini\nx = 1\n```\nb\n```sh\nromana host list\n```\n";
    let lines: Vec<String> = steps(&commands(text)).into_iter().map(|step| step.line).collect();
    assert_eq!(lines, ["romana host list"]);
}
