//! Cases: a cluster, questions, and what the zone says to them. A file of `cases/` is one cluster, step by step:
//!
//! ```text
//! # comment
//! set KEY VALUE                     a setting: zone, ttl, answer, pods, reverse
//! vip NAME IP                       a VIP of Romana
//! endpoint IP TENANT SEGMENT        an endpoint of Romana
//! address NAME IP TENANT SEGMENT    an address of Romana
//! delete KIND NAMESPACE/NAME        an object is deleted
//! YAML                              an object in flow style: created, or replaced
//! ask NAME TYPE                     a question
//! ---
//! the answers
//! ```
//! Steps are separated by an empty line. `UPDATE=1 cargo test` writes what comes after `---`.

#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;

use hickory_proto::rr::{Name, Record, RecordType};
use romana_client::mirror::View;
use romana_dns::catalogue::{Catalogue, Change};
use romana_dns::names::Names;
use romana_dns::source::translate;
use romana_dns::zone::{Answer, Outcome, Part, Pods, Settings, Zone};
use romana_testing::goldens::check_steps;
use serde_json::{Value, json};

/// A cluster as the server sees it.
#[derive(Default)]
struct World {
    settings: Settings,
    catalogue: Catalogue,
    vips: Vec<Value>,
    endpoints: Vec<Value>,
    addresses: Vec<Value>,
}

impl World {
    fn line(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["set", key, value] => self.set(key, value),
            ["vip", name, ip] => {
                self.vips.push(json!({"name": name, "ip": ip, "candidates": [], "holder": null}));
            }
            ["endpoint", ip, tenant, segment] => self.endpoints.push(json!({
                "ip": ip, "tenant": tenant, "segment": segment, "host": "h1",
            })),
            ["address", name, ip, tenant, segment] => self.addresses.push(json!({
                "name": name, "ip": ip, "tenant": tenant, "segment": segment, "host": "h1",
            })),
            ["delete", kind, name] => self.delete(kind, name),
            ["ask", name, kind] => self.ask(name, kind, out),
            _ => self.put(serde_yaml_ng::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))),
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let settings = &mut self.settings;
        match key {
            "zone" => settings.zone = Name::from_ascii(value).unwrap(),
            "ttl" => settings.ttl = value.parse().unwrap(),
            "answer" => {
                let part = |text| <Part as clap::ValueEnum>::from_str(text, false).unwrap();
                settings.parts = value.split(',').map(part).collect();
            }
            "pods" => settings.pods = <Pods as clap::ValueEnum>::from_str(value, false).unwrap(),
            "reverse" => settings.reverse.push(value.parse().unwrap()),
            _ => panic!("no setting {key}"),
        }
    }

    fn put(&mut self, object: Value) {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let change = match object["kind"].as_str().unwrap() {
            "Namespace" => Change::Namespace(name, true),
            "Service" => {
                let service = serde_json::from_value(object).unwrap();
                Change::Service(namespace, name, Some(translate::service(&service)))
            }
            "EndpointSlice" => {
                let slice = serde_json::from_value(object).unwrap();
                Change::Slice(namespace, name, translate::slice(&slice))
            }
            "Endpoints" => {
                let endpoints = serde_json::from_value(object).unwrap();
                Change::Slice(namespace, name, translate::endpoints(&endpoints))
            }
            kind => panic!("no kind {kind}"),
        };
        self.catalogue.apply(change);
    }

    fn delete(&mut self, kind: &str, name: &str) {
        let (namespace, name) = name.split_once('/').unwrap();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.catalogue.apply(match kind {
            "Namespace" => Change::Namespace(name, false),
            "Service" => Change::Service(namespace, name, None),
            _ => Change::Slice(namespace, name, None),
        });
    }

    fn ask(&self, name: &str, kind: &str, out: &mut String) {
        let snapshot = json!({
            "revision": 1, "vips": self.vips, "endpoints": self.endpoints, "addresses": self.addresses,
        });
        let names = Names::default().restart(&serde_json::from_value(snapshot).unwrap()).unwrap();
        let (settings, services) = (&self.settings, self.catalogue.services());
        let zone = Zone { settings, services, names: &names, turn: 0 };
        let (asked, kind): (Name, RecordType) =
            (Name::from_ascii(name).unwrap(), kind.parse().unwrap());
        let outcome = zone.answer(&asked, kind);
        write!(out, "{name} {kind}: ").unwrap();
        match outcome {
            Outcome::NotOurs => writeln!(out, "not ours").unwrap(),
            Outcome::Ours(answer) => print(&answer, out),
        }
    }
}

fn print(answer: &Answer, out: &mut String) {
    writeln!(out, "{}", if answer.exists { "NOERROR" } else { "NXDOMAIN" }).unwrap();
    let mut section = |title: &str, records: &[Record]| {
        for Record { name, ttl, data, .. } in records {
            writeln!(out, "    {title}{name} {ttl} {} {data}", data.record_type()).unwrap();
        }
    };
    section("", &answer.answers);
    // The serial is no business of a case.
    for record in &answer.authorities {
        assert_eq!(record.record_type(), RecordType::SOA);
    }
    section("additional: ", &answer.additionals);
    for Record { name, ttl, .. } in &answer.authorities {
        writeln!(out, "    authority: {name} {ttl} SOA").unwrap();
    }
    if let Some(alias) = &answer.alias {
        writeln!(out, "    then ask for {alias}").unwrap();
    }
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    check_steps(&folder, 6, World::default, |world, given, out| {
        let lines = given.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            world.line(line, out);
        }
    });
}
