//! Decides commands on a copy of the state, and collects those that change it.

use romana_statemachine::command::{
    HostSpec, HostState, ImportObject, Imported, SetHostState, Source,
};
use romana_statemachine::{Actor, Command, Entry, Host, Position, Proposal, Refusal, State, Term};

use crate::desired::{Desired, UNSCHEDULABLE};

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
        match &desired.imported {
            Imported::Host(spec) => self.import_host(spec, &desired.source),
            _ if self.has(desired) => Ok(()),
            imported => self.import_as(imported.clone(), &desired.source),
        }
    }

    fn import_as(&mut self, object: Imported, source: &Source) -> Result<(), Refusal> {
        let (source, term) = (source.clone(), self.term);
        self.attempt(Command::ImportObject(ImportObject { source, object, term }))
    }

    /// Whether an import would change nothing. Only to save the work of the decision.
    fn has(&self, desired: &Desired) -> bool {
        let state = &self.state;
        let same = match &desired.imported {
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
        same && state.source(&desired.imported.key()) == Some(&desired.source)
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
