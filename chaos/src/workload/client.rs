//! One client: draws its next call from its seed and from what it holds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use romana_statemachine::Command;
use romana_statemachine::command::{
    AllocateAddress, Blackout, HostChange, PolicyRef, ReleaseAddress, RemoveHost,
};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::policy::{Peer, Policy, Port, Protocol, Rule, Target, Traffic};

use super::set_up::{HOSTS_PER_RACK, RACKS, TENANTS, host, labels, topology};
use crate::caller::Caller;
use crate::evidence::{Ask, Call, Clock, Outcome};

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

/// A client's state: what it holds, and its random generator.
pub(super) struct Client {
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

impl Client {
    /// Client `number`, counted from 1, of a cluster of so many replicas.
    pub(super) fn new(number: usize, seed: u64, clock: Clock, bare: bool, replicas: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003) + number as u64);
        let (held, made) = (Vec::new(), 0);
        Self { number, rng, clock, bare, replicas, held, made, own_host: false, wide: false }
    }

    /// Makes calls until `stop`; counts the acknowledged ones in `served`.
    pub(super) async fn live(
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
