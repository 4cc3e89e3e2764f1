//! The laws of the state machine, on arbitrary histories: any commands in any order, with changing topologies,
//! evicted hosts and clocks that jump.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "laws/commands.rs"]
mod commands;
#[path = "laws/imports.rs"]
mod imports;
#[path = "laws/plans.rs"]
mod plans;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use romana_statemachine::command::{HostState, PlaceVip};
use romana_statemachine::entry::{unwire, wire};
use romana_statemachine::event::Restored;
use romana_statemachine::routes::{self, Via};
use romana_statemachine::{
    Command, Digest, Entry, Event, Host, Index, Millis, Now, Outcome, Position, Proposal, Record,
    Revision, State, Term, VERSION_MAX, VipMove,
};

/// One log entry: how the leader's clock moves, what is proposed, and whether a replica is restarted from a snapshot
/// before it, or the whole cluster is restored from a backup.
#[derive(Clone)]
struct Step {
    clock: i64,
    commands: Vec<Command>,
    restart: bool,
    restore: bool,
}

/// In the language of the scripts, so that a failing history is readable.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:+}{}", self.clock, if self.restart { " restart" } else { "" })?;
        self.commands.iter().try_for_each(|command| match command {
            Command::SetTopology(spec) => write!(f, "; {}", serde_json::to_string(spec).unwrap()),
            other => write!(f, "; {other}"),
        })
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let clock = prop_oneof![Just(0i64), 1..2_000i64, Just(30_000), Just(-500)];
    let commands = prop::collection::vec(commands::command(), 1..5);
    let (restart, restore) = (prop::bool::weighted(0.2), prop::bool::weighted(0.02));
    let step = (clock, commands, restart, restore)
        .prop_map(|(clock, commands, restart, restore)| Step { clock, commands, restart, restore });
    let steps = prop::collection::vec(step, 1..60);
    // Half of the histories start at the newest version.
    (steps, any::<bool>()).prop_map(|(mut steps, newest)| {
        let commands: Vec<Command> = (2..=VERSION_MAX).map(commands::raise).collect();
        let first = Step { clock: 0, commands, restart: false, restore: false };
        newest.then(|| steps.insert(0, first));
        steps
    })
}

/// A model of the history, independent of the state machine: names, addresses, cool-downs, leases.
#[derive(Default)]
struct Judge {
    holder_of: BTreeMap<IpAddr, String>,
    address_of: BTreeMap<String, IpAddr>,
    /// Released addresses that are cooling down, and since when.
    cooling: BTreeMap<IpAddr, u64>,
    /// The holder of a VIP's address, and when its lease expires.
    leases: BTreeMap<IpAddr, (String, u64)>,
    /// The host that has each VIP, from version 4 on.
    placed: BTreeMap<String, String>,
    delay: u64,
}

impl Judge {
    fn new() -> Self {
        Self { delay: 30_000, ..Self::default() }
    }

    /// Removes cool-downs that have expired.
    fn clock(&mut self, at: u64) {
        let delay = self.delay;
        self.cooling.retain(|_, released| at.saturating_sub(*released) < delay);
    }

    fn judge(&mut self, record: &Record) {
        let at = record.at.0;
        self.clock(at);
        match &record.event {
            Event::AddressAllocated(event) => {
                let name = event.name.to_string();
                let other = self.holder_of.insert(event.ip, name.clone());
                assert_eq!(other, None, "{record}: the address has a holder");
                let other = self.address_of.insert(name, event.ip);
                assert_eq!(other, None, "{record}: the name has an address");
                assert!(!self.cooling.contains_key(&event.ip), "{record}: it was still cooling");
                assert!(event.block.contains(&event.ip), "{record}: outside of its block");
            }
            // It is in use already, so it may be cooling down.
            Event::AddressAdopted(event) => {
                let name = event.name.to_string();
                let other = self.holder_of.insert(event.ip, name.clone());
                assert_eq!(other, None, "{record}: the address has a holder");
                let other = self.address_of.insert(name, event.ip);
                assert_eq!(other, None, "{record}: the name has an address");
                assert!(event.block.contains(&event.ip), "{record}: outside of its block");
                self.cooling.remove(&event.ip);
            }
            Event::AddressClaimed(event) => {
                let (name, reserve) = (event.name.to_string(), event.reserve.to_string());
                let before = self.holder_of.insert(event.ip, name.clone());
                assert_eq!(before.as_ref(), Some(&reserve), "{record}: not the holder");
                assert_eq!(self.address_of.remove(&reserve), Some(event.ip), "{record}");
                let other = self.address_of.insert(name, event.ip);
                assert_eq!(other, None, "{record}: the name has an address");
            }
            Event::AddressReleased(event) => {
                let name = self.holder_of.remove(&event.ip);
                assert_eq!(name.as_deref(), Some(event.name.as_str()), "{record}: not the holder");
                assert_eq!(self.address_of.remove(event.name.as_str()), Some(event.ip), "{record}");
                self.cooling.insert(event.ip, at);
            }
            Event::SettingsChanged(settings) => self.delay = settings.address_reuse_delay_ms,
            Event::VipAssigned(event) => {
                let host = event.host.to_string();
                let until = at + event.lease_ms;
                if let Some((other, over)) = self.leases.insert(event.ip, (host.clone(), until)) {
                    assert!(other == host || over <= at, "{record}: {other} answers until {over}");
                }
            }
            // A move begins where the last one ended, and nothing but a move changes the host.
            Event::VipPlaced(event) => {
                let before = match &event.to {
                    Some(to) => self.placed.insert(event.name.to_string(), to.to_string()),
                    None => self.placed.remove(event.name.as_str()),
                };
                assert_eq!(before.as_deref(), event.from.as_ref().map(|h| h.as_str()), "{record}");
            }
            Event::VipRemoved(event) => {
                assert_eq!(self.placed.remove(event.name.as_str()), None, "{record}: it was held");
            }
            _ => {}
        }
        self.clock(at);
    }
}

/// A replica that applies entries, one that is restarted from snapshots from time to time, and one that follows.
struct World {
    state: State,
    restarted: State,
    follower: State,
    judge: Judge,
    clock: i64,
    index: u64,
}

impl World {
    fn new() -> Self {
        let new = State::new;
        let (state, restarted, follower) = (new(), new(), new());
        Self { state, restarted, follower, judge: Judge::new(), clock: 0, index: 0 }
    }

    fn step(&mut self, step: &Step) -> Vec<Record> {
        self.clock = (self.clock + step.clock).max(0);
        self.index += 1;
        if step.restart {
            self.restarted = State::from_snapshot(&self.state.snapshot()).unwrap();
        }
        if step.restore {
            self.restore();
        }
        self.decide_alone(step);
        let position = Position { term: Term(1), index: Index(self.index) };
        let proposal =
            |command: &Command| Proposal { actor: "law".into(), command: command.clone() };
        let proposals = step.commands.iter().map(proposal).collect();
        let entry = Entry { at: Millis(u64::try_from(self.clock).unwrap()), proposals };
        imports::check(&self.state, position, &entry);
        let before = self.state.revision();
        let (outcomes, records) = self.state.apply(position, &entry);
        assert_eq!((outcomes.clone(), records.clone()), self.restarted.apply(position, &entry));
        check_outcomes(before, &outcomes, &records, &self.state);
        for record in &records {
            check_one_owner(&self.follower, record);
            self.follower.follow(record).unwrap();
            self.judge.judge(record);
        }
        self.judge.clock(self.state.at().0);
        // An entry without commands gives the follower the time, term and index.
        self.follower.apply(position, &Entry { at: entry.at, proposals: Vec::new() });
        self.check(&entry);
        records
    }

    /// All replicas begin the new cluster with the same state.
    fn restore(&mut self) {
        let (revision, digest) = (self.state.revision(), self.state.digest());
        let (source, cluster) = (String::from("old"), String::from("new"));
        let restored = Restored { source, cluster, revision, digest, backup: Digest::of(b"") };
        let (state, record) = self.state.clone().restored(restored.clone());
        assert_eq!(self.restarted.clone().restored(restored).1, record);
        self.follower.follow(&record).unwrap();
        (self.restarted, self.state) = (state.clone(), state);
        self.judge.placed.clear();
    }

    /// Decides the first command without applying it: the state must not change, and applying must cause the same
    /// events.
    fn decide_alone(&self, step: &Step) {
        let before = self.state.snapshot();
        let at = Millis(u64::try_from(self.clock).unwrap()).max(self.state.at());
        let mut copy = self.state.clone();
        let position = Position { term: Term(1), index: Index(self.index) };
        copy.apply(position, &Entry { at, proposals: Vec::new() });
        let decided = copy.decide(&step.commands[0], Now { at, term: Term(1) });
        let planned = match &step.commands[0] {
            Command::SetTopology(spec) => Some((copy.clone(), copy.plan_topology(spec))),
            _ => None,
        };
        let proposals = vec![Proposal { actor: "law".into(), command: step.commands[0].clone() }];
        let (outcomes, records) = copy.apply(position, &Entry { at, proposals });
        match decided {
            Ok(events) => assert!(events.iter().eq(records.iter().map(|record| &record.event))),
            Err(refusal) => assert_eq!(outcomes[0].result, Err(refusal)),
        }
        if let Some((before, plan)) = planned {
            plans::check(&before, &plan, &copy, &outcomes[0]);
        }
        assert_eq!(self.state.snapshot(), before, "a copy changed the original");
    }

    fn check(&self, entry: &Entry) {
        if let Err(wrong) = self.state.validate() {
            panic!("after {entry:?}:\n{}", wrong.join("\n"));
        }
        let bytes = self.state.snapshot();
        assert_eq!(self.restarted.snapshot(), bytes, "a restarted replica differs");
        assert_eq!(self.follower.snapshot(), bytes, "a follower differs");
        assert_eq!(State::from_snapshot(&bytes).unwrap().snapshot(), bytes);
        assert_eq!(self.follower.state_digest(), self.state.state_digest());
        assert_eq!(self.judge.holder_of.len(), self.state.ipam().address_count());
        let placed = self.state.vips().filter_map(|vip| {
            Some((vip.name.to_string(), vip.placement.as_ref()?.host.to_string()))
        });
        assert!(placed.eq(self.judge.placed.clone()), "{:?}", self.judge.placed);
        self.check_moves();
        self.check_pools();
        check_lists(&self.state);
        for host in self.state.hosts() {
            let routes = routes::for_host(&self.state, &host.name).unwrap();
            let outside =
                routes.routes.iter().filter(|route| matches!(route.via, Via::Group { .. }));
            assert!(outside.count() as u64 <= routes.groups, "P3 at {}", host.name);
        }
        check_group_routers(&self.state);
        if let Some(shown) = self.state.topology_document() {
            let now = Now { at: self.state.at(), term: Term(1) };
            let again = self.state.decide(&Command::SetTopology(shown), now);
            assert_eq!(again, Ok(Vec::new()), "what is shown cannot be set again");
        }
    }
}

impl World {
    /// An address for a VIP from a pool is nobody's.
    fn check_pools(&self) {
        let state = &self.state;
        let Ok(ip) = state.vip_address(&"none".into(), None, None) else { return };
        assert!(
            state.vip_pools().any(|(_, ranges)| ranges.iter().any(|range| range.contains(&ip)))
        );
        let taken = state.vips().any(|vip| vip.ip == ip)
            || state.hosts().any(|host| host.ips().any(|other| other == ip))
            || state.endpoints().any(|endpoint| endpoint.ip == ip)
            || state.ipam().by_ip(ip).is_some()
            || state.service_ranges().any(|range| range.contains(&ip));
        assert!(!taken, "{ip} is somebody's");
    }

    /// Carrying out all moves that are wanted leaves nothing to move: no VIP moves twice, or back.
    fn check_moves(&self) {
        if self.state.version() < 4 {
            return;
        }
        let subnets: [ipnet::IpNet; 1] = ["10.0.0.0/16".parse().unwrap()];
        let hosts: Vec<_> = self.state.hosts().map(|host| host.name.clone()).collect();
        let renewing = hosts.iter().skip(1).map(|name| (name, subnets.as_slice())).collect();
        let moves = self.state.vip_moves(&renewing);
        let proposals = moves.iter().map(|step| {
            let VipMove { name, from, to, reason, .. } = step.clone();
            let agent = to.as_ref().and_then(|to| self.state.agent_of(to).cloned());
            let since = self.state.vip(&name).map(|vip| self.state.vip_since(vip));
            let place = PlaceVip { name, from, since, to, agent, reason, term: Term(1) };
            let command = Command::PlaceVip(place);
            Proposal { actor: "law".into(), command }
        });
        let mut copy = self.state.clone();
        let position = Position { term: Term(1), index: Index(self.index) };
        let entry = Entry { at: self.state.at(), proposals: proposals.collect() };
        let (outcomes, _) = copy.apply(position, &entry);
        for (outcome, step) in outcomes.iter().zip(&moves) {
            assert!(outcome.result.is_ok(), "{step:?}: {outcome:?}");
        }
        let left = copy.vip_moves(&renewing);
        assert!(left.is_empty(), "{left:?} after {moves:?}");
        // Hosts that can have the same VIPs have as many of them, up to one, if all were placed now.
        let fit = |host: &&Host| host.state == HostState::Up && renewing.contains_key(&host.name);
        let had = self.state.vips().any(|vip| vip.placement.is_some());
        let any = self.state.vips().all(|vip| vip.candidates.is_empty());
        if any && !had {
            let count =
                |host: &Host| copy.vips().filter(|v| v.holder() == Some(&host.name)).count();
            let counts: Vec<usize> = copy.hosts().filter(fit).map(count).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.copied().unwrap_or(0) <= least.copied().unwrap_or(0) + 1, "{counts:?}");
        }
    }
}

/// The router of every group and network has exactly one route or exception for each block inside.
fn check_group_routers(state: &State) {
    for network in state.topology().into_iter().flat_map(|topology| topology.networks()) {
        let groups = network.groups.iter().filter(|group| !group.padding).map(|group| group.cidr);
        for group in groups.chain([network.cidr]) {
            let routes = routes::for_group(state, group).unwrap();
            let known = routes.routes.iter().map(|route| route.prefix);
            let known: Vec<_> = known.chain(routes.exceptions.iter().map(|e| e.prefix)).collect();
            for block in state.ipam().blocks().filter(|block| group.contains(&block.cidr)) {
                let ways = known.iter().filter(|prefix| prefix.contains(&block.cidr));
                assert_eq!(ways.count(), 1, "{} from {group}: {routes:?}", block.cidr);
            }
        }
    }
}

/// From version 4 on no address is allocated that is in use at that moment.
fn check_one_owner(before: &State, record: &Record) {
    if before.version() < 4 {
        return;
    }
    let taken = |ip: IpAddr| {
        let services = before.service_ranges().any(|range| range.contains(&ip));
        let vip = before.vips().any(|vip| vip.ip == ip);
        services || vip || before.host_at(ip).is_some()
    };
    match &record.event {
        Event::AddressAllocated(event) => assert!(!taken(event.ip), "{record}: it is taken"),
        Event::AddressAdopted(event) => assert!(!taken(event.ip), "{record}: it is taken"),
        Event::EndpointSet(event) => assert!(!taken(event.ip), "{record}: it is taken"),
        Event::VipRequested(event) if before.vip(&event.name).is_none_or(|v| v.ip != event.ip) => {
            let live =
                before.ipam().by_ip(event.ip).is_some() || before.endpoint(event.ip).is_some();
            assert!(!live && !taken(event.ip), "{record}: it is taken");
        }
        Event::HostAdded(event) => {
            let live =
                before.ipam().by_ip(event.ip).is_some() || before.endpoint(event.ip).is_some();
            assert!(!live && !taken(event.ip), "{record}: it is taken");
            let network = before.topology().and_then(|t| t.network_around(event.ip.into()));
            let mut blackouts = before.ipam().blackouts();
            let excluded = blackouts.any(|cidr| cidr.contains(&event.ip));
            assert!(network.is_none() || excluded, "{record}: it lies in a network");
            let mut hosts = before.hosts();
            let like =
                hosts.any(|host| host.name.as_str().eq_ignore_ascii_case(event.name.as_str()));
            assert!(!like, "{record}: a host is named so");
        }
        _ => {}
    }
}

/// Pagination continues where the last page ended, and filters omit only what does not match.
fn check_lists(state: &State) {
    let ipam = state.ipam();
    let all: Vec<_> = ipam.addresses_after(None).collect();
    for (at, live) in all.iter().enumerate() {
        assert!(ipam.addresses_after(Some(live.ip)).eq(all[at + 1..].iter().cloned()));
        let mine = ipam.addresses_of(Some(live.ip), |owner| owner.tenant == live.tenant);
        let others = all[at + 1..].iter().filter(|other| other.tenant == live.tenant);
        assert!(mine.eq(others.cloned()));
        assert!(ipam.addresses_in(live.block).any(|other| other == *live));
        assert_eq!(ipam.by_name(&live.name).as_ref(), Some(live));
        assert_eq!(ipam.by_ip(live.ip).as_ref(), Some(live));
    }
    let blocks: Vec<_> = ipam.blocks().map(|block| block.cidr).collect();
    for (at, cidr) in blocks.iter().enumerate() {
        let rest = ipam.blocks_after(Some(cidr.network())).map(|block| block.cidr);
        assert!(rest.eq(blocks[at + 1..].iter().copied()));
    }
}

fn check_outcomes(before: Revision, outcomes: &[Outcome], records: &[Record], state: &State) {
    let mut last = before;
    for outcome in outcomes {
        assert!(outcome.revision >= last);
        if outcome.result.is_err() {
            assert_eq!(outcome.revision, last, "a refusal changed something");
        }
        last = outcome.revision;
    }
    assert_eq!(last, state.revision());
    assert_eq!(last.since(before), records.len() as u64, "one revision per event");
    for record in records {
        assert_round_trip(record);
        assert_round_trip(&record.event);
        assert!(!record.to_string().contains('\n'));
    }
}

/// Checks that a value survives the wire form and JSON.
fn assert_round_trip<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(unwire::<T>(&wire(value)).as_ref(), Ok(value));
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
}

proptest! {
    /// Names, addresses, cool-downs, leases, invariants, replay and restart, checked after every entry.
    #[test]
    fn laws_hold(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
    }

    /// Equal logs give equal digests, however the commands are divided into entries.
    #[test]
    fn digests_are_a_function_of_the_log(commands in prop::collection::vec(commands::command(), 1..80)) {
        let run = |size: usize| {
            let mut state = State::new();
            for (n, part) in commands.chunks(size).enumerate() {
                let proposal = |c: &Command| Proposal { actor: "law".into(), command: c.clone() };
                let proposals = part.iter().map(proposal).collect();
                let position = Position { term: Term(1), index: Index(1 + n as u64 / 1000) };
                state.apply(position, &Entry { at: Millis(7), proposals });
            }
            (state.revision(), state.digest(), state.snapshot())
        };
        prop_assert_eq!(run(1), run(7));
    }

    /// Commands survive the wire form and JSON, and print as one line.
    #[test]
    fn commands_round_trip(command in commands::command()) {
        assert_round_trip(&command);
        prop_assert!(!command.to_string().contains('\n'));
    }
}

/// The generated histories are representative: together they contain every kind of event.
#[test]
fn histories_reach_every_event() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..350 {
        let mut world = World::new();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            seen.extend(world.step(&step).iter().map(|record| kind(&record.event)));
        }
    }
    assert_eq!(seen.len(), 46, "{seen:?}");
}

/// The first word of the event's text.
fn kind(event: &Event) -> String {
    event.to_string().split(' ').next().unwrap_or_default().to_string()
}

/// A record that is not the next one is refused, and changes nothing.
#[test]
fn broken_histories_are_not_followed() {
    let mut state = State::new();
    let command = serde_json::from_str(r#"{"CreateTenant":{"id":"t"}}"#).unwrap();
    let proposals = vec![Proposal { actor: "law".into(), command }];
    let (_, records) = state
        .apply(Position { term: Term(1), index: Index(1) }, &Entry { at: Millis(1), proposals });
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let mut follower = State::new();
    let empty = follower.snapshot();
    follower.follow(&Record { revision: Revision(2), ..record.clone() }).unwrap_err();
    follower.follow(&Record { actor: "other".into(), ..record.clone() }).unwrap_err();
    follower.follow(&Record { at: Millis(2), ..record.clone() }).unwrap_err();
    assert_eq!(follower.snapshot(), empty);
    follower.follow(record).unwrap();
    assert_eq!(follower.digest(), state.digest());
    follower.follow(record).unwrap_err();
}
