//! The possible steps, and how they are drawn.

use std::net::{IpAddr, Ipv4Addr};

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use romana_statemachine::command::{
    AllocateAddress, Attached, ObjectKey, ReleaseAddress, ReportAttachments,
};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Answer, Command, State};
use serde_json::{Value, json};

use super::{Bug, HOSTS, World};

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A client submits a command.
    Propose(Box<Command>),
    /// Time passes, milliseconds.
    Wait(u64),
    /// Sets the offset (milliseconds) and drift (millionths) of one replica's clock.
    Clock(i64, i64),
    /// Another replica becomes the leader.
    Lead(usize),
    /// A container starts on a host: its agent allocates.
    Add(usize, AddressName),
    /// A container stops.
    Del(usize, AddressName),
    /// An agent receives up to this many records.
    Hear(usize, usize),
    /// An agent is disconnected from the feed, or reconnected.
    Connect(usize, bool),
    /// An agent reconciles its kernel, with a limit of writes.
    Pass(usize, usize),
    /// An agent saves its view.
    Save(usize),
    /// An agent restarts.
    Restart(usize),
    /// A host reboots.
    Reboot(usize),
    /// An agent reports its containers.
    Report(usize),
    /// Another program changes one of its routes, or removes one of ours.
    Foreign(usize, u32),
    /// A replica restarts from its own snapshot.
    Snapshot(usize),
    /// All agents receive everything, save, and reconcile until there is nothing to do.
    Settle,
}

/// Initial commands of a world.
pub(super) fn beginning() -> Vec<Command> {
    let mut all = vec![
        json!({"RaiseVersion": {"version": 2}}),
        json!({"RaiseVersion": {"version": 3}}),
        json!({"RaiseVersion": {"version": 4}}),
        TOPOLOGIES[0](),
        json!({"ChangeSettings": {"address_reuse_delay_ms": 1000}}),
        json!({"CreateTenant": {"id": "t0", "labels": {"kubernetes.io/metadata.name": "t0"}}}),
    ];
    all.extend((0..HOSTS).map(|number| host(number, number % 2)));
    all.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
}

/// Topologies that keep, move or refuse what was allocated under the others.
const TOPOLOGIES: [fn() -> Value; 4] = [
    || topology("n", 26, &json!([{"assignment": {"rack": "0"}}, {"assignment": {"rack": "1"}}])),
    || topology("n", 26, &json!([{}])),
    || topology("m", 25, &json!([{"assignment": {"rack": "0"}}, {}, {"groups": [{}, {}]}])),
    || topology("n", 27, &json!([{}, {}])),
];

fn topology(name: &str, bits: u8, map: &Value) -> Value {
    json!({"SetTopology": {
        "networks": [
            {"name": name, "cidr": format!("10.0.0.0/{bits}"), "block_mask": 29},
            {"name": "six", "cidr": "fd00::/121", "block_mask": 125}],
        "topologies": [{"networks": [name, "six"], "map": map}]}})
}

fn host(number: usize, rack: usize) -> Value {
    json!({"AddHost": {"name": format!("h{number}"), "ip": format!("192.168.0.{}", number + 1),
        "addresses": [format!("2001:db8::{}", number + 1)], "labels": {"rack": rack.to_string()}}})
}

/// Draws a step.
pub(super) fn draw(world: &World, rng: &mut SmallRng) -> Step {
    let at = rng.random_range(0..HOSTS);
    let number = rng.random_range(0..12_u8);
    match rng.random_range(0..100_u8) {
        0..20 => Step::Add(at, format!("cni:{at}-{number}").into()),
        20..30 => {
            let running: Vec<&AddressName> = world.agents[at].running.keys().collect();
            let name = running.choose(rng).map(|name| (*name).clone());
            Step::Del(at, name.unwrap_or_else(|| format!("cni:{at}-{number}").into()))
        }
        30..45 => Step::Hear(at, rng.random_range(1..12)),
        45..58 => Step::Pass(at, if rng.random_bool(0.2) { 1 } else { usize::MAX }),
        58..61 => Step::Connect(at, rng.random_bool(0.6)),
        61..64 => Step::Save(at),
        64..67 => Step::Restart(at),
        67 => Step::Reboot(at),
        68..73 => Step::Report(at),
        73..76 => Step::Foreign(at, rng.random_range(0..9)),
        76..78 => Step::Snapshot(rng.random_range(0..3)),
        78..84 => Step::Wait(*[1, 100, 1_000, 5_000].choose(rng).unwrap_or(&1)),
        84 => Step::Settle,
        85 => {
            let far = *[0, 700, 20_000, 3_600_000, 400 * 86_400_000].choose(rng).unwrap_or(&0);
            let far = if rng.random_bool(0.5) { far } else { -far };
            Step::Clock(far, *[0, 0, 300_000, -300_000].choose(rng).unwrap_or(&0))
        }
        86 => Step::Lead(rng.random_range(0..3)),
        _ => command(world.state(), rng).map_or(Step::Wait(1), |it| Step::Propose(Box::new(it))),
    }
}

/// A command of operators, the orchestrator or leader tasks.
fn command(state: &State, rng: &mut SmallRng) -> Option<Command> {
    let (n, tenant, at) =
        (rng.random_range(0..6_u8), rng.random_range(0..2_u8), rng.random_range(0..HOSTS));
    let ip = Ipv4Addr::new(10, 0, 0, rng.random_range(0..64));
    let value = match rng.random_range(0..28_u8) {
        0 | 1 => {
            let owner = json!({"name": format!("vm{n}"), "host": format!("h{at}"),
                "tenant": format!("t{tenant}"), "segment": "s"});
            json!({"AllocateAddress": owner})
        }
        2 => json!({"AllocateAddress": {"name": format!("vm{n}"), "host": format!("h{at}"),
            "tenant": "t1", "segment": "s", "ip": ip}}),
        3 | 4 => json!({"ReleaseAddress": {"address": format!("vm{n}")}}),
        5 => TOPOLOGIES.choose(rng)?(),
        6 => host(at, rng.random_range(0..3)),
        7 => json!({"RemoveHost": {"name": format!("h{at}"), "force": rng.random_bool(0.3)}}),
        8 => json!({"SetHostState": {"name": format!("h{at}"),
            "state": *["up", "down", "draining"].choose(rng)?}}),
        9 => json!({"UpdateHost": {"name": format!("h{at}"),
            "ip": format!("192.168.0.{}", rng.random_range(1..9))}}),
        10 => json!({"AddBlackout": {"cidr": format!("{ip}/32")}}),
        11 => json!({"RemoveBlackout": {"cidr": format!("{ip}/32")}}),
        12 => json!({"ChangeSettings": {"address_reuse_delay_ms": *[0, 1000].choose(rng)?}}),
        13 | 14 => json!({"EndCooldowns": {"term": 1}}),
        15 => json!({"CreateTenant": {"id": format!("t{tenant}"), "labels": {"x": n.to_string()}}}),
        16 | 17 => policy(n, tenant, rng)?,
        18 => {
            let held = state.ipam().addresses_after(None).nth(usize::from(n))?;
            json!({"SetEndpoint": {"ip": held.ip, "tenant": held.tenant, "segment": held.segment,
                "host": held.host, "labels": {"app": (n % 3).to_string()},
                "ports": [{"name": "http", "protocol": "tcp", "port": 80}]}})
        }
        19 => json!({"RemovePolicy": {"name": format!("p{}", n % 3)}}),
        20 => json!({"RequestVip": {"name": format!("v{}", n % 2),
            "ip": format!("192.168.99.{}", n % 2), "candidates": []}}),
        21..25 => import(state, rng)?,
        25 | 26 => {
            let object = key(n, ip, rng)?;
            json!({"WithdrawObject": {"object": object, "uid": format!("u{}", n % 2), "term": 1}})
        }
        _ => {
            json!({"AssignVip": {"name": format!("v{}", n % 2), "host": format!("h{at}"), "term": 1}})
        }
    };
    serde_json::from_value(value).ok()
}

/// An object from outside, of one of two sources, which operators may have made as well.
fn import(state: &State, rng: &mut SmallRng) -> Option<Value> {
    let (n, at) = (rng.random_range(0..6_u8), rng.random_range(0..HOSTS));
    let object = match rng.random_range(0..5_u8) {
        0 => json!({"Host": host(at, at % 2)["AddHost"]}),
        1 => json!({"Tenant": {"id": format!("t{}", n % 3), "labels": {"x": n.to_string()}}}),
        2 => {
            let held = state.ipam().addresses_after(None).nth(usize::from(n))?;
            json!({"Endpoint": {"ip": held.ip, "tenant": held.tenant, "segment": held.segment,
                "host": held.host, "labels": {"app": (n % 3).to_string()}}})
        }
        3 => json!({"Policy": policy(n, n % 2, rng)?["SetPolicy"]}),
        _ => json!({"Vip": {"name": format!("v{}", n % 3),
            "ip": format!("192.168.99.{}", n % 3), "candidates": [format!("h{at}")]}}),
    };
    let source = json!({"kind": "Kind", "uid": format!("u{}", rng.random_range(0..2_u8))});
    Some(json!({"ImportObject": {"source": source, "object": object, "term": 1}}))
}

/// The key of an object that may come from outside.
fn key(n: u8, ip: Ipv4Addr, rng: &mut SmallRng) -> Option<Value> {
    let all = [
        json!({"Host": format!("h{}", usize::from(n) % HOSTS)}),
        json!({"Tenant": format!("t{}", n % 3)}),
        json!({"Endpoint": ip}),
        json!({"Policy": format!("p{}", n % 3)}),
        json!({"Vip": format!("v{}", n % 3)}),
    ];
    all.choose(rng).cloned()
}

fn policy(n: u8, tenant: u8, rng: &mut SmallRng) -> Option<Value> {
    let peer = [
        json!("Any"),
        json!("Local"),
        json!({"Tenant": "t1"}),
        json!({"Cidr": {"cidr": "10.0.0.0/28", "except": ["10.0.0.3/32"]}}),
        json!({"Endpoints": {"tenants": {"Id": "t0"}, "endpoints": {"labels": {"app": "1"}}}}),
    ];
    let target = [
        json!({"Tenant": format!("t{tenant}")}),
        json!({"Endpoints": [format!("t{tenant}"), {"labels": {"app": "2"}}]}),
        json!({"Cidr": "10.0.0.8/29"}),
    ];
    let rule = json!({"peers": [peer.choose(rng)?], "traffic": [{"protocol": "tcp",
        "ports": [{"Number": rng.random_range(1..100_u16)}, {"Named": "http"}]}]});
    Some(json!({"SetPolicy": {"name": format!("p{}", n % 3), "applied_to": [target.choose(rng)?],
        "isolates_ingress": true, "isolates_egress": n.is_multiple_of(2), "ingress": [rule],
        "egress": if n.is_multiple_of(2) { json!([rule]) } else { json!([]) }}}))
}

/// Executes a step.
pub(super) fn take(world: &mut World, step: &Step) {
    let bug = world.bug;
    match step {
        Step::Propose(command) => {
            world.propose(command);
            evicted(world, command);
        }
        Step::Wait(ms) => world.clocks.pass(*ms),
        Step::Clock(ahead, drift) => world.clocks.set(*ahead, *drift),
        Step::Lead(at) => world.clocks.lead(*at),
        Step::Add(at, name) => add(world, *at, name),
        Step::Del(at, name) => {
            if bug != Some(Bug::Zombie) {
                world.agents[*at].running.remove(name);
            }
            let address = name.clone();
            world.propose(&Command::ReleaseAddress(ReleaseAddress { address }));
        }
        Step::Hear(at, most) => world.agents[*at].hear(&world.records, *most, bug),
        Step::Connect(at, connected) => world.agents[*at].connected = *connected,
        Step::Pass(at, most) => world.agents[*at].pass(*most, bug),
        Step::Save(at) => world.agents[*at].save(),
        Step::Restart(at) => world.agents[*at].restart(),
        Step::Reboot(at) => world.agents[*at].reboot(),
        Step::Report(at) => report(world, *at),
        Step::Foreign(at, number) if *number < 6 => world.agents[*at].others(*number),
        Step::Foreign(at, number) => world.agents[*at].lose_route(*number as usize),
        Step::Snapshot(at) => {
            world.changed = true;
            world.clocks.restart(*at);
            let bytes = world.replicas[*at].snapshot();
            // The law of equal states detects a failure.
            if let Ok(again) = State::from_snapshot(&bytes) {
                world.replicas[*at] = again;
            }
        }
        Step::Settle => {
            let records = world.records.clone();
            for agent in &mut world.agents {
                agent.connected = true;
                agent.hear(&records, usize::MAX, bug);
                agent.save();
                agent.pass(usize::MAX, bug);
                agent.pass(usize::MAX, bug);
            }
            world.quiet = true;
        }
    }
}

fn add(world: &mut World, at: usize, name: &AddressName) {
    let host = world.agents[at].host.clone();
    if !world.agents[at].connected {
        return;
    }
    let command = Command::AllocateAddress(AllocateAddress {
        name: name.clone(),
        host,
        tenant: "t0".into(),
        segment: "s".into(),
        network: None,
        ip: None,
    });
    let outcome = world.propose(&command);
    if let Ok(Answer::Address { allocation, .. }) = outcome.result {
        world.agents[at].running.insert(name.clone(), allocation.ip);
    }
}

/// An operator who evicts a host, or removes its Node, has made sure that nothing runs there.
fn evicted(world: &mut World, command: &Command) {
    let gone: Option<HostName> = match command {
        Command::RemoveHost(remove) => remove.force.then(|| remove.name.clone()),
        Command::WithdrawObject(withdraw) => match &withdraw.object {
            ObjectKey::Host(name) => world.state().host(name).is_none().then(|| name.clone()),
            _ => None,
        },
        _ => None,
    };
    for agent in world.agents.iter_mut().filter(|agent| Some(&agent.host) == gone.as_ref()) {
        agent.running.clear();
    }
}

fn report(world: &mut World, at: usize) {
    let agent = &world.agents[at];
    if !agent.connected || !agent.caught_up {
        return;
    }
    let attached = |(name, ip): (&AddressName, &IpAddr)| {
        let known = agent.view.addresses.get(name);
        let owner = known.map(|it| (it.tenant.clone(), it.segment.clone()));
        let (tenant, segment) = owner.unwrap_or_else(|| ("t0".into(), "s".into()));
        Attached { name: name.clone(), ip: *ip, tenant, segment }
    };
    // Names that do not belong to the agent.
    let others = agent.view.addresses.keys().filter(|name| !name.as_str().starts_with("cni:"));
    let report = ReportAttachments {
        host: agent.host.clone(),
        revision: agent.view.revision(),
        at: agent.view.at,
        running: agent.running.iter().map(attached).collect(),
        kept: others.cloned().collect(),
    };
    world.propose(&Command::ReportAttachments(report));
}
