//! kill -9 of the leader: time until the next commit is acknowledged. A sequential client tries all replicas
//! in turn, the same way for both clusters. Both clusters run all the time; their leaders are killed in turn.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::lean::Lean;
use super::report::Machine;
use super::{BenchOptions, etcd, ours};
use crate::cluster::Cluster;

/// Timeout of an attempt before the client tries another replica.
const ATTEMPT: Duration = Duration::from_millis(250);
/// Pause between attempts, so that refused connections do not spin.
const PAUSE: Duration = Duration::from_millis(2);
/// Duration without faults before and after a kill.
const CALM: Duration = Duration::from_millis(1_500);

/// Commits one object at a replica.
trait Committer {
    async fn commit(&mut self, at: usize, number: u64) -> bool;
    fn replicas(&self) -> usize;
}

struct OurCommitter {
    apis: Vec<SocketAddr>,
    open: Vec<Option<Lean>>,
}

impl Committer for OurCommitter {
    async fn commit(&mut self, at: usize, number: u64) -> bool {
        let mut lean = match self.open[at].take() {
            Some(lean) => lean,
            None => match Lean::open(self.apis[at]).await {
                Ok(lean) => lean,
                Err(_) => return false,
            },
        };
        let Ok(body) = serde_json::to_string(&ours::allocation(number)) else { return false };
        match lean.call("POST", "/v1/addresses", &body).await {
            Ok(status) => {
                self.open[at] = Some(lean);
                // 200: an earlier attempt had succeeded.
                status == 201 || status == 200
            }
            Err(_) => false,
        }
    }

    fn replicas(&self) -> usize {
        self.apis.len()
    }
}

struct EtcdCommitter {
    open: Vec<etcd::Kv>,
}

impl Committer for EtcdCommitter {
    async fn commit(&mut self, at: usize, number: u64) -> bool {
        self.open[at].put(number).await.is_ok()
    }

    fn replicas(&self) -> usize {
        self.open.len()
    }
}

/// The sequential client.
struct Client<C> {
    committer: C,
    at: usize,
    number: u64,
}

impl<C: Committer> Client<C> {
    /// Commits sequentially until `end`; returns the longest time between two answers.
    async fn commit_until(&mut self, end: Instant) -> Result<Duration> {
        let mut last = Instant::now();
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            self.number += 1;
            let patience = Instant::now() + Duration::from_secs(30);
            while !timeout(ATTEMPT, self.committer.commit(self.at, self.number))
                .await
                .unwrap_or(false)
            {
                ensure!(Instant::now() < patience, "no commit for 30 s");
                self.at = (self.at + 1) % self.committer.replicas();
                sleep(PAUSE).await;
            }
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        Ok(longest)
    }
}

/// Commits before and after a kill, carried out by `kill`.
async fn across<C: Committer>(
    client: &mut Client<C>,
    kill: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let before = CALM.mul_f64(rand::rng().random_range(0.5..1.0));
    client.commit_until(Instant::now() + before).await?;
    kill()?;
    // Long enough for the slower of the two to finish its election.
    client.commit_until(Instant::now() + 2 * CALM).await
}

pub(super) async fn run(options: &BenchOptions, kills: usize) -> Result<Value> {
    let machine = Machine::look();
    let mut etcd = etcd::Etcd::start(options.dir.as_deref()).await?;
    let version = etcd.version().await?;
    let mut cluster = ours::start(options).await?;
    let apis = cluster.apis();
    let mut my_client = Client {
        committer: OurCommitter { open: apis.iter().map(|_| None).collect(), apis },
        at: 0,
        number: 0,
    };
    let open = etcd.clients().into_iter().map(etcd::Kv::open).collect::<Result<_>>()?;
    let mut etcd_client = Client { committer: EtcdCommitter { open }, at: 0, number: 0 };
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        mine.push(millis(one_of_ours(&mut cluster, &mut my_client).await?));
        theirs.push(millis(one_of_etcd(&mut etcd, &mut etcd_client).await?));
        let (a, b) = (mine[kill - 1], theirs[kill - 1]);
        eprintln!("kill {kill} of {kills}: ours {a:.0} ms, etcd {b:.0} ms");
    }
    println!(
        "kill -9 of the leader, longest time between two acknowledged commits, {kills} kills each. {version}."
    );
    machine.print();
    for (name, gaps) in [("etcd", &theirs), ("ours", &mine)] {
        let (median, max) = (middle(gaps), gaps.iter().copied().fold(0.0, f64::max));
        println!("{name:<6} median {median:>6.0} ms   max {max:>6.0} ms");
    }
    println!("median ratio {:.2}", middle(&mine) / middle(&theirs));
    Ok(json!({"bench": "failover", "machine": machine, "etcd": version,
              "ours_ms": mine, "etcd_ms": theirs}))
}

async fn one_of_ours(cluster: &mut Cluster, client: &mut Client<OurCommitter>) -> Result<Duration> {
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    client.at = leader;
    let longest = across(client, || cluster.kill(leader)).await?;
    cluster.heal()?;
    cluster.wait_ready(Duration::from_secs(30)).await?;
    Ok(longest)
}

async fn one_of_etcd(
    etcd: &mut etcd::Etcd,
    client: &mut Client<EtcdCommitter>,
) -> Result<Duration> {
    let leader = etcd.leader().await?;
    client.at = leader;
    let longest = across(client, || etcd.kill(leader)).await?;
    etcd.start_member(leader)?;
    etcd.wait_ready().await?;
    Ok(longest)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
