//! Overlays as objects.

use std::fs;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::{deploy, must, output};

/// Names of all overlays.
pub(crate) fn overlays() -> Vec<String> {
    let found = fs::read_dir(deploy().join("kubernetes/overlays")).unwrap();
    let mut names: Vec<String> =
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The objects of an overlay, as `kubectl apply -k` sends them. A kubectl that is too old for them has `kustomize`
/// beside it (deploy/test-setup.sh).
pub(crate) fn rendered(overlay: &str) -> Vec<Value> {
    let path = deploy().join("kubernetes/overlays").join(overlay);
    let client = output(Command::new("kubectl").args(["version", "--client", "-o", "json"]));
    let client: Value = serde_json::from_slice(&client.stdout).unwrap_or_default();
    let text = match client["kustomizeVersion"].as_str() {
        Some(_) => must(Command::new("kubectl").arg("kustomize").arg(&path)),
        None => must(Command::new("kustomize").arg("build").arg(&path)),
    };
    let objects = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    objects.collect::<Result<_, _>>().unwrap()
}

/// The objects of a kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The object of a kind with a name.
pub(crate) fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = of_kind(objects, kind).into_iter().find(|one| one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The elements of a list; none if there is no list.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A field that is text.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text {field} in {value}"))
}

/// A pod template, with the workload that has it.
pub(crate) struct Template<'a> {
    pub(crate) owner: &'a Value,
    /// The pod's `spec`.
    pub(crate) pod: &'a Value,
}

impl<'a> Template<'a> {
    /// Those of all workloads.
    pub(crate) fn all(objects: &'a [Value]) -> Vec<Self> {
        let template = |owner: &'a Value| match text(owner, "kind") {
            "StatefulSet" | "DaemonSet" | "Deployment" => Some(&owner["spec"]["template"]["spec"]),
            "CronJob" => Some(&owner["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
            _ => None,
        };
        objects.iter().filter_map(|owner| Some(Self { owner, pod: template(owner)? })).collect()
    }

    /// All containers, those that initialise first.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        items(&self.pod["initContainers"]).chain(items(&self.pod["containers"]))
    }
}
