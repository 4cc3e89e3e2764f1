//! The clients' workload, drawn from a seed: addresses are allocated and released, hosts and policies change,
//! and so does the topology. Each client has its own names, so that it knows what to expect; in addition
//! several clients compete for shared names, each requested once, and for specific addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use romana_statemachine::Command;
use romana_statemachine::command::{
    AllocateAddress, Blackout, HostChange, HostSource, HostSpec, Labels, PolicyRef, ReleaseAddress,
    RemoveHost, SettingsChange, TenantSpec,
};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::policy::{Peer, Policy, Port, Protocol, Rule, Target, Traffic};
use romana_statemachine::topology::TopologySpec;
use serde_json::json;
use tokio::task::JoinSet;

use crate::caller::{Caller, library};
use crate::evidence::{Ask, Call, Clock, Outcome};

/// Prefix groups, and hosts in each.
const RACKS: u8 = 4;
const HOSTS_PER_RACK: u8 = 4;
const TENANTS: u8 = 4;
/// Number of held addresses above which a client prefers to release.
const HELD_MAX: usize = 16;
/// Maximum pause of a client between calls: there are many clients, which share
/// the machine with the replicas.
const PAUSE_MS_MAX: u64 = 30;
/// Number of concurrently shared names, and how long they are used: histories that are
/// judged by searching must be short.
const SHARED_NAMES: u8 = 4;
const SHARED_NANOS: u64 = 2_000_000_000;
/// Policies that are created and removed.
const POLICIES: u8 = 6;
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

fn labels(rack: u8) -> Labels {
    Labels::from([(String::from("rack"), rack.to_string())])
}

fn host(name: String, number: u16, rack: u8) -> HostSpec {
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

/// Options of the workload.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    pub clients: usize,
    pub seed: u64,
}

/// Running clients.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    /// Acknowledged calls of each client.
    served: Arc<[AtomicU64]>,
    clients: JoinSet<Vec<Call>>,
}

impl Workload {
    /// Starts the clients. Half of them use the client library, half single requests.
    ///
    /// # Errors
    /// A client cannot be created.
    pub fn start(apis: &[SocketAddr], options: &WorkloadOptions, clock: Clock) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let served: Arc<[AtomicU64]> = (0..options.clients).map(|_| AtomicU64::new(0)).collect();
        let mut clients = JoinSet::new();
        // Some share a library client, so that calls are batched.
        let shared = library(apis, "chaos:shared")?;
        for number in 1..=options.clients {
            let caller = match number % 4 {
                0 => Caller::Library(shared.clone()),
                1 => Caller::Library(library(apis, &format!("chaos:{number}"))?),
                _ => Caller::Bare { apis: apis.to_vec(), connection: None },
            };
            let rng = SmallRng::seed_from_u64(options.seed.wrapping_mul(1_000_003) + number as u64);
            let client = Person {
                number,
                rng,
                clock,
                bare: !caller.retries(),
                replicas: apis.len() as u64,
                held: Vec::new(),
                made: 0,
                own_host: false,
                wide: false,
            };
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            clients.spawn(client.live(caller, stop, served));
        }
        Ok(Self { stop, served, clients })
    }

    /// Waits until every client has had two more calls acknowledged. Returns those that have not.
    pub async fn all_served(&self, patience: Duration) -> Vec<usize> {
        let counts = || self.served.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        let end = Instant::now() + patience;
        loop {
            let waiting: Vec<usize> = counts()
                .zip(&before)
                .zip(1..)
                .filter(|((now, before), _)| *now < *before + 2)
                .map(|(_, client)| client)
                .collect();
            if waiting.is_empty() || Instant::now() > end {
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets every client finish its current call, and returns all calls.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn finish(mut self) -> Result<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        while let Some(done) = self.clients.join_next().await {
            calls.extend(done.context("a client of the workload")?);
        }
        Ok(calls)
    }
}

/// A client's state: what it holds, and its random generator.
struct Person {
    number: usize,
    rng: SmallRng,
    clock: Clock,
    /// It sends single requests without retries.
    bare: bool,
    replicas: u64,
    /// Names that it has allocated, or may have.
    held: Vec<(AddressName, HostName, u8)>,
    made: u64,
    own_host: bool,
    wide: bool,
}

impl Person {
    async fn live(
        mut self,
        mut caller: Caller,
        stop: Arc<AtomicBool>,
        served: Arc<[AtomicU64]>,
    ) -> Vec<Call> {
        let (clock, retried) = (self.clock, caller.retries());
        let mut calls = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let ask = self.next();
            let invoked = clock.now();
            let outcome = caller.call(&ask, &mut self.rng).await;
            let returned = clock.now();
            self.learn(&ask, &outcome);
            if matches!(outcome, Outcome::Acked { .. }) {
                served[self.number - 1].fetch_add(1, Ordering::Relaxed);
            }
            calls.push(Call { client: self.number, invoked, returned, ask, outcome, retried });
            let pause = self.rng.random_range(0..=PAUSE_MS_MAX);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        calls
    }

    fn next(&mut self) -> Ask {
        let full = self.held.len() >= HELD_MAX;
        let command = match self.rng.random_range(0..100_u8) {
            0..10 if self.bare => return self.shared(),
            10..36 if !full => self.allocate(),
            36..42 if !full => self.allocate_this(),
            0..66 if !self.held.is_empty() => self.release(),
            66..74 if !self.held.is_empty() => self.allocate_again(),
            74..80 if self.bare => {
                let name = self.some_name();
                return Ask::Local(name, self.rng.random_range(1..=self.replicas));
            }
            80..90 => return Ask::Read(self.some_name()),
            90..92 => return Ask::Who(self.some_ip()),
            92..95 => self.policy(),
            95..98 => self.host_change(),
            98 => self.blackout(),
            99 if self.number % 8 == 1 => {
                self.wide = !self.wide;
                Command::SetTopology(topology(self.wide))
            }
            _ => self.allocate(),
        };
        Ask::Command(Box::new(command))
    }

    /// An operation on a shared name.
    fn shared(&mut self) -> Ask {
        let (turn, which) =
            (self.clock.now() / SHARED_NANOS, self.rng.random_range(0..SHARED_NAMES));
        let name = AddressName::from(format!("shared{which}-{turn}"));
        let command = match self.rng.random_range(0..5_u8) {
            0 | 1 => {
                let host = format!("h{}", self.rng.random_range(0..3_u8)).into();
                allocation(name, host, self.rng.random_range(0..2))
            }
            2 => Command::ReleaseAddress(ReleaseAddress { address: name }),
            _ => return Ask::Read(name),
        };
        Ask::Command(Box::new(command))
    }

    /// An address that others request too, under this client's name.
    fn allocate_this(&mut self) -> Command {
        let number = self.rng.random_range(0..RACKS * HOSTS_PER_RACK);
        // The upper end of the rack's part of the network, so that it is free at first.
        let third = (number % RACKS) * 8 + 7;
        let ip = Ipv4Addr::new(10, 0, third, 200 + self.rng.random_range(0..8_u8));
        let name = AddressName::from(format!("c{}-{}", self.number, self.made));
        self.made += 1;
        let (host, tenant) =
            (HostName::from(format!("h{number}")), self.rng.random_range(0..TENANTS));
        self.held.push((name.clone(), host.clone(), tenant));
        match allocation(name, host, tenant) {
            Command::AllocateAddress(ask) => {
                Command::AllocateAddress(AllocateAddress { ip: Some(ip.into()), ..ask })
            }
            other => other,
        }
    }

    /// An address that may be allocated: in the first block of a rack, or one of the contended ones.
    fn some_ip(&mut self) -> IpAddr {
        let rack = self.rng.random_range(0..RACKS) * 8;
        match self.rng.random_bool(0.5) {
            true => Ipv4Addr::new(10, 0, rack, self.rng.random_range(0..64_u8)).into(),
            false => Ipv4Addr::new(10, 0, rack + 7, 200 + self.rng.random_range(0..8_u8)).into(),
        }
    }

    fn policy(&mut self) -> Command {
        let name = format!("p{}", self.rng.random_range(0..POLICIES)).into();
        if self.rng.random_bool(0.3) {
            return Command::RemovePolicy(PolicyRef { name });
        }
        let ports = vec![Port::Number(self.rng.random_range(1..=u16::MAX))];
        let traffic = vec![Traffic { protocol: Protocol::Tcp, ports, icmp: None }];
        Command::SetPolicy(Policy {
            name,
            description: String::new(),
            applied_to: vec![Target::Tenant(
                format!("t{}", self.number % usize::from(TENANTS)).into(),
            )],
            isolates_ingress: true,
            isolates_egress: false,
            ingress: vec![Rule { peers: vec![Peer::Any], traffic }],
            egress: Vec::new(),
        })
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..self.held.len())
    }

    fn allocate(&mut self) -> Command {
        let name = AddressName::from(format!("c{}-{}", self.number, self.made));
        self.made += 1;
        let host = if self.own_host && self.rng.random_bool(0.3) {
            self.own_host_name()
        } else {
            format!("h{}", self.rng.random_range(0..RACKS * HOSTS_PER_RACK)).into()
        };
        let tenant = self.rng.random_range(0..TENANTS);
        self.held.push((name.clone(), host.clone(), tenant));
        allocation(name, host, tenant)
    }

    fn allocate_again(&mut self) -> Command {
        let at = self.pick();
        let (name, host, tenant) = self.held[at].clone();
        allocation(name, host, tenant)
    }

    fn release(&mut self) -> Command {
        let at = self.pick();
        let (address, ..) = self.held[at].clone();
        Command::ReleaseAddress(ReleaseAddress { address })
    }

    /// A name to read: one of this client's, or one that others may be changing.
    fn some_name(&mut self) -> AddressName {
        if !self.held.is_empty() && self.rng.random_bool(0.5) {
            let at = self.pick();
            return self.held[at].0.clone();
        }
        let other = self.rng.random_range(1..=self.number);
        let made = self.rng.random_range(0..=self.made);
        format!("c{other}-{made}").into()
    }

    fn own_host_name(&self) -> HostName {
        format!("x{}", self.number).into()
    }

    fn host_change(&mut self) -> Command {
        let name = self.own_host_name();
        let number = u16::try_from(self.number).unwrap_or(u16::MAX);
        let rack = self.rng.random_range(0..RACKS);
        if self.rng.random_range(0..20_u8) == 0 {
            return self.shared_host();
        }
        match self.rng.random_range(0..4_u8) {
            0 | 1 => Command::AddHost(host(name.to_string(), number.saturating_add(256), rack)),
            2 => {
                let mut labels = labels(rack);
                labels.insert(String::from("note"), self.made.to_string());
                let labels = Some(labels);
                let (ip, addresses, info) = (None, None, None);
                Command::UpdateHost(HostChange { name, ip, addresses, labels, info })
            }
            _ => Command::RemoveHost(RemoveHost { name, force: self.rng.random_bool(0.5) }),
        }
    }

    /// Evicts or adds a host on which all clients have addresses.
    fn shared_host(&mut self) -> Command {
        let number = self.rng.random_range(0..RACKS * HOSTS_PER_RACK);
        let name = format!("h{number}");
        if self.rng.random_bool(0.3) {
            return Command::RemoveHost(RemoveHost { name: name.into(), force: true });
        }
        Command::AddHost(host(name, u16::from(number) + 1, number % RACKS))
    }

    fn blackout(&mut self) -> Command {
        // Few ranges, so that adding and removing overlap.
        let third = self.rng.random_range(0..4_u8) * 8;
        let blackout =
            Blackout { cidr: format!("10.0.{third}.{}/31", self.rng.random_range(0..4_u8) * 2) };
        if self.rng.random_bool(0.5) {
            Command::AddBlackout(blackout)
        } else {
            Command::RemoveBlackout(blackout)
        }
    }

    /// Forgets a name once it certainly holds nothing.
    fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let Ask::Command(command) = ask else { return };
        let acked = matches!(outcome, Outcome::Acked { .. });
        match &**command {
            Command::ReleaseAddress(ask) if acked => {
                self.held.retain(|(name, ..)| *name != ask.address);
            }
            Command::AllocateAddress(ask) if matches!(outcome, Outcome::Refused { .. }) => {
                self.held.retain(|(name, ..)| *name != ask.name);
            }
            Command::AddHost(spec) if spec.name == self.own_host_name() => self.own_host |= acked,
            Command::RemoveHost(ask) if acked && ask.name == self.own_host_name() => {
                self.own_host = false;
            }
            _ => {}
        }
    }
}

fn allocation(name: AddressName, host: HostName, tenant: u8) -> Command {
    Command::AllocateAddress(AllocateAddress {
        name,
        host,
        tenant: format!("t{tenant}").into(),
        segment: "default".into(),
        network: None,
        ip: None,
    })
}
