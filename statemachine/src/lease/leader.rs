//! The leader's side: what it granted, and when an address may go to another host.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{VipAnswer, VipGrant, VipRenewal, fence};
use crate::command::PlaceVip;
use crate::entry::Term;
use crate::event::VipReason;
use crate::name::{HostName, InstanceId};
use crate::state::State;
use crate::vip::{VipMove, VipPlacement};

/// The leases of one leader in one term. Times are readings of its monotonic clock.
#[derive(Clone, Debug)]
pub struct LeaderLeases {
    /// When all grants of earlier terms are over, and hosts have had time to renew: no VIP moves before.
    settled: Duration,
    /// What was granted: by address, then by host.
    given: BTreeMap<IpAddr, BTreeMap<Holder, Given>>,
    /// Addresses that leave a host: it is granted nothing any more.
    leaving: BTreeMap<IpAddr, Leaving>,
    /// The last renewal of each agent.
    heard: BTreeMap<Holder, Heard>,
    /// When the last renewal of any host arrived.
    latest: Duration,
    /// After this time without renewals a host is silent.
    silent: Duration,
    /// VIPs that no host has, and since when the leader knows that.
    unplaced: BTreeMap<IpAddr, Duration>,
}

/// A host and the instance of its agent.
type Holder = (HostName, InstanceId);

/// How long a VIP without holder waits for renewals, so that it goes to the host with the fewest VIPs and not to the
/// one that happens to renew first.
const GATHER: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
struct Given {
    /// Until when the host may have the address.
    until: Duration,
    /// The same, under grants to other runs of its agent: this run cannot give those up.
    until_of_others: Duration,
    /// The renewal that was answered last.
    run: u64,
    sequence: u64,
}

#[derive(Clone, Debug)]
struct Leaving {
    host: HostName,
    /// Whether the move was proposed: its outcome may be unknown, so it may still be committed.
    proposed: bool,
}

#[derive(Clone, Debug)]
struct Heard {
    at: Duration,
    run: u64,
    sequence: u64,
    subnets: Arc<[IpNet]>,
}

/// A grant that may not be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseLeft {
    pub ip: IpAddr,
    pub host: HostName,
    /// After this time the address may go to another host, milliseconds.
    pub left_ms: u64,
    /// Whether the leader has decided to move the VIP, and waits for the end of the grant or for the host to give the
    /// address up.
    pub leaving: bool,
}

impl LeaderLeases {
    /// The leases of a term that began at `now` or before. `longest`: the longest grant that a predecessor may have
    /// given ([`State::vip_grant_max_ms`], after everything that it acknowledged was applied).
    #[must_use]
    pub fn begin(now: Duration, longest: Duration) -> Self {
        let wait = if longest.is_zero() { Duration::ZERO } else { fence(longest) };
        let (given, leaving, heard) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (settled, unplaced) = (now.saturating_add(wait), BTreeMap::new());
        Self { settled, given, leaving, heard, latest: now, silent: wait, unplaced }
    }

    /// Whether this agent was granted something that may not be over.
    #[must_use]
    pub fn has_given(&self, renewal: &VipRenewal) -> bool {
        let holder = renewal.holder();
        self.given.values().any(|hosts| hosts.contains_key(&holder))
    }

    /// Takes a renewal that arrived at `now`. Returns whether the host gave up an address that it was granted.
    /// A renewal that a later one of the same run has overtaken says nothing.
    pub fn hear(&mut self, renewal: &VipRenewal, now: Duration) -> bool {
        let VipRenewal { run, sequence, held, subnets, .. } = renewal;
        let holder = renewal.holder();
        let last = self.heard.get(&holder);
        if last.is_some_and(|last| last.run == *run && last.sequence >= *sequence) {
            return false;
        }
        // This replica was cut off for a while, or paused, and hosts come back one after the other: without a pause
        // the first one would get all VIPs.
        if now.saturating_sub(self.latest) * 4 >= self.silent * 3 {
            self.settled = self.settled.max(now.saturating_add(self.silent));
        }
        self.latest = self.latest.max(now);
        // An agent lists the same subnets each time.
        let kept = last.filter(|last| *last.subnets == **subnets);
        let subnets = kept.map_or_else(|| subnets.as_slice().into(), |last| last.subnets.clone());
        let heard = Heard { at: now, run: *run, sequence: *sequence, subnets };
        self.heard.insert(holder.clone(), heard);
        let mut gave_up = false;
        self.given.retain(|ip, hosts| {
            let Some(given) = hosts.get_mut(&holder) else { return true };
            if given.run == *run && given.sequence < *sequence && !held.contains(ip) {
                given.until = given.until_of_others;
                gave_up = true;
            }
            if given.until <= now {
                hosts.remove(&holder);
            }
            !hosts.is_empty()
        });
        gave_up
    }

    /// Answers a renewal that arrived at `arrived`. Call it after a quorum has confirmed, later than that, that this
    /// replica leads in this term; `state` includes everything that was committed until then.
    pub fn grant(&mut self, state: &State, renewal: &VipRenewal, arrived: Duration) -> VipAnswer {
        let mut answer = VipAnswer::default();
        let (host, holder) = (&renewal.host, renewal.holder());
        if state.agent_of(host) != Some(&renewal.instance) {
            answer.released.clone_from(&renewal.held);
            return answer;
        }
        let overtaken =
            |heard: &Heard| (heard.run, heard.sequence) != (renewal.run, renewal.sequence);
        if self.heard.get(&holder).is_none_or(overtaken) {
            return answer;
        }
        for vip in state.vips() {
            let Some(placement) = vip.placement.as_ref().filter(|placed| placed.host == *host)
            else {
                continue;
            };
            let leaves = self.leaving.get(&vip.ip).is_some_and(|leaving| leaving.host == *host);
            // Another run may be on a copy of the machine. One on the same machine finds the address in its kernel.
            let elsewhere = !renewal.held.contains(&vip.ip)
                && self
                    .given
                    .get(&vip.ip)
                    .and_then(|hosts| hosts.get(&holder))
                    .is_some_and(|given| given.run != renewal.run && given.until > arrived);
            if !leaves && !elsewhere && self.is_free_for(vip.ip, &holder, arrived) {
                answer.granted.push(self.record(vip.ip, placement, renewal, arrived));
            }
        }
        let granted = |ip: &IpAddr| answer.granted.iter().any(|grant| grant.ip == *ip);
        answer.released = renewal.held.iter().filter(|ip| !granted(ip)).copied().collect();
        answer
    }

    fn record(
        &mut self,
        ip: IpAddr,
        placement: &VipPlacement,
        renewal: &VipRenewal,
        arrived: Duration,
    ) -> VipGrant {
        let grant_ms = placement.grant_ms;
        let until = arrived.saturating_add(fence(Duration::from_millis(grant_ms)));
        let hosts = self.given.entry(ip).or_default();
        let (run, sequence) = (renewal.run, renewal.sequence);
        let (before, others) = match hosts.get(&renewal.holder()) {
            Some(given) if given.run == run => (given.until, given.until_of_others),
            Some(given) => (given.until, given.until),
            None => (Duration::ZERO, Duration::ZERO),
        };
        // An earlier grant may be longer.
        let given = Given { until: before.max(until), until_of_others: others, run, sequence };
        hosts.insert(renewal.holder(), given);
        VipGrant { ip, grant_ms }
    }

    /// Whether no host but this one, with this agent, can have the address under a grant of this term.
    fn is_free_for(&self, ip: IpAddr, holder: &Holder, now: Duration) -> bool {
        let others =
            self.given.get(&ip).into_iter().flatten().filter(|(other, _)| *other != holder);
        others.into_iter().all(|(_, given)| given.until <= now)
    }

    /// The moves to propose now. Those that have to wait for the end of a grant come in a later call; their holders are
    /// told to release the address, and are granted nothing any more.
    pub fn step(&mut self, state: &State, term: Term, now: Duration) -> Vec<PlaceVip> {
        let given = |given: &mut BTreeMap<Holder, Given>| {
            given.retain(|_, given| given.until > now);
            !given.is_empty()
        };
        self.given.retain(|_, hosts| given(hosts));
        let silent = fence(Duration::from_millis(state.settings().vip_lease_ms));
        self.silent = silent;
        self.heard.retain(|_, heard| heard.at.saturating_add(silent) > now);
        // Hosts have not had time to renew with this leader: it does not know which of them can.
        if now < self.settled {
            return Vec::new();
        }
        let enrolled = self
            .heard
            .iter()
            .filter(|((host, instance), _)| state.agent_of(host) == Some(instance));
        let renewing = enrolled.map(|((host, _), heard)| (host, &*heard.subnets)).collect();
        let moves = state.vip_moves(&renewing);
        self.wait_for_renewals(state, now);
        let mut due = self.forget_moved(state, &moves, term);
        due.extend(moves.into_iter().filter_map(|step| self.propose(state, step, term, now)));
        due
    }

    fn wait_for_renewals(&mut self, state: &State, now: Duration) {
        let without = state.vips().filter(|vip| vip.placement.is_none());
        let since = |ip| self.unplaced.get(&ip).copied().unwrap_or(now);
        self.unplaced = without.map(|vip| (vip.ip, since(vip.ip))).collect();
    }

    /// Ends what was decided and is not wanted any more, or was done. A move whose outcome is unknown may still be
    /// committed: for that one, returns a command that changes nothing, whose own outcome tells (commands of one
    /// leader are decided in the order of their proposals).
    fn forget_moved(&mut self, state: &State, moves: &[VipMove], term: Term) -> Vec<PlaceVip> {
        let holders = state.vips().filter_map(|vip| {
            let holder = &vip.placement.as_ref()?.host;
            Some((vip.ip, (&vip.name, holder)))
        });
        let holders: BTreeMap<IpAddr, _> = holders.collect();
        let mut probes = Vec::new();
        self.leaving.retain(|ip, leaving| {
            let Some((name, holder)) = holders.get(ip) else { return false };
            let wanted = moves.iter().any(|step| step.ip == *ip && step.to != step.from);
            if **holder != leaving.host || wanted {
                return **holder == leaving.host;
            }
            if leaving.proposed {
                let (name, from) = ((*name).clone(), Some(leaving.host.clone()));
                let (to, reason) = (from.clone(), VipReason::GrantChanged);
                let since = state.vip(&name).map(|vip| state.vip_since(vip));
                probes.push(PlaceVip { name, from, since, to, agent: None, reason, term });
            }
            leaving.proposed
        });
        probes
    }

    fn propose(
        &mut self,
        state: &State,
        step: VipMove,
        term: Term,
        now: Duration,
    ) -> Option<PlaceVip> {
        let VipMove { name, ip, from, to, reason } = step;
        let since = self.unplaced.get(&ip);
        if since.is_some_and(|since| since.saturating_add(GATHER) > now) {
            return None;
        }
        let mut agent = None;
        if from != to {
            if let Some(host) = &from {
                let leaving = Leaving { host: host.clone(), proposed: false };
                self.leaving.entry(ip).or_insert(leaving);
            }
            if let Some(host) = &to {
                let holder = (host.clone(), state.agent_of(host)?.clone());
                if !self.is_free_for(ip, &holder, now) {
                    return None;
                }
                agent = Some(holder.1);
            }
            self.leaving.get_mut(&ip).into_iter().for_each(|leaving| leaving.proposed = true);
        }
        let since = state.vip(&name).map(|vip| state.vip_since(vip));
        Some(PlaceVip { name, from, since, to, agent, reason, term })
    }

    /// The outcome of the last command for this address is known, and earlier ones are decided.
    pub fn decided(&mut self, ip: IpAddr) {
        self.leaving.get_mut(&ip).into_iter().for_each(|leaving| leaving.proposed = false);
    }

    /// Grants that may not be over.
    #[must_use]
    pub fn left(&self, now: Duration) -> Vec<LeaseLeft> {
        let all = self.given.iter().flat_map(|(ip, hosts)| {
            let left = hosts.iter().filter(|(_, given)| given.until > now);
            left.map(|((host, _), given)| {
                let left = given.until.saturating_sub(now).as_millis();
                let left_ms = u64::try_from(left).unwrap_or(u64::MAX);
                let leaving = self.leaving.get(ip).is_some_and(|leaving| leaving.host == *host);
                LeaseLeft { ip: *ip, host: host.clone(), left_ms, leaving }
            })
        });
        all.collect()
    }
}

impl VipRenewal {
    fn holder(&self) -> Holder {
        (self.host.clone(), self.instance.clone())
    }
}
