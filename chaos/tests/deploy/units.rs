//! The systemd units fit the programs, and each other's counterparts in Kubernetes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::rbac::AGENT_CAPABILITIES;
use crate::{built, deploy, must, output};

/// Unit, its program, and the annotated configuration that an operator copies.
const UNITS: [(&str, &str, &str); 3] = [
    ("romanad.service", "romanad", "romanad.toml"),
    ("romana-agent.service", "romana-agent", "agent.toml"),
    ("romana-dns.service", "romana-dns", "dns.toml"),
];

fn unit(name: &str) -> String {
    fs::read_to_string(deploy().join("systemd").join(name)).unwrap()
}

/// Values of a key.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

/// The command of a unit runs with the annotated configuration in place of the operator's.
#[test]
fn the_programs_accept_what_the_units_give() {
    for (name, program, config) in UNITS {
        let unit = unit(name);
        let command = values(&unit, "ExecStart")[0];
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some(format!("/usr/bin/{program}").as_str()));
        let installed = format!("/etc/romana/{config}");
        assert_eq!(values(&unit, "ConditionPathExists"), [&installed]);
        let ours = deploy().join("config").join(config);
        let args = words.map(|word| match word == installed {
            true => ours.as_os_str().to_owned(),
            false => word.into(),
        });
        must(Command::new(built(program)).args(args).arg("--check").env_clear());
    }
}

/// Where there is a systemd, it reads the units without a complaint.
#[test]
fn systemd_understands_the_units() {
    if !std::path::Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("not run: there is no systemd here");
        return;
    }
    let dir = TempDir::new().unwrap();
    for (name, program, _) in UNITS {
        // The documentation and the programs are not installed here.
        let path = built(program).display().to_string();
        let unit = unit(name).replace(&format!("/usr/bin/{program}"), &path);
        let unit: Vec<&str> = unit.lines().filter(|line| !line.starts_with("Doc")).collect();
        let file = dir.path().join(name);
        fs::write(&file, unit.join("\n")).unwrap();
        let verified = output(Command::new("systemd-analyze").arg("verify").arg(&file));
        let said = String::from_utf8_lossy(&verified.stderr);
        let about = said.lines().filter(|line| line.contains(name));
        assert_eq!(about.collect::<Vec<_>>(), [""; 0], "{said}");
    }
}

#[test]
fn the_agent_has_the_capabilities_that_it_has_in_kubernetes() {
    let unit = unit("romana-agent.service");
    let listed = values(&unit, "CapabilityBoundingSet")[0].split(' ');
    let listed: BTreeSet<&str> = listed.map(|one| one.strip_prefix("CAP_").unwrap()).collect();
    assert_eq!(listed, AGENT_CAPABILITIES.into_iter().collect());
}

/// Image and package have every program, and the scripts parse.
#[test]
fn image_and_package_have_every_program() {
    for script in ["image/build.sh", "image/sbom.sh", "package/build.sh", "kubernetes/dry-run.sh"] {
        must(Command::new("bash").arg("-n").arg(deploy().join(script)));
    }
    for script in ["image/build.sh", "package/build.sh"] {
        let text = fs::read_to_string(deploy().join(script)).unwrap();
        for program in ["romanad", "romana", "romana-agent", "romana-cni", "romana-dns"] {
            let named = |c: char| c.is_whitespace() || "(){}/\"".contains(c);
            assert!(text.split(named).any(|word| word == program), "{script}: {program}");
        }
    }
}

/// The list of what is in the programs has our crates and others, with licences.
#[test]
fn the_bill_of_materials_lists_crates() {
    let list = must(&mut Command::new(deploy().join("image/sbom.sh")));
    assert!(list.lines().count() > 100, "{list}");
    for line in list.lines() {
        let [name, from, licence] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert!(name.contains(" v") && ["local", "registry"].contains(&from), "{line}");
        assert!(licence.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '('));
    }
    assert!(list.contains("romana-agent v") && list.contains("tokio v"));
    assert!(list.contains("romana-dns v"), "it has every program");

    // The same for programs that read SPDX.
    let spdx = must(Command::new(deploy().join("image/sbom.sh")).arg("--spdx"));
    let count = |field: &str| spdx.lines().filter(|line| line.starts_with(field)).count();
    assert!(spdx.starts_with("SPDXVersion: SPDX-2.3\nDataLicense: CC0-1.0\n"), "{spdx}");
    let crates = list.lines().count();
    for field in ["PackageName: ", "PackageVersion: ", "PackageLicenseDeclared: ", "Relationship: "]
    {
        assert_eq!(count(field), crates, "{field}");
    }
    let registry = list.lines().filter(|line| line.contains("\tregistry\t")).count();
    assert_eq!((count("PackageChecksum: SHA256: "), count("ExternalRef: ")), (registry, registry));
}
