//! The steps of the tour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ipnet::IpNet;
use romana_api::routes::RoutesAt;
use romana_client::model::{Block, ClusterStatus, DigestAt};
use romana_client::{Client, ClientConfig, Error, FollowOptions, Item, Query};
use romana_statemachine::command::{AllocateAddress, HostSource, HostSpec};
use romana_statemachine::routes::Routes;
use romana_statemachine::topology::{GroupSpec, TopologySpec};
use romana_statemachine::{Digest, Revision, plural};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::replicas::Replicas;
use super::stream::{self, Ack, Stream};
use crate::answer;
use crate::failure::Failure;

/// Pause between two checks of a condition.
const LOOK: Duration = Duration::from_millis(10);
/// Timeout of a condition.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Allocations acknowledged before the leader is killed, and after it.
const BEFORE_KILL: u64 = 1_000;
const AFTER_KILL: u64 = 1_000;
const RACKS: usize = 4;
const HOSTS_PER_RACK: usize = 2;

type Done = Result<(), Failure>;

pub(super) async fn run(replicas: &mut Replicas) -> Done {
    let started = Instant::now();
    let client = start(replicas).await?;
    let racks = topology(&client).await?;
    let hosts = add_hosts(&client, &racks).await?;
    allocate(&client, &hosts, &racks).await?;
    routes(&client).await?;
    let follower = follow(&client);
    let (dead, acks) = kill_leader(replicas, &client, &hosts).await?;
    nothing_lost(&client, &acks, &hosts, &racks).await?;
    let survivors = agree(replicas, &client, Some(dead)).await?;
    tick(format!(
        "the survivors agree: digest {} at revision {}",
        short(&survivors),
        survivors.revision
    ));
    let all = restart(replicas, &client, dead).await?;
    followed(follower, &all).await?;
    heading(&format!(
        "Done in {:.1} s. Every line with a tick was checked.",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn heading(text: &str) {
    anstream::println!("\n\u{1b}[1m{text}\u{1b}[0m");
}

fn say(text: impl AsRef<str>) {
    anstream::println!("    {}", text.as_ref());
}

/// Prints a claim that was checked.
fn tick(text: impl AsRef<str>) {
    anstream::println!("  \u{1b}[32m✓\u{1b}[0m {}", text.as_ref());
}

/// Prints a claim if it holds; otherwise the demo fails.
fn claim(holds: bool, text: impl Into<String>) -> Done {
    let text = text.into();
    if holds {
        tick(&text);
        return Ok(());
    }
    Err(Failure::Broken(format!("this does not hold: {text}")))
}

fn short(digest: &DigestAt) -> String {
    digest.digest.to_string().chars().take(16).collect()
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

async fn start(replicas: &mut Replicas) -> Result<Client, Failure> {
    heading("1. Three replicas of romanad, one Raft log");
    let began = Instant::now();
    for id in 1..=3 {
        replicas.start(id)?;
    }
    for replica in replicas.iter() {
        say(format!("replica {} serves its API on 127.0.0.1:{}", replica.id, replica.api));
    }
    let config = ClientConfig {
        timeout: WAIT_MAX,
        attempt_timeout: Duration::from_millis(1_000),
        actor: String::from("demo"),
        ..ClientConfig::new(replicas.servers()?)
    };
    let client = Client::new(config)?;
    let cluster = leader(replicas, &client, None).await?;
    // Its first commit: the leader can write, and a read returns it.
    let ready = client.hosts().await?;
    claim(
        ready.items.is_empty(),
        format!(
            "replica {} leads in term {}, after {}",
            cluster.leader.unwrap_or(0),
            cluster.term,
            millis(began.elapsed())
        ),
    )?;
    Ok(client)
}

/// Waits until a running replica reports a leader other than `except`.
async fn leader(
    replicas: &mut Replicas,
    client: &Client,
    except: Option<u64>,
) -> Result<ClusterStatus, Failure> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(id) = replicas.ended() {
            return Err(Failure::Broken(format!("replica {id} ended by itself")));
        }
        for server in replicas.servers()? {
            let Ok(cluster) = client.get_from::<ClusterStatus>(&server, "/v1/cluster").await else {
                continue;
            };
            if replicas.leader(&cluster).is_some_and(|id| Some(id) != except) {
                return Ok(cluster);
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::Broken(String::from("no leader was elected")));
        }
        sleep(LOOK).await;
    }
}

/// Sets the topology, and returns the prefix of each rack by the rack's label.
async fn topology(client: &Client) -> Result<BTreeMap<String, IpNet>, Failure> {
    heading("2. A topology: 10.111.0.0/16 for four racks");
    let document: Value = serde_json::from_str(include_str!("topology.json"))
        .map_err(|error| Failure::Broken(error.to_string()))?;
    client.put_topology(&document).await?;
    let shown: TopologySpec = answer::parse(&client.topology().await?).map_err(Failure::Broken)?;
    let groups = shown.topologies.into_iter().flat_map(|map| map.map);
    let rack =
        |group: GroupSpec| Some((group.assignment.get("rack")?.clone(), group.cidr?.parse().ok()?));
    let racks: BTreeMap<String, IpNet> = groups.filter_map(rack).collect();
    for (rack, cidr) in &racks {
        say(format!("{rack} owns {cidr}"));
    }
    let expected = [0, 64, 128, 192].map(|third| format!("10.111.{third}.0/18"));
    let carved = racks.values().map(ToString::to_string).eq(expected);
    claim(carved, "each rack has one prefix, a quarter of the network")?;
    Ok(racks)
}

/// Adds two hosts per rack, and returns the rack of each host by the host's name.
async fn add_hosts(
    client: &Client,
    racks: &BTreeMap<String, IpNet>,
) -> Result<BTreeMap<String, String>, Failure> {
    heading("3. Eight hosts, labelled with their racks");
    let mut hosts = BTreeMap::new();
    for rack in 1..=RACKS {
        for number in 1..=HOSTS_PER_RACK {
            let (name, label) = (format!("host-{rack}{number}"), format!("rack-{rack}"));
            let octets =
                [192, 168, u8::try_from(rack).unwrap_or(0), u8::try_from(number).unwrap_or(0)];
            client
                .add_host(HostSpec {
                    name: name.as_str().into(),
                    ip: IpAddr::from(octets),
                    addresses: Vec::new(),
                    labels: BTreeMap::from([(String::from("rack"), label.clone())]),
                    info: BTreeMap::new(),
                    source: HostSource::Operator,
                })
                .await?;
            hosts.insert(name, label);
        }
    }
    let listed = client.hosts().await?.items;
    let placed = listed.iter().all(|host| {
        let rack = hosts.get(host.name.as_str()).and_then(|rack| racks.get(rack));
        host.places.iter().all(|place| Some(&place.group) == rack) && !host.places.is_empty()
    });
    claim(placed && listed.len() == hosts.len(), "every host has its place in its rack's prefix")?;
    Ok(hosts)
}

async fn allocate(
    client: &Client,
    hosts: &BTreeMap<String, String>,
    racks: &BTreeMap<String, IpNet>,
) -> Done {
    heading("4. Addresses that say where they are");
    let mut inside = true;
    let mut again = true;
    for (host, rack) in hosts {
        let ask = AllocateAddress {
            name: format!("web-on-{host}").into(),
            host: host.as_str().into(),
            tenant: "shop".into(),
            segment: "web".into(),
            network: None,
            ip: None,
        };
        let got = client.allocate(ask.clone()).await?;
        say(format!("web-on-{host} got {:<15} of block {:<18} in {rack}", got.ip, got.block));
        inside &= racks.get(rack).is_some_and(|prefix| prefix.contains(&got.ip));
        again &= client.allocate(ask).await?.ip == got.ip;
    }
    claim(inside, "each address lies in the prefix of its rack")?;
    claim(again, "asking again by the same name gets the same address: retries are safe")
}

async fn routes(client: &Client) -> Done {
    heading("5. So few routes are enough");
    let query = Query::new("/v1/routes").with("for", Some("router"));
    let Routes { routes: list, exceptions, .. } =
        client.get::<RoutesAt>(query.build()).await?.routes;
    for route in &list {
        say(format!("a router needs {}", route.prefix));
    }
    let blocks = client.list::<Block>(Query::new("/v1/blocks")).await?.items.len();
    claim(
        list.len() == RACKS && exceptions.is_empty(),
        format!(
            "{} for {}, and it stays at {} however many there will be",
            plural(list.len(), "route"),
            plural(blocks, "block"),
            list.len()
        ),
    )
}

/// Kills the leader during a stream of allocations; returns its id and the acknowledgements.
async fn kill_leader(
    replicas: &mut Replicas,
    client: &Client,
    hosts: &BTreeMap<String, String>,
) -> Result<(u64, Vec<Ack>), Failure> {
    heading("6. kill -9 of the leader, in a stream of allocations");
    let cluster = leader(replicas, client, None).await?;
    let dead = cluster.leader.unwrap_or(0);
    let names: Vec<String> = hosts.keys().cloned().collect();
    let began = Instant::now();
    let stream = Stream::start(client, &names);
    let bar = bar(BEFORE_KILL + AFTER_KILL);
    watch(&stream, &bar, BEFORE_KILL).await?;
    replicas.kill(dead).await?;
    let killed = Instant::now();
    let before = stream.acknowledged();
    bar.suspend(|| {
        say(format!("{} acknowledged; replica {dead} is dead", plural(before, "allocation")))
    });
    watch(&stream, &bar, before + AFTER_KILL).await?;
    let acks = stream.finish().await?;
    bar.finish_and_clear();
    let next = leader(replicas, client, Some(dead)).await?;
    let gap = stream::next_ack_after(&acks, killed).unwrap_or_default();
    claim(
        gap > Duration::ZERO,
        format!(
            "replica {} leads in term {}; {} from the kill to the next acknowledged commit",
            next.leader.unwrap_or(0),
            next.term,
            millis(gap)
        ),
    )?;
    let seconds = began.elapsed().as_secs_f64();
    let acknowledged = plural(acks.len(), "allocation");
    say(format!("16 callers had {acknowledged} acknowledged in {seconds:.1} s"));
    Ok((dead, acks))
}

/// A progress bar, on terminals only.
fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("    {bar:40} {pos} acknowledged");
    let bar = ProgressBar::new(length);
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}

async fn watch(stream: &Stream, bar: &ProgressBar, wanted: u64) -> Done {
    let deadline = Instant::now() + WAIT_MAX;
    while stream.acknowledged() < wanted {
        if Instant::now() > deadline {
            return Err(Failure::Broken(String::from("allocations are not acknowledged any more")));
        }
        bar.set_position(stream.acknowledged());
        sleep(LOOK).await;
    }
    Ok(())
}

async fn nothing_lost(
    client: &Client,
    acks: &[Ack],
    hosts: &BTreeMap<String, String>,
    racks: &BTreeMap<String, IpNet>,
) -> Done {
    let listed = client.addresses(&Default::default()).await?.items;
    let present: Vec<(String, IpAddr)> =
        listed.iter().map(|address| (address.name.to_string(), address.ip)).collect();
    let (lost, twice) = stream::compare(acks, &present);
    claim(
        lost.is_empty(),
        format!("all {} acknowledged allocations are there: none is lost", acks.len()),
    )?;
    let distinct: BTreeSet<IpAddr> = present.iter().map(|(_, ip)| *ip).collect();
    let once = twice.is_empty() && distinct.len() == present.len();
    claim(once, format!("{} live addresses, none of them twice", present.len()))?;
    let inside = listed.iter().all(|address| {
        let rack = hosts.get(address.host.as_str()).and_then(|rack| racks.get(rack));
        rack.is_some_and(|prefix| prefix.contains(&address.ip))
    });
    claim(inside, "every one lies in the prefix of its rack")
}

/// Waits until all replicas except `except` are at the same revision, and compares their digests.
async fn agree(
    replicas: &Replicas,
    client: &Client,
    except: Option<u64>,
) -> Result<DigestAt, Failure> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let mut digests: Vec<DigestAt> = Vec::new();
        let asked = replicas.iter().filter(|replica| Some(replica.id) != except);
        let mut expected = 0;
        for replica in asked {
            expected += 1;
            digests.extend(client.digest_of(&replica.server()?).await.ok());
        }
        if let Some((first, rest)) = digests.split_first()
            && digests.len() == expected
            && rest.iter().all(|digest| digest.revision == first.revision)
        {
            return if rest.iter().all(|digest| digest.digest == first.digest) {
                Ok(*first)
            } else {
                Err(Failure::Broken(format!("digests differ at revision {}", first.revision)))
            };
        }
        if Instant::now() > deadline {
            return Err(Failure::Broken(String::from("the replicas do not come to one revision")));
        }
        sleep(LOOK).await;
    }
}

async fn restart(replicas: &mut Replicas, client: &Client, dead: u64) -> Result<DigestAt, Failure> {
    heading("7. The dead one comes back");
    let began = Instant::now();
    replicas.start(dead)?;
    let all = agree(replicas, client, None).await?;
    tick(format!(
        "replica {dead} has caught up after {}: digest {} at revision {}, like the others",
        millis(began.elapsed()),
        short(&all),
        all.revision
    ));
    Ok(all)
}

/// The follower's progress: revision, number of events, digest of the chain.
type Progress = (Revision, u64, Option<Digest>);

/// Follows the feed from the first event on, across the death of the leader. The client checks that each record
/// continues the chain, and fails otherwise.
fn follow(client: &Client) -> (watch::Receiver<Progress>, JoinHandle<Result<(), Error>>) {
    let options = FollowOptions { after: Some(Revision(0)), ..FollowOptions::default() };
    let mut follower = client.follow(options);
    let (progress, seen) = watch::channel((Revision(0), 0, None));
    let task = tokio::spawn(async move {
        let mut events = 0;
        loop {
            match follower.next().await? {
                Item::Record(_) | Item::Unknown(_) => events += 1,
                Item::Bookmark(_) => {}
                Item::Reset(_) => {
                    return Err(Error::Config { why: "the feed started over".into() });
                }
            }
            progress.send_replace((
                follower.revision().unwrap_or_default(),
                events,
                follower.digest(),
            ));
        }
    });
    (seen, task)
}

async fn followed(
    (mut seen, task): (watch::Receiver<Progress>, JoinHandle<Result<(), Error>>),
    last: &DigestAt,
) -> Done {
    let arrived = seen.wait_for(|(revision, ..)| *revision >= last.revision);
    let progress = match timeout(WAIT_MAX, arrived).await {
        Ok(Ok(progress)) => Some(*progress),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some((revision, events, digest)) = progress else {
        let why = match task.is_finished().then_some(task) {
            Some(task) => match task.await {
                Ok(Ok(())) => String::from("it ended too early"),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
            None => String::from("it did not arrive"),
        };
        return Err(Failure::Broken(format!("the follower of the feed failed: {why}")));
    };
    task.abort();
    let whole = revision == events && (revision != last.revision || digest == Some(last.digest));
    claim(
        whole,
        format!(
            "a follower saw {} once and in order, across the kill, hash chain unbroken",
            plural(events, "event")
        ),
    )
}
