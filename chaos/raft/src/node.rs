//! One machine: a replica and its clients.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use romana_replica::{ProposeError, Replica, ReplicaConfig};
use romana_statemachine::command::{AllocateAddress, ReleaseAddress, TenantRef, TenantSpec};
use romana_statemachine::{Actor, Command, Labels, Outcome, Proposal, Term};
use romana_storage::platform::net::TcpListener;
use romana_storage::platform::{Clock, below, disk, random, set_clock};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::profile::{NODES, Plan};
use crate::recorder::{Answer, Question, Shared};

const PORT: u16 = 7600;
/// Timeout of a client.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Prefix of tenants' names created by clients.
pub(crate) const PREFIX: &str = "made-";
/// Number of addresses' names that all clients share.
const NAMES: u64 = 24;

/// An order to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Transfer leadership to this member.
    Transfer(u64),
    Snapshot,
    Clock(Clock),
}

/// A running replica.
pub(crate) struct Running {
    pub(crate) replica: Replica,
    pub(crate) leads: watch::Receiver<Option<Term>>,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
}

/// State shared by nodes and world.
#[derive(Default)]
pub(crate) struct Site {
    pub(crate) running: RefCell<BTreeMap<u64, Running>>,
    pub(crate) book: Shared,
    /// The clocks of each machine, which survive restarts.
    pub(crate) clocks: RefCell<BTreeMap<u64, Clock>>,
    /// Clients send no more requests.
    pub(crate) quiet: Cell<bool>,
    lives: Cell<u64>,
}

/// The machine name of a replica.
pub(crate) fn name(id: u64) -> String {
    format!("n{id}")
}

/// Initial commands of a cluster.
fn beginning() -> Vec<Proposal> {
    const BEGINNING: &str = r#"[
        {"RaiseVersion": {"version": 2}}, {"RaiseVersion": {"version": 3}},
        {"SetTopology": {
            "networks": [{"name": "n", "cidr": "10.0.0.0/26", "block_mask": 30}],
            "topologies": [{"networks": ["n"], "map": [{}]}]}},
        {"ChangeSettings": {"address_reuse_delay_ms": 300}},
        {"CreateTenant": {"id": "t"}},
        {"AddHost": {"name": "h1", "ip": "192.168.0.1"}},
        {"AddHost": {"name": "h2", "ip": "192.168.0.2"}}
    ]"#;
    let commands: Vec<Command> = serde_json::from_str(BEGINNING).expect("these are commands");
    commands.into_iter().map(|command| proposal("operator", command)).collect()
}

fn proposal(actor: &str, command: Command) -> Proposal {
    Proposal { actor: Actor::from(actor), command }
}

fn config(id: u64, plan: &Plan) -> ReplicaConfig {
    let all = (1..=NODES).map(|id| (id, format!("{}:{PORT}", name(id)))).collect();
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let data = PathBuf::from(format!("/{}/data", name(id)));
    ReplicaConfig {
        initial: beginning(),
        tuning: plan.tuning.clone(),
        ..ReplicaConfig::new(id, data, listen, all)
    }
}

/// One life of a machine. Returns when its replica has stopped; the world must restart it.
pub(crate) async fn live(id: u64, plan: Rc<Plan>, site: Rc<Site>) -> turmoil::Result {
    let failed = disk::failed_syncs(&name(id));
    let excused = || disk::is_dark(&name(id)) || disk::failed_syncs(&name(id)) > failed;
    set_clock(site.clocks.borrow().get(&id).copied().unwrap_or_default());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let replica = match Replica::start_on(config(id, &plan), listener).await {
        Ok(replica) => replica,
        Err(_) if excused() => return Ok(()),
        Err(error) => {
            let how = format!("node {id}: {error}: {:?}", std::error::Error::source(&error));
            site.book.with(|book| book.break_law("starts again", how));
            return Ok(());
        }
    };
    let (orders, mut told) = mpsc::unbounded_channel();
    let leads = replica.leadership().watch();
    site.running.borrow_mut().insert(id, Running { replica: replica.clone(), leads, orders });
    site.lives.set(site.lives.get() + 1);
    for number in 0..plan.clients {
        let name = format!("{}-{number}", site.lives.get());
        let client = Client { name, id, asked: 0, made: Vec::new(), plan: Rc::clone(&plan) };
        tokio::task::spawn_local(client.run(replica.clone(), Rc::clone(&site)));
    }
    loop {
        tokio::select! {
            (_, why) = replica.health().wait_fault() => {
                if !excused() {
                    site.book.with(|book| book.break_law("goes on", format!("node {id}: {why}")));
                }
                site.running.borrow_mut().remove(&id);
                return Ok(());
            }
            Some(order) = told.recv() => obey(&replica, order).await,
        }
    }
}

async fn obey(replica: &Replica, order: Order) {
    // Orders that fail are ignored.
    match order {
        Order::Transfer(to) => {
            _ = replica.leadership().transfer(to, Instant::now() + PATIENCE).await
        }
        Order::Snapshot => _ = replica.snapshots().take().await,
        Order::Clock(clock) => set_clock(clock),
    }
}

struct Client {
    name: String,
    id: u64,
    asked: u64,
    made: Vec<String>,
    plan: Rc<Plan>,
}

impl Client {
    async fn run(mut self, replica: Replica, site: Rc<Site>) {
        while !site.quiet.get() {
            sleep(Duration::from_millis(1 + below(self.plan.pause))).await;
            self.asked += 1;
            match below(20) {
                0..9 => self.make(&replica, &site).await,
                9..12 => self.read(&replica, &site).await,
                12..15 => self.read_here(&replica, &site).await,
                15 => self.unmake(&replica, &site).await,
                _ => self.address(&replica, &site).await,
            }
        }
    }

    async fn propose(&self, replica: &Replica, command: Command) -> Result<Outcome, ProposeError> {
        let proposals = vec![proposal(&self.name, command)];
        let mut outcomes = replica.propose(proposals, Instant::now() + PATIENCE).await?;
        Ok(outcomes.remove(0))
    }

    async fn make(&mut self, replica: &Replica, site: &Site) {
        let name = format!("{PREFIX}{}-{}", self.name, self.asked);
        // Long enough to fill files.
        let padding = "x".repeat(usize::try_from(below(60)).unwrap_or(0));
        let labels = (0..below(20)).map(|number| (format!("l{number}"), padding.clone()));
        let spec = TenantSpec { id: name.as_str().into(), labels: labels.collect::<Labels>() };
        let which = site.book.with(|book| book.ask(self.id, name.clone(), Question::Make));
        let answer = match self.propose(replica, Command::CreateTenant(spec)).await {
            Ok(Outcome { revision, result: Ok(_) }) => {
                self.made.push(name);
                Answer::At(revision)
            }
            Ok(Outcome { result: Err(refusal), .. }) => {
                let how = format!("{name} is refused: {refusal}");
                site.book.with(|book| book.break_law("kept", how));
                Answer::Refused
            }
            Err(ProposeError::Unknown { .. }) => Answer::Unknown,
            Err(_) => Answer::Refused,
        };
        site.book.with(|book| book.answer(which, answer));
    }

    async fn unmake(&mut self, replica: &Replica, site: &Site) {
        let Some(id) = self.made.pop() else { return };
        let tenant = TenantRef { id: id.as_str().into() };
        let outcome = self.propose(replica, Command::DeleteTenant(tenant)).await;
        site.book.with(|book| book.trace(format!("{outcome:?}")));
    }

    async fn address(&mut self, replica: &Replica, site: &Site) {
        let address = format!("a-{}", below(NAMES));
        let command = if random() {
            Command::AllocateAddress(AllocateAddress {
                name: address.as_str().into(),
                host: if random() { "h1".into() } else { "h2".into() },
                tenant: "t".into(),
                segment: "s".into(),
                network: None,
                ip: None,
            })
        } else {
            Command::ReleaseAddress(ReleaseAddress { address: address.as_str().into() })
        };
        let outcome = self.propose(replica, command).await;
        site.book.with(|book| book.trace(format!("{outcome:?}")));
    }

    async fn read(&mut self, replica: &Replica, site: &Site) {
        let which = site.book.with(|book| book.ask(self.id, self.name.clone(), Question::Read));
        let read = replica.reads().linearize(Instant::now() + PATIENCE).await;
        self.saw(read.is_ok(), which, replica, site);
    }

    async fn read_here(&mut self, replica: &Replica, site: &Site) {
        let which = site.book.with(|book| book.ask(self.id, self.name.clone(), Question::ReadHere));
        let read = replica.reads().recovered(Instant::now() + PATIENCE).await;
        self.saw(read.is_ok(), which, replica, site);
    }

    fn saw(&self, ready: bool, which: usize, replica: &Replica, site: &Site) {
        let (revision, digest) = replica.with_state(|state| (state.revision(), state.digest()));
        site.book.with(|book| {
            book.see(self.id, revision, digest);
            book.answer(which, if ready { Answer::At(revision) } else { Answer::Refused });
        });
    }
}
