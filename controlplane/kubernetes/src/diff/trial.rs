//! Decides commands on a copy of the state, and collects those that change it.

use romana_statemachine::command::{
    HostSpec, HostState, ImportObject, Imported, SetHostState, Source, VipFromPool, VipSpec,
};
use romana_statemachine::{Actor, Command, Entry, Host, Position, Proposal, Refusal, State, Term};

use crate::desired::{Desired, UNSCHEDULABLE, Wanted};

/// A copy of the state, and the commands that have changed it.
pub(super) struct Trial {
    pub(super) state: State,
    pub(super) term: Term,
    pub(super) commands: Vec<Command>,
}

impl Trial {
    pub(super) fn new(state: &State, term: Term) -> Self {
        Self { state: state.clone(), term, commands: Vec::new() }
    }

    /// Applies a command to the copy. It is to be proposed if it changes something.
    pub(super) fn attempt(&mut self, command: Command) -> Result<(), Refusal> {
        let position = Position { term: self.term, index: self.state.index().next() };
        let proposals = vec![Proposal { actor: Actor::from("trial"), command: command.clone() }];
        let entry = Entry { at: self.state.at(), proposals };
        let (outcomes, records) = self.state.apply(position, &entry);
        outcomes.into_iter().try_for_each(|outcome| outcome.result.map(drop))?;
        if !records.is_empty() {
            self.commands.push(command);
        }
        Ok(())
    }

    /// Imports an object, if the state has not what it should have.
    pub(super) fn import(&mut self, desired: &Desired) -> Result<(), Refusal> {
        let source = &desired.source;
        match &desired.wanted {
            Wanted::Object(Imported::Host(spec)) => self.import_host(spec, source),
            Wanted::Object(object) if self.has(object, source) => Ok(()),
            Wanted::Object(object) => self.import_as(object.clone(), source),
            Wanted::VipFromPool(vip) => {
                let vip = Imported::Vip(self.with_address(vip)?);
                if self.has(&vip, source) { Ok(()) } else { self.import_as(vip, source) }
            }
        }
    }

    /// A VIP with its address: the one that it has, or a free one of its pool. What was imported before has its own.
    fn with_address(&self, vip: &VipFromPool) -> Result<VipSpec, Refusal> {
        let VipFromPool { name, pool, family, candidates } = vip;
        let ip = self.state.vip_address(name, pool.as_ref(), *family)?;
        Ok(VipSpec { name: name.clone(), ip, candidates: candidates.clone() })
    }

    fn import_as(&mut self, object: Imported, source: &Source) -> Result<(), Refusal> {
        let (source, term) = (source.clone(), self.term);
        self.attempt(Command::ImportObject(ImportObject { source, object, term }))
    }

    /// Whether an import would change nothing. Only to save the work of the decision.
    fn has(&self, object: &Imported, source: &Source) -> bool {
        let state = &self.state;
        let same = match object {
            Imported::Host(_) => false,
            Imported::Tenant(spec) => {
                state.tenant(&spec.id).is_some_and(|tenant| tenant.labels == spec.labels)
            }
            Imported::Endpoint(endpoint) => state.endpoint(endpoint.ip) == Some(endpoint),
            Imported::Policy(policy) => state.policy(&policy.name) == Some(policy),
            Imported::Vip(spec) => state
                .vip(&spec.name)
                .is_some_and(|vip| (vip.ip, &vip.candidates) == (spec.ip, &spec.candidates)),
        };
        same && state.source(&object.key()) == Some(source)
    }

    /// Imports a host and drains it if its Node is unschedulable. If the host cannot be all that its Node is (its new
    /// labels would move it out of a group in which it has blocks), it gets the rest.
    fn import_host(&mut self, spec: &HostSpec, source: &Source) -> Result<(), Refusal> {
        let drained =
            |host: &Host| host.state == HostState::Draining && is_unschedulable(&host.info);
        let wants_drained = is_unschedulable(&spec.info);
        // Before the info forgets why the host was drained.
        if !wants_drained && self.state.host(&spec.name).is_some_and(drained) {
            self.set_state(spec, HostState::Up)?;
        }
        let mut result = self.import_as(Imported::Host(spec.clone()), source);
        if let (Err(_), Some(host)) = (&result, self.state.host(&spec.name)) {
            let Host { ip, addresses, labels, .. } = host.clone();
            let without_labels = HostSpec { labels, ..spec.clone() };
            let only_info = HostSpec { ip, addresses, ..without_labels.clone() };
            let mut rest = [without_labels, only_info].into_iter();
            let accepted = |spec| self.import_as(Imported::Host(spec), source).is_ok();
            if !rest.any(accepted) {
                return result;
            }
        }
        let up = self.state.host(&spec.name).is_some_and(|host| host.state == HostState::Up);
        if wants_drained && up {
            let drained = self.set_state(spec, HostState::Draining);
            result = result.and(drained);
        }
        result
    }

    fn set_state(&mut self, spec: &HostSpec, state: HostState) -> Result<(), Refusal> {
        let (name, term) = (spec.name.clone(), Some(self.term));
        self.attempt(Command::SetHostState(SetHostState { name, state, term }))
    }
}

fn is_unschedulable(info: &romana_statemachine::Labels) -> bool {
    info.get(UNSCHEDULABLE).is_some_and(|text| text == "true")
}
