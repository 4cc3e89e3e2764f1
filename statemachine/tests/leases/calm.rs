//! The world without faults: what it is like once they end, and how long a move takes.

use std::net::IpAddr;

use romana_statemachine::command::PlaceVip;
use romana_statemachine::{Command, State};

use super::{Bug, HOSTS, Host, IPS, Message, World};

impl World {
    pub(crate) fn calm(seed: u64) -> Self {
        let mut world = Self::new(seed, None);
        world.run_for(4_000, &[]).unwrap();
        assert!(world.served().is_ok(), "{:?}", world.served());
        world
    }

    /// Ends all faults, and waits until everything has settled.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.messages.clear();
        self.hosts.iter_mut().for_each(|host| host.stopped = false);
        for n in 0..3 {
            self.commit_json(&format!(r#"{{"SetHostState": {{"name": "h{n}", "state": "up"}}}}"#));
        }
        let vip = |state: &State, n| state.vip(&format!("v{n}").as_str().into()).cloned();
        for n in 0..IPS.len() {
            let ip = vip(&self.state, n).unwrap().ip;
            self.commit_json(&format!(r#"{{"RequestVip": {{"name": "v{n}", "ip": "{ip}"}}}}"#));
        }
        self.run_for(10_000, &[])?;
        self.served()
    }

    /// Each VIP is on the host that the log names, and on no other.
    fn served(&self) -> Result<(), String> {
        self.check()?;
        for vip in self.state.vips() {
            let holder = vip.holder().ok_or_else(|| format!("no host has {}", vip.name))?;
            let speaks = |at: &usize| self.hosts[*at].name == *holder && self.speaks(*at);
            let host = (0..HOSTS).find(speaks).map(|at| &self.hosts[at]).unwrap();
            if host.kernel.get(&vip.ip).is_none_or(|gone| *gone <= self.now) {
                return Err(format!("{} does not have {}", host.name, vip.name));
            }
        }
        Ok(())
    }

    /// Runs the world in steps of 5 ms, without these hosts: hosts renew every 250 ms, or at once when something
    /// changed for them; the leader's task passes every 20 ms.
    fn run_for(&mut self, ms: u64, without: &[usize]) -> Result<(), String> {
        (0..ms / 5).try_for_each(|_| self.tick(without))
    }

    fn tick(&mut self, without: &[usize]) -> Result<(), String> {
        self.now += 5_000;
        let last = self.leaders.len() - 1;
        for at in (0..HOSTS).filter(|at| !without.contains(at)) {
            self.tidy(at);
            if !self.speaks(at) {
                continue;
            }
            let host = &self.hosts[at];
            let placed = |vip: &&romana_statemachine::Vip| vip.holder() == Some(&host.name);
            let new =
                self.state.vips().filter(placed).any(|vip| !host.kernel.contains_key(&vip.ip));
            let due = (self.now / 5_000 + at as u64 * 7).is_multiple_of(50);
            if due || new {
                self.renew_with(at, last)?;
            }
        }
        if (self.now / 5_000).is_multiple_of(4) {
            self.decide(last);
            self.leaders[last].state = self.state.clone();
            while !self.leaders[last].queue.is_empty() {
                self.commit_next();
            }
        }
        Ok(())
    }

    /// A renewal and its answer, and a second one if the host gave something up.
    fn renew_with(&mut self, at: usize, leader: usize) -> Result<(), String> {
        for _ in 0..2 {
            self.messages.clear();
            let before = self.hosts[at].leases.held().count();
            self.renew(at);
            for message in std::mem::take(&mut self.messages) {
                let Message::Renewal { renewal, .. } = message else { continue };
                self.messages.push(Message::Renewal { leader, renewal });
            }
            while let Some(message) = self.messages.pop() {
                self.take(message)?;
            }
            if self.hosts[at].leases.held().count() >= before {
                break;
            }
        }
        Ok(())
    }

    /// Two moves of a VIP without host are under way, to one host and then to another: the outcome of the first one was
    /// not known when the second one was decided. The first one is committed, and its host is granted the address. The
    /// VIP is removed and requested again, so that no host has it, as when the second one was decided. That one is
    /// committed only now. (Seed 26 of the model had this history.)
    pub(crate) fn commit_late(bug: Option<Bug>) -> Result<(), String> {
        let mut world = Self::new(0, bug);
        let last = world.leaders.len() - 1;
        for _ in 0..2 {
            world.now += 400_000;
            (0..2).try_for_each(|at| world.renew_with(at, last))?;
            world.decide(last);
        }
        world.commit_json(r#"{"SetHostState": {"name": "h0", "state": "draining"}}"#);
        world.decide(last);
        world.commit_json(r#"{"SetHostState": {"name": "h0", "state": "up"}}"#);
        let leader = &mut world.leaders[last];
        let (first, second) =
            (leader.queue.pop_front().unwrap(), leader.queue.pop_front().unwrap());
        let (term, place) =
            (leader.term, |moves: Vec<PlaceVip>| moves.into_iter().map(Command::PlaceVip));
        world.commit(place(first).collect(), term);
        world.leaders[last].state = world.state.clone();
        world.renew_with(0, last)?;
        assert_eq!(world.hosts[0].kernel.len(), 1, "{}", world.story.join("\n"));
        world.request_both(true);
        world.commit(place(second).collect(), term);
        // Only the next leader does not know what this one has granted.
        world.elect();
        world.renew_with(1, last + 1)
    }

    /// A silent holder's VIP is to move; the outcome of the move is not known, and the holder renews again, so
    /// that the move is not wanted any more. It is committed nevertheless, and the leader is followed by another one.
    pub(crate) fn commit_unwanted(bug: Option<Bug>) -> Result<(), String> {
        let mut world = Self::new(0, bug);
        let last = world.leaders.len() - 1;
        for _ in 0..2 {
            world.now += 400_000;
            (0..2).try_for_each(|at| world.renew_with(at, last))?;
            world.decide(last);
        }
        world.commit_next();
        world.renew_with(0, last)?;
        assert_eq!(world.hosts[0].kernel.len(), 1, "{}", world.story.join("\n"));
        for _ in 0..6 {
            world.now += 400_000;
            world.renew_with(1, last)?;
        }
        world.tidy(0);
        world.decide(last);
        world.time_out(last);
        let moves = world.leaders[last].queue.pop_front().unwrap();
        // It renews, the task sees that, and it renews again.
        world.renew_with(0, last)?;
        world.decide(last);
        world.renew_with(0, last)?;
        world.leaders[last].queue.clear();
        let term = world.leaders[last].term;
        world.commit(moves.into_iter().map(Command::PlaceVip).collect(), term);
        world.elect();
        world.renew_with(1, last + 1)
    }

    /// A pass of a leader's task that knows everything, and does not wait for outcomes.
    fn decide(&mut self, leader: usize) {
        self.leaders[leader].state = self.state.clone();
        self.leaders[leader].waits = false;
        self.lead(leader);
    }

    fn holder(&self) -> usize {
        let holder = self.state.vip(&"v0".into()).unwrap().holder().unwrap().clone();
        (0..HOSTS).find(|at| self.hosts[*at].name == holder && self.speaks(*at)).unwrap()
    }

    /// Kills the holder of a VIP at once; milliseconds until another host has it.
    pub(crate) fn kill_holder(mut self) -> u64 {
        let (holder, from) = (self.holder(), self.now);
        self.run_until_elsewhere(holder, &[holder]);
        (self.now - from) / 1000
    }

    /// Drains the holder of a VIP; milliseconds during which no host has it.
    pub(crate) fn drain_holder(mut self) -> u64 {
        let holder = self.holder();
        let name = self.hosts[holder].name.clone();
        self.commit_json(&format!(
            r#"{{"SetHostState": {{"name": "{name}", "state": "draining"}}}}"#
        ));
        self.run_until_elsewhere(holder, &[])
    }

    /// Milliseconds during which no host had the VIP.
    fn run_until_elsewhere(&mut self, holder: usize, without: &[usize]) -> u64 {
        let ip: IpAddr = IPS[0].parse().unwrap();
        let mut nowhere = 0;
        for _ in 0..2_000 {
            self.tick(without).unwrap();
            self.check().unwrap();
            let now = self.now;
            let has = |host: &Host| host.kernel.get(&ip).is_some_and(|gone| *gone > now);
            if (0..HOSTS).any(|at| at != holder && has(&self.hosts[at])) {
                return nowhere;
            }
            nowhere += if has(&self.hosts[holder]) { 0 } else { 5 };
        }
        panic!("no other host has the VIP");
    }
}
