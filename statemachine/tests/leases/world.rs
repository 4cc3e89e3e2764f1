//! The world: real time, and clocks that show it wrongly.

#[path = "calm.rs"]
mod calm;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use romana_statemachine::command::PlaceVip;
use romana_statemachine::lease::{HostLeases, LeaderLeases, REMOVAL, VipAnswer, VipRenewal};
use romana_statemachine::name::{HostName, InstanceId};
use romana_statemachine::{Command, Entry, Event, Index, Millis, Position, Proposal, State, Term};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A leader answers without a quorum.
    Unconfirmed,
    /// A new leader moves VIPs at once.
    NoWait,
    /// A host counts its grant from when the answer arrived.
    CountsFromAnswer,
    /// A host takes answers to renewals before the last one.
    TakesOldAnswers,
    /// An address stays on a host much longer than promised.
    RemovesLate,
    /// Clocks drift by more than the bound.
    DriftsMore,
    /// The leader takes an unknown outcome for a refusal.
    UnknownIsRefused,
    /// A move is proposed while the old host may answer.
    MovesEarly,
    /// The log takes a move that was decided before the VIP was elsewhere, and is where it was again.
    IgnoresSince,
}

/// Machines: the last one has the name of the first one.
const HOSTS: usize = 4;
const IPS: [&str; 2] = ["192.168.0.100", "192.168.0.101"];

/// A clock: its rate in millionths, and what it shows at the beginning.
#[derive(Clone, Copy)]
struct Clock {
    rate: u64,
    offset: u64,
}

impl Clock {
    fn at(self, real: u64) -> Duration {
        Duration::from_micros(self.offset + real * self.rate / 1_000_000)
    }

    /// The real time at which the clock shows this, rounded up.
    fn real(self, shown: Duration) -> u64 {
        let micros = u64::try_from(shown.as_micros()).unwrap().saturating_sub(self.offset);
        (micros * 1_000_000).div_ceil(self.rate)
    }
}

struct Host {
    name: HostName,
    /// Of its agent.
    instance: InstanceId,
    clock: Clock,
    run: u64,
    leases: HostLeases,
    /// When each renewal of this run was sent, by the host's clock.
    sent: BTreeMap<u64, Duration>,
    /// Addresses that the kernel has, and the real time at which it removes them by itself.
    kernel: BTreeMap<IpAddr, u64>,
    /// Its processes do nothing.
    stopped: bool,
}

struct Leader {
    term: u64,
    clock: Clock,
    leases: LeaderLeases,
    /// Proposals on their way to the log, in order.
    queue: VecDeque<Vec<PlaceVip>>,
    /// The task waits for the outcome of this many proposals in the queue.
    waits: bool,
    /// The leader's state may be older than the log.
    state: State,
}

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few messages")]
enum Message {
    Renewal {
        leader: usize,
        renewal: VipRenewal,
    },
    /// It arrived; no quorum has confirmed the leader yet.
    Arrived {
        leader: usize,
        renewal: VipRenewal,
        at: Duration,
    },
    /// A quorum has.
    Confirmed {
        leader: usize,
        renewal: VipRenewal,
        at: Duration,
        state: State,
    },
    Answer {
        host: usize,
        run: u64,
        sequence: u64,
        answer: VipAnswer,
    },
}

pub(crate) struct World {
    random: u64,
    /// How many of ten chances to commit the log misses.
    slow: usize,
    /// Whether VIPs exchange their addresses.
    swaps: bool,
    bug: Option<Bug>,
    /// Real time, microseconds.
    now: u64,
    index: u64,
    state: State,
    hosts: Vec<Host>,
    leaders: Vec<Leader>,
    messages: Vec<Message>,
    pub(crate) moves: usize,
    pub(crate) grants: usize,
    pub(crate) story: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            slow: 0,
            swaps: seed % 4 == 3,
            bug,
            now: 1_000_000,
            index: 0,
            state: State::new(),
            hosts: Vec::new(),
            leaders: Vec::new(),
            messages: Vec::new(),
            moves: 0,
            grants: 0,
            story: Vec::new(),
        };
        for version in 2..=4 {
            world.commit_json(&format!(r#"{{"RaiseVersion": {{"version": {version}}}}}"#));
        }
        world.commit_json(
            r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}],
                "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
        );
        for n in 0..HOSTS {
            let (clock, name) = (world.clock(), format!("h{}", n % 3));
            if n < 3 {
                world.commit_json(&format!(
                    r#"{{"AddHost": {{"name": "{name}", "ip": "192.168.0.{}"}}}}"#,
                    n + 1
                ));
                world.enrol(n);
            }
            let (leases, run) = (HostLeases::default(), world.draw());
            let (sent, kernel) = (BTreeMap::new(), BTreeMap::new());
            let (name, instance) = (name.into(), format!("a{n}").into());
            let stopped = false;
            world.hosts.push(Host { name, instance, clock, run, leases, sent, kernel, stopped });
        }
        for (n, ip) in IPS.iter().enumerate() {
            world.commit_json(&format!(r#"{{"RequestVip": {{"name": "v{n}", "ip": "{ip}"}}}}"#));
        }
        world.slow = [0, 0, 9][world.below(3)];
        world.elect();
        world
    }

    /// Makes a machine's agent the one that speaks for its host.
    fn enrol(&mut self, machine: usize) {
        let host = format!("h{}", machine % 3);
        let before = self.state.agent_of(&host.as_str().into()).map(|agent| format!("\"{agent}\""));
        let replaces = before.unwrap_or_else(|| "null".into());
        self.commit_json(&format!(
            r#"{{"EnrolAgent": {{"host": "{host}", "instance": "a{machine}", "replaces": {replaces}}}}}"#
        ));
    }

    /// Whether a machine's agent speaks for its host.
    fn speaks(&self, machine: usize) -> bool {
        let host = &self.hosts[machine];
        self.state.agent_of(&host.name) == Some(&host.instance)
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.draw() % n as u64).unwrap()
    }

    /// Rates of two clocks differ by 5 % at most: 1.0243 against 0.9757.
    fn clock(&mut self) -> Clock {
        let by = if self.bug == Some(Bug::DriftsMore) { 300_000 } else { 24_300 };
        let rate = 1_000_000 - by + [0, by, 2 * by][self.below(3)];
        Clock { rate, offset: self.draw() % 1_000_000_000 }
    }

    fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        let line = format!("{:>9} {}", self.now / 1000, what(self));
        self.story.push(line);
        if self.story.len() > 60 {
            self.story.remove(0);
        }
    }

    fn commit_json(&mut self, command: &str) {
        let command = serde_json::from_str(command).unwrap();
        let term = self.leaders.last().map_or(1, |leader| leader.term);
        self.commit(vec![command], term);
    }

    /// Commits an entry of a term.
    fn commit(&mut self, commands: Vec<Command>, term: u64) {
        self.index += 1;
        let ignores_since = self.bug == Some(Bug::IgnoresSince);
        let as_seen = |command| match command {
            Command::PlaceVip(place) if ignores_since => {
                Command::PlaceVip(PlaceVip { since: None, ..place })
            }
            other => other,
        };
        let position = Position { term: Term(term), index: Index(self.index) };
        let proposals = commands
            .into_iter()
            .map(as_seen)
            .map(|command| Proposal { actor: "test".into(), command })
            .collect();
        let (outcomes, records) =
            self.state.apply(position, &Entry { at: Millis(self.now / 1000), proposals });
        let moved = |event: &Event| matches!(event, Event::VipPlaced(placed) if placed.to.is_some() && placed.to != placed.from);
        self.moves += records.iter().filter(|record| moved(&record.event)).count();
        for record in &records {
            self.tell(|_| format!("log: {}", record.event));
        }
        for refusal in outcomes.into_iter().filter_map(|outcome| outcome.result.err()) {
            self.tell(|_| format!("refused: {refusal}"));
        }
    }

    fn elect(&mut self) {
        // A part of what the last leader proposed may be in the new leader's log already.
        if let Some(mut last) = self.leaders.pop() {
            for _ in 0..self.below(last.queue.len() + 1) {
                let commands = last.queue.pop_front().unwrap();
                self.commit(commands.into_iter().map(Command::PlaceVip).collect(), last.term);
            }
            self.leaders.push(last);
        }
        let (term, clock) = (self.leaders.last().map_or(1, |last| last.term) + 1, self.clock());
        let longest = match self.bug {
            Some(Bug::NoWait) => 0,
            _ => self.state.vip_grant_max_ms(),
        };
        let leases = LeaderLeases::begin(clock.at(self.now), Duration::from_millis(longest));
        let (queue, state) = (VecDeque::new(), self.state.clone());
        self.leaders.push(Leader { term, clock, leases, queue, waits: false, state });
        self.tell(|_| format!("term {term}"));
    }

    pub(crate) fn step(&mut self) -> Result<(), String> {
        match self.below(100) {
            0..20 => self.now += self.draw() % 20_000,
            20 if self.below(3) == 0 => self.now += self.draw() % 2_500_000,
            20..32 => {
                let host = self.below(HOSTS);
                self.renew(host);
            }
            32..76 => return self.deliver(),
            76..84 => {
                let leader = self.leader();
                self.lead(leader);
            }
            // Some outcomes are late: a proposal is committed after the task gave up, or by the next leader.
            84..89 if self.below(10) >= self.slow => self.commit_next(),
            89..93 => {
                let host = self.below(HOSTS);
                self.tidy(host);
            }
            93 if self.below(6) == 0 => self.elect(),
            94 if self.below(2) == 0 => self.stop_or_restart(),
            95 | 96 => {
                let leader = self.leader();
                self.time_out(leader);
            }
            97.. => self.operate(),
            _ => {}
        }
        Ok(())
    }

    /// Mostly the newest leader; sometimes one that was deposed.
    fn leader(&mut self) -> usize {
        let last = self.leaders.len() - 1;
        if self.below(4) == 0 { self.below(last + 1) } else { last }
    }

    fn renew(&mut self, at: usize) {
        let leader = self.leader();
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.stopped {
            return;
        }
        let sent = host.clock.at(now);
        let (sequence, held) = host.leases.ask(sent);
        host.sent.insert(sequence, sent);
        let subnets = vec!["192.168.0.0/24".parse().unwrap()];
        let (name, instance) = (host.name.clone(), host.instance.clone());
        let renewal = VipRenewal { host: name, instance, run: host.run, sequence, held, subnets };
        self.messages.push(Message::Renewal { leader, renewal });
    }

    /// Delivers a message, at random: it may be lost, or come again later.
    fn deliver(&mut self) -> Result<(), String> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let at = self.below(self.messages.len());
        let message = if self.below(20) == 0 {
            self.messages[at].clone()
        } else {
            self.messages.swap_remove(at)
        };
        if self.below(20) == 0 {
            return Ok(());
        }
        self.take(message)
    }

    fn take(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Renewal { leader, renewal } => {
                let at = self.leaders[leader].clock.at(self.now);
                self.messages.push(Message::Arrived { leader, renewal, at });
            }
            Message::Arrived { leader, renewal, at } => {
                let leads = leader + 1 == self.leaders.len();
                if leads || self.bug == Some(Bug::Unconfirmed) {
                    let state = self.state.clone();
                    self.messages.push(Message::Confirmed { leader, renewal, at, state });
                }
            }
            Message::Confirmed { leader, renewal, at, state } => {
                let newer = self.below(2) == 0 && leader + 1 == self.leaders.len();
                let state = if newer { self.state.clone() } else { state };
                let leader = &mut self.leaders[leader];
                // A leader's own state does not go back.
                let newest = state.index() > leader.state.index();
                leader.state = if newest { state } else { leader.state.clone() };
                leader.leases.hear(&renewal, at);
                let answer = leader.leases.grant(&leader.state, &renewal, at);
                self.grants += answer.granted.len();
                let VipRenewal { instance, run, sequence, .. } = renewal;
                let host = self.hosts.iter().position(|host| host.instance == instance).unwrap();
                self.messages.push(Message::Answer { host, run, sequence, answer });
            }
            Message::Answer { host, run, sequence, answer } => {
                return self.answered(host, (run, sequence), &answer);
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        at: usize,
        (run, sequence): (u64, u64),
        answer: &VipAnswer,
    ) -> Result<(), String> {
        let (now, bug) = (self.now, self.bug);
        let late = if bug == Some(Bug::RemovesLate) { 4 * REMOVAL } else { REMOVAL };
        let slack = Duration::from_micros(self.draw() % u64::try_from(late.as_micros()).unwrap());
        let host = &mut self.hosts[at];
        if host.run != run || host.stopped {
            return Ok(());
        }
        let shown = host.clock.at(now);
        let changes = host.leases.answer(sequence, answer, shown);
        let mut hold = changes.hold;
        if bug == Some(Bug::TakesOldAnswers)
            && let Some(sent) = host.sent.get(&sequence)
        {
            let until = |ms| *sent + Duration::from_millis(ms);
            let old = answer.granted.iter().map(|grant| (grant.ip, until(grant.grant_ms)));
            hold.extend(old.filter(|(_, until)| *until > shown));
        }
        if bug == Some(Bug::CountsFromAnswer) {
            for (ip, until) in &mut hold {
                let grant = answer.granted.iter().find(|grant| grant.ip == *ip).unwrap();
                *until = shown + Duration::from_millis(grant.grant_ms);
            }
        }
        let name = host.name.clone();
        for (ip, until) in hold {
            let gone = host.clock.real(until + slack);
            host.kernel.insert(ip, gone);
        }
        for ip in changes.release {
            host.kernel.remove(&ip);
            host.leases.removed(ip, shown);
        }
        self.tell(|_| format!("{name} takes answer {sequence}: {answer:?}"));
        self.check()
    }

    /// No address is on two hosts.
    fn check(&self) -> Result<(), String> {
        for ip in IPS {
            let ip: IpAddr = ip.parse().unwrap();
            let has = |host: &&Host| host.kernel.get(&ip).is_some_and(|gone| *gone > self.now);
            let hosts = self.hosts.iter().filter(has).map(|host| host.instance.as_str());
            let hosts: Vec<&str> = hosts.collect();
            if hosts.len() > 1 {
                return Err(format!("{ip} is on {hosts:?} at {}", self.now / 1000));
            }
        }
        Ok(())
    }

    /// A pass of a leader's task.
    fn lead(&mut self, at: usize) {
        let (now, bug) = (self.now, self.bug);
        let leads = at + 1 == self.leaders.len();
        if leads && self.below(4) > 0 {
            self.leaders[at].state = self.state.clone();
        }
        let leader = &mut self.leaders[at];
        if leader.waits {
            return;
        }
        let clock = leader.clock.at(now);
        let early = if bug == Some(Bug::MovesEarly) { 400 } else { 0 };
        let clock = clock + Duration::from_millis(early);
        let commands = leader.leases.step(&leader.state, Term(leader.term), clock);
        if !commands.is_empty() {
            leader.queue.push_back(commands);
            leader.waits = true;
        }
    }

    /// The log takes the next proposals of the newest leader.
    fn commit_next(&mut self) {
        let Some(last) = self.leaders.last_mut() else { return };
        let term = last.term;
        let Some(commands) = last.queue.pop_front() else { return };
        self.commit(commands.iter().cloned().map(Command::PlaceVip).collect(), term);
        let state = self.state.clone();
        let last = self.leaders.last_mut().unwrap();
        // The outcome reaches the task if it still waits, for the last of its proposals.
        if last.waits && last.queue.is_empty() {
            last.waits = false;
            for command in &commands {
                if let Some(vip) = last.state.vip(&command.name) {
                    last.leases.decided(vip.ip);
                }
            }
            last.state = state;
        }
    }

    /// The task gives up waiting; what it proposed may still be committed.
    fn time_out(&mut self, at: usize) {
        let leader = &mut self.leaders[at];
        if !std::mem::take(&mut leader.waits) || self.bug != Some(Bug::UnknownIsRefused) {
            return;
        }
        for command in leader.queue.iter().flatten() {
            if let Some(vip) = leader.state.vip(&command.name) {
                leader.leases.decided(vip.ip);
            }
        }
    }

    /// A host removes what it may not have any more.
    fn tidy(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        host.kernel.retain(|_, gone| *gone > now);
        if host.stopped {
            return;
        }
        let shown = host.clock.at(now);
        for ip in host.leases.over(shown) {
            host.kernel.remove(&ip);
            host.leases.removed(ip, shown);
        }
    }

    /// A host's processes stop or go on; or its agent is killed and started again.
    fn stop_or_restart(&mut self) {
        let (at, run, now, restart) =
            (self.below(HOSTS), self.draw(), self.now, self.below(2) == 0);
        let host = &mut self.hosts[at];
        host.stopped = !host.stopped && !restart;
        if restart {
            host.kernel.retain(|_, gone| *gone > now);
            (host.run, host.leases) = (run, HostLeases::default());
            host.sent.clear();
            host.kernel.keys().for_each(|ip| host.leases.adopt(*ip));
        }
        let (name, stopped) = (host.name.clone(), host.stopped);
        self.tell(|_| format!("{name}: restarted {restart}, stopped {stopped}"));
    }

    /// Requests both VIPs again: the first one with the first address, or with the second one.
    fn request_both(&mut self, in_order: bool) {
        (0..2).for_each(|n| self.commit_json(&format!(r#"{{"RemoveVip": {{"name": "v{n}"}}}}"#)));
        for n in 0..2 {
            let ip = IPS[if in_order { n } else { 1 - n }];
            self.commit_json(&format!(r#"{{"RequestVip": {{"name": "v{n}", "ip": "{ip}"}}}}"#));
        }
    }

    /// What operators do.
    fn operate(&mut self) {
        let (host, vip) = (self.below(3), self.below(IPS.len()));
        let ip = self.state.vip(&format!("v{vip}").as_str().into()).map(|vip| vip.ip.to_string());
        let ip = ip.unwrap_or_else(|| IPS[vip].into());
        let state = ["up", "up", "draining", "down"][self.below(4)];
        let lease = [1000, 1000, 1500, 2000][self.below(4)];
        match self.below(11) {
            10 => {
                let machine = [0, 3][self.below(2)];
                self.enrol(machine);
            }
            0..5 => self.commit_json(&format!(
                r#"{{"SetHostState": {{"name": "h{host}", "state": "{state}"}}}}"#
            )),
            5 => self.commit_json(&format!(
                r#"{{"RequestVip": {{"name": "v{vip}", "ip": "{ip}", "candidates": ["h{host}"]}}}}"#
            )),
            // Both get the other one's address.
            9 if self.swaps && self.below(2) == 0 => {
                let ip = self.state.vip(&"v0".into()).map(|vip| vip.ip.to_string());
                let swapped = ip.as_deref() == Some(IPS[0]);
                self.request_both(!swapped);
            }
            6 | 7 => self.commit_json(&format!(
                r#"{{"RequestVip": {{"name": "v{vip}", "ip": "{ip}"}}}}"#
            )),
            // The same address under another name, at once.
            8 => {
                self.commit_json(&format!(r#"{{"RemoveVip": {{"name": "v{vip}"}}}}"#));
                self.commit_json(&format!(r#"{{"RequestVip": {{"name": "v{vip}", "ip": "{ip}"}}}}"#));
            }
            _ => self.commit_json(&format!(
                r#"{{"ChangeSettings": {{"address_reuse_delay_ms": null, "vip_lease_ms": {lease}}}}}"#
            )),
        }
    }
}
