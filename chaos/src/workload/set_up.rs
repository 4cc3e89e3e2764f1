//! The cluster as the workload finds it: topology, hosts and tenants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use romana_statemachine::Command;
use romana_statemachine::command::{HostSource, HostSpec, Labels, SettingsChange, TenantSpec};
use romana_statemachine::topology::TopologySpec;
use serde_json::json;

use crate::caller::{Caller, library};
use crate::evidence::{Ask, Call, Clock, Outcome};

/// Prefix groups.
pub(super) const RACKS: u8 = 4;
/// Hosts in each prefix group.
pub(super) const HOSTS_PER_RACK: u8 = 4;
/// Number of tenants.
pub(super) const TENANTS: u8 = 4;
/// Short, so that addresses are reused during the run.
const REUSE_DELAY_MS: u64 = 250;

/// The topology: one network divided among racks; `wide` adds a second one.
#[must_use]
pub fn topology(wide: bool) -> TopologySpec {
    let racks: Vec<_> = (0..RACKS)
        .map(
            |rack| json!({"name": format!("rack{rack}"), "assignment": {"rack": rack.to_string()}}),
        )
        .collect();
    let mut document = json!({
        "networks": [{"name": "pods", "cidr": "10.0.0.0/19", "block_mask": 29}],
        "topologies": [{"networks": ["pods"], "map": racks}],
    });
    if wide {
        let more = json!({"name": "spare", "cidr": "172.20.0.0/20", "block_mask": 29,
                          "tenants": ["spare"]});
        document["networks"].as_array_mut().into_iter().for_each(|all| all.push(more.clone()));
        document["topologies"][0]["networks"] = json!(["pods", "spare"]);
    }
    // The document is a constant of this file.
    serde_json::from_value(document).unwrap_or_default()
}

pub(super) fn labels(rack: u8) -> Labels {
    Labels::from([(String::from("rack"), rack.to_string())])
}

pub(super) fn host(name: String, number: u16, rack: u8) -> HostSpec {
    let [high, low] = number.to_be_bytes();
    HostSpec {
        name: name.into(),
        ip: IpAddr::V4(Ipv4Addr::new(192, 168, high, low)),
        addresses: Vec::new(),
        labels: labels(rack),
        info: Labels::new(),
        source: HostSource::Operator,
    }
}

/// The setup commands.
#[must_use]
pub fn world() -> Vec<Command> {
    let mut commands = vec![
        Command::SetTopology(topology(false)),
        Command::ChangeSettings(SettingsChange {
            address_reuse_delay_ms: Some(REUSE_DELAY_MS),
            ..SettingsChange::default()
        }),
    ];
    commands.extend((0..RACKS * HOSTS_PER_RACK).map(|number| {
        Command::AddHost(host(format!("h{number}"), u16::from(number) + 1, number % RACKS))
    }));
    commands.extend((0..TENANTS).map(|tenant| {
        let id = format!("t{tenant}").into();
        Command::CreateTenant(TenantSpec { id, labels: Labels::new() })
    }));
    commands
}

/// Executes setup commands, and records their calls.
///
/// # Errors
/// The cluster does not accept a command within a minute.
pub async fn set_up(
    apis: &[SocketAddr],
    commands: Vec<Command>,
    clock: Clock,
) -> Result<Vec<Call>> {
    let mut caller = Caller::Library(library(apis, "chaos:setup")?);
    let mut rng = SmallRng::seed_from_u64(0);
    let mut calls = Vec::new();
    for command in commands {
        let ask = Ask::Command(Box::new(command));
        let start = calls.len();
        loop {
            let invoked = clock.now();
            let outcome = caller.call(&ask, &mut rng).await;
            let done = matches!(outcome, Outcome::Acked { .. });
            if let (Outcome::Refused { code }, true) = (&outcome, calls.len() == start) {
                bail!("the cluster refused {ask:?}: {code}");
            }
            // A refusal after an unknown outcome means that it was committed.
            let settled = done || matches!(outcome, Outcome::Refused { .. });
            let returned = clock.now();
            let retried = caller.retries();
            let (ask, client) = (ask.clone(), 0);
            calls.push(Call { client, invoked, returned, ask, outcome, retried });
            if settled {
                break;
            }
            if calls.len() - start > 20 {
                bail!("the cluster does not answer the call {}", calls.len());
            }
        }
    }
    Ok(calls)
}
