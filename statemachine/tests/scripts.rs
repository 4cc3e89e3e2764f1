//! Golden scripts that document the rules. A case is a file under `scripts/`: blocks of commands, `---`, and their
//! effects, one per line; a blank line ends a block. [`lang`] defines the language. `UPDATE=1 cargo test` rewrites
//! what differs: read the diff before keeping it.
//!
//! After every command the harness also checks that the invariants hold, that a refusal changed nothing, that
//! following the records gives the same state, and that the snapshot can be read back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lang;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use lang::Step;
use romana_statemachine::audit::tenures;
use romana_statemachine::command::ResumeAllocation;
use romana_statemachine::event::Restored;
use romana_statemachine::name::HostName;
use romana_statemachine::topology::Network;
use romana_statemachine::{
    Answer, Command, Digest, Entry, Index, Millis, Outcome, Position, Proposal, Record, Refusal,
    State, Term, routes,
};
use romana_testing::goldens::{self, Goldens};

/// Runs one script.
struct Script {
    state: State,
    /// Built from the records alone.
    follower: State,
    records: Vec<Record>,
    at: u64,
    term: u64,
    index: u64,
}

impl Script {
    fn new() -> Self {
        Self {
            state: State::new(),
            follower: State::new(),
            records: Vec::new(),
            at: 0,
            term: 1,
            index: 0,
        }
    }

    fn block(&mut self, commands: &str) -> Result<String, String> {
        let mut out = String::new();
        for step in lang::parse(commands, self.term)? {
            match step {
                Step::At(at) => self.at = at,
                Step::After(ms) => self.at += ms,
                Step::Term(term) => self.term = term,
                Step::Refused(refusal) => refused(&mut out, &refusal),
                Step::AsShown => {
                    let shown = self.state.topology_document().ok_or("no topology")?;
                    self.apply(Command::SetTopology(shown), &mut out);
                }
                Step::Restore { cluster, source } => self.restore(cluster, source, &mut out),
                Step::Show(what) => out += &show(&self.state, &self.records, &what)?,
                Step::Plan(spec) => match self.state.plan_topology(&spec) {
                    Ok(plan) => out += &(pretty(&plan) + "\n"),
                    Err(refusal) => refused(&mut out, &refusal),
                },
                Step::Apply(commands) => {
                    commands.into_iter().for_each(|command| self.apply(command, &mut out));
                }
            }
        }
        Ok(out)
    }

    fn apply(&mut self, command: Command, out: &mut String) {
        self.index += 1;
        let before = (self.state.revision(), self.state.digest());
        let position = Position { term: Term(self.term), index: Index(self.index) };
        let proposal = Proposal { actor: "test".into(), command: command.clone() };
        let entry = Entry { at: Millis(self.at), proposals: vec![proposal] };
        let (outcomes, records) = self.state.apply(position, &entry);
        let [Outcome { revision, result }] = outcomes.as_slice() else {
            panic!("{command}: {} outcomes", outcomes.len());
        };
        for record in &records {
            writeln!(out, "{}", record.event).unwrap();
            self.follower.follow(record).unwrap();
        }
        self.records.extend(records.iter().cloned());
        match result {
            Err(refusal) => refused(out, refusal),
            Ok(Answer::Address { allocation, fresh: false }) => {
                writeln!(out, "stands: {} {}", allocation.name, allocation.ip).unwrap();
            }
            Ok(_) if records.is_empty() => writeln!(out, "nothing to do").unwrap(),
            Ok(_) => {}
        }
        assert_eq!(*revision, self.state.revision(), "{command}: revision of the outcome");
        if records.is_empty() {
            assert_eq!(before, (self.state.revision(), self.state.digest()), "{command}");
        }
        self.check(&command);
    }

    fn restore(&mut self, cluster: String, source: String, out: &mut String) {
        let (revision, digest) = (self.state.revision(), self.state.digest());
        let restored = Restored { source, cluster, revision, digest, backup: Digest::of(b"") };
        let (state, record) = self.state.clone().restored(restored);
        writeln!(out, "{}", record.event).unwrap();
        self.follower.follow(&record).unwrap();
        self.state = state;
        (self.index, self.term) = (0, 1);
        self.check(&Command::ResumeAllocation(ResumeAllocation {}));
    }

    fn check(&self, command: &Command) {
        if let Err(wrong) = self.state.validate() {
            panic!("after {command}:\n{}", wrong.join("\n"));
        }
        let bytes = self.state.snapshot();
        let read = State::from_snapshot(&bytes).unwrap();
        assert_eq!(read.snapshot(), bytes, "after {command}: the snapshot reads back differently");
        read.validate().unwrap();
        assert_eq!(self.follower.digest(), self.state.digest(), "after {command}");
        assert_eq!(self.follower.state_digest(), self.state.state_digest(), "after {command}");
        self.follower.validate().unwrap();
    }
}

fn refused(out: &mut String, refusal: &Refusal) {
    writeln!(out, "refused {}: {refusal}", refusal.code()).unwrap();
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

#[expect(clippy::too_many_lines, reason = "a case per kind of object")]
fn show(state: &State, records: &[Record], what: &[String]) -> Result<String, String> {
    let mut out = String::new();
    let word = |at: usize| what.get(at).map_or("", String::as_str);
    match word(0) {
        "groups" => {
            for network in state.topology().into_iter().flat_map(|topology| topology.networks()) {
                show_groups(state, network, &mut out);
            }
        }
        "hosts" => {
            for host in state.hosts() {
                let places: Vec<_> =
                    host.places.iter().map(|p| format!(" {}:{}", p.network, p.group)).collect();
                let state = format!("{:?}", host.state).to_lowercase();
                writeln!(out, "{} {} {state}{}", host.name, host.ip, places.concat()).unwrap();
            }
        }
        "blocks" => {
            for block in state.ipam().blocks() {
                let owner = block.owner();
                write!(out, "{} host {} ", block.cidr, owner.host).unwrap();
                writeln!(out, "owner {}/{} live {}", owner.tenant, owner.segment, block.live)
                    .unwrap();
            }
        }
        "addresses" => {
            for live in state.ipam().addresses_after(None) {
                writeln!(out, "{} {} host {} r{}", live.ip, live.name, live.host, live.revision)
                    .unwrap();
            }
        }
        "usage" => {
            let cidr = word(1).parse().map_err(|_| "no CIDR")?;
            writeln!(out, "{}", pretty(&state.ipam().usage(cidr))).unwrap();
        }
        "topology" => writeln!(out, "{}", pretty(&state.topology_document())).unwrap(),
        "policy" => {
            let policy = state.policy(&word(1).into()).ok_or("no such policy")?;
            let document = romana_statemachine::policy::document::to_document(policy);
            writeln!(out, "{}", pretty(&document)).unwrap();
        }
        "tenants" => {
            for (id, tenant) in state.tenants() {
                let segments: Vec<_> = tenant.segments.keys().map(|s| s.as_str()).collect();
                writeln!(out, "{id} {:?} segments {segments:?}", tenant.labels).unwrap();
            }
        }
        "vips" => {
            for vip in state.vips() {
                let holder =
                    vip.holder.as_ref().map(|h| format!(" on {} until {}", h.host, h.until));
                let placed = vip.placement.as_ref().map(|placed| {
                    let (at, grant) = (placed.at, placed.grant_ms);
                    let since = format!("r{} {at}, grant {grant} ms", placed.since);
                    format!(" on {} since {since}, {}", placed.host, placed.reason)
                });
                let holder = holder.or(placed).unwrap_or_default();
                writeln!(out, "{} {}{holder}", vip.name, vip.ip).unwrap();
            }
        }
        "moves" => show_moves(state, &what[1..], &mut out)?,
        "conflicts" => show_conflicts(state, &mut out),
        "sources" => {
            for (object, source) in state.sources() {
                writeln!(out, "{object} from {source}").unwrap();
            }
        }
        "who" => show_who(records, word(1), &mut out)?,
        "cluster" => show_cluster(state, &mut out),
        "routes" => show_routes(state, word(1), word(2), &mut out)?,
        other => return Err(format!("show {other}?")),
    }
    Ok(out)
}

fn show_moves(state: &State, renewing: &[String], out: &mut String) -> Result<(), String> {
    let mut hosts: Vec<(HostName, Vec<IpNet>)> = Vec::new();
    for word in renewing {
        let (name, subnets) = word.split_once('=').ok_or("no HOST=SUBNET")?;
        let subnets = subnets.split(',').map(str::parse).collect::<Result<_, _>>();
        hosts.push((name.into(), subnets.map_err(|_| "no subnet")?));
    }
    let renewing = hosts.iter().map(|(name, subnets)| (name, subnets.as_slice())).collect();
    for step in state.vip_moves(&renewing) {
        let host =
            |host: &Option<HostName>| host.clone().map_or_else(|| "-".into(), |h| h.to_string());
        let (from, to) = (host(&step.from), host(&step.to));
        writeln!(out, "{} {from} -> {to}: {}", step.name, step.reason).unwrap();
    }
    Ok(())
}

fn show_conflicts(state: &State, out: &mut String) {
    for (host, conflicts) in state.conflicts() {
        for conflict in conflicts {
            writeln!(out, "{host}: {} {}: {}", conflict.name, conflict.ip, conflict.why).unwrap();
        }
    }
}

fn show_who(records: &[Record], ip: &str, out: &mut String) -> Result<(), String> {
    let ip = ip.parse().map_err(|_| "no address")?;
    for tenure in tenures(ip, records) {
        write!(out, "{} r{}", tenure.name, tenure.from.unwrap().revision).unwrap();
        if let Some(to) = tenure.to {
            write!(out, "-r{} {:?}", to.revision, tenure.reason.unwrap()).unwrap();
        }
        if let Some(late) = tenure.late {
            write!(out, " {late:?}").unwrap();
        }
        out.push('\n');
    }
    Ok(())
}

fn show_cluster(state: &State, out: &mut String) {
    for member in state.members() {
        let nonce = member.nonce.as_deref().unwrap_or("not started");
        writeln!(out, "member {} {} {nonce}", member.id, member.peer).unwrap();
    }
    writeln!(out, "last id {}, version {}", state.last_member_id(), state.version()).unwrap();
    if let Some(held) = state.held() {
        writeln!(out, "held since r{} for {:?}", held.since, held.waiting).unwrap();
    }
}

fn show_groups(state: &State, network: &Network, out: &mut String) {
    for group in &network.groups {
        let mut depth = 0;
        let mut above = group.parent;
        while let Some(at) = above {
            depth += 1;
            above = network.groups[at].parent;
        }
        let indent = "  ".repeat(depth);
        write!(out, "{} {indent}{}", network.name, group.cidr).unwrap();
        if let Some(name) = &group.name {
            write!(out, " {name}").unwrap();
        }
        if group.padding {
            out.push_str(" padding");
        }
        let here = state.hosts().filter(|host| host.place(&network.name) == Some(group.cidr));
        let hosts: Vec<_> = here.map(|host| host.name.as_str()).collect();
        if !hosts.is_empty() && group.leaf {
            write!(out, " hosts {}", hosts.join(",")).unwrap();
        }
        out.push('\n');
    }
}

fn show_routes(state: &State, of: &str, name: &str, out: &mut String) -> Result<(), String> {
    let routes = match of {
        "host" => routes::for_host(state, &name.into()).ok_or("no such host")?,
        "group" => {
            let group = name.parse().map_err(|_| "no CIDR")?;
            routes::for_group(state, group).ok_or("no such group")?
        }
        _ => routes::for_router(state),
    };
    for route in &routes.routes {
        writeln!(out, "{} {} via {}", route.prefix, route.network, pretty(&route.via)).unwrap();
    }
    for exception in &routes.exceptions {
        writeln!(out, "{} exception: {}", exception.prefix, exception.reason).unwrap();
    }
    writeln!(out, "groups: {}", routes.groups).unwrap();
    Ok(())
}

/// The commands of each block of a script.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("\n\n").map(|part| part.trim_matches('\n'));
    let commands = |part: &'_ str| part.split_once("\n---").map_or(part.len(), |(c, _)| c.len());
    parts.filter(|part| !part.is_empty()).map(move |part| &part[..commands(part)])
}

fn run(file: &Path) -> Result<String, String> {
    let text = goldens::read(file);
    let mut script = Script::new();
    let mut fresh = String::new();
    for (n, commands) in blocks(&text).enumerate() {
        let effects = script.block(commands)?;
        let comment = commands.lines().all(|line| line.starts_with('#'));
        if n > 0 {
            fresh.push('\n');
        }
        fresh += commands;
        fresh.push('\n');
        if !comment {
            fresh += "---\n";
            fresh += &effects;
        }
    }
    Ok(fresh)
}

fn files() -> Vec<PathBuf> {
    goldens::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"), 70)
}

#[test]
fn scripts() {
    let mut goldens = Goldens::default();
    for file in files() {
        match std::panic::catch_unwind(|| run(&file)) {
            Ok(Ok(fresh)) => goldens.compare(&file, &fresh),
            Ok(Err(why)) => goldens.fail(&file, &why),
            Err(_) => goldens.fail(&file, "panicked, see above"),
        }
    }
    goldens.assert();
}

/// Codes of the API for reads; no command is refused with them.
const OF_READING: [&str; 1] = ["AddressNotFound"];

/// Every refusal occurs in a script.
#[test]
fn every_refusal_has_a_script() {
    let mut text = String::new();
    for file in files() {
        text += &goldens::read(&file);
    }
    let shown: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("refused ")?.split(':').next()).collect();
    let missing: Vec<_> = Refusal::TABLE
        .iter()
        .map(|(code, ..)| *code)
        .filter(|code| !shown.contains(code) && !OF_READING.contains(code))
        .collect();
    assert!(missing.is_empty(), "no script shows {missing:?}");
}
