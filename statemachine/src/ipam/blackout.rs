//! Decides blackouts.

use alloc::vec;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::command::Blackout;
use crate::event::{BlackoutAdded, BlackoutRemoved, Event};
use crate::prefix;
use crate::refusal::Refusal;
use crate::state::State;
use crate::version;

pub(crate) fn decide_blackout(state: &State, ask: &Blackout) -> Result<Vec<Event>, Refusal> {
    let cidr = read(state, ask)?;
    let topology = state.topology().ok_or(Refusal::NoTopology)?;
    let covers = |network: &&crate::topology::Network| cidr.contains(&network.cidr);
    if let Some(network) = topology.networks().iter().find(covers) {
        return Err(Refusal::BlackoutTooLarge { cidr, network: network.name.clone() });
    }
    topology.network_around(cidr).ok_or(Refusal::OutsideNetworks { cidr })?;
    let ipam = &state.ipam;
    if ipam.blackout_of(cidr.network()).is_some_and(|outer| outer.contains(&cidr)) {
        return Ok(Vec::new());
    }
    if let Some(live) = ipam.addresses_in(cidr).next() {
        return Err(Refusal::BlackoutInUse { cidr, ip: live.ip, name: live.name });
    }
    // Blackouts stay disjoint: this one replaces those inside it.
    let inside = ipam.blackouts.range(cidr..).take_while(|inner| cidr.contains(*inner));
    let mut events: Vec<_> = inside.map(|inner| removed(*inner)).collect();
    events.push(Event::BlackoutAdded(BlackoutAdded { cidr }));
    Ok(events)
}

pub(crate) fn decide_unblackout(state: &State, ask: &Blackout) -> Result<Vec<Event>, Refusal> {
    let cidr = read(state, ask)?;
    if !state.ipam.blackouts.contains(&cidr) {
        return Err(Refusal::BlackoutNotFound { cidr });
    }
    Ok(vec![removed(cidr)])
}

fn read(state: &State, ask: &Blackout) -> Result<IpNet, Refusal> {
    let strict = state.version >= version::ADDRESS_CHECKS;
    if strict { prefix::parse(&ask.cidr) } else { prefix::parse_before_4(&ask.cidr) }
}

fn removed(cidr: IpNet) -> Event {
    Event::BlackoutRemoved(BlackoutRemoved { cidr })
}
