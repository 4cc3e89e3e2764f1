//! Cut or lossy links between replicas: connections stay open, but packets are dropped.

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{Hit, Kind, Needs, Sort, leader};
use crate::cluster::{Cluster, Link, Treatment};

/// Partitions the replicas into two sides.
pub(super) const PARTITION: Kind = Kind {
    name: "partition",
    about: "the replicas are cut into two sides, one of them a majority",
    sort: Sort::Network,
    needs: Needs::NAMESPACES,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let places = shuffled(cluster, rng);
            let side = places[..rng.random_range(1..=places.len() / 2)].to_vec();
            let links = cut(&between(&side, &others(cluster, &side)));
            treat(cluster, id, links, format!("{} from the others", told(cluster, &side)))
        })
    },
    end: |cluster, hit| Box::pin(async move { net(cluster)?.repair(hit.id) }),
};

/// Isolates the leader.
pub(super) const LEADER: Kind = Kind {
    name: "isolate-leader",
    about: "the leader is cut off from all others",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let at = leader(cluster).await.unwrap_or_else(|| shuffled(cluster, rng)[0]);
            let links = cut(&between(&[at], &others(cluster, &[at])));
            treat(cluster, id, links, told(cluster, &[at]))
        })
    },
    ..PARTITION
};

/// Cuts one direction: packets from a replica, or packets to it, are dropped.
pub(super) const ONE_WAY: Kind = Kind {
    name: "one-way",
    about: "packets from a replica do not arrive at the others, or theirs not at it",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let at = match leader(cluster).await.filter(|_| rng.random_bool(0.5)) {
                Some(at) => at,
                None => shuffled(cluster, rng)[0],
            };
            let (to, others) = (rng.random_bool(0.5), others(cluster, &[at]));
            let links = others.iter().map(|other| if to { (*other, at) } else { (at, *other) });
            let links = cut(&links.collect::<Vec<Link>>());
            let word = if to { "to" } else { "from" };
            treat(cluster, id, links, format!("{word} {}", told(cluster, &[at])))
        })
    },
    ..PARTITION
};

/// Separates two replicas from each other, while the others reach both.
pub(super) const BRIDGE: Kind = Kind {
    name: "bridge",
    about: "two replicas do not hear each other; the others hear both",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let places = shuffled(cluster, rng);
            let links = cut(&between(&places[..1], &places[1..2]));
            treat(cluster, id, links, told(cluster, &places[..2]))
        })
    },
    ..PARTITION
};

/// Drops some packets between all replicas.
pub(super) const LOSS: Kind = Kind {
    name: "loss",
    about: "5 to 40 of a hundred packets between replicas are lost",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let percent = rng.random_range(5..=40);
            let all: Vec<usize> = (0..cluster.replicas().len()).collect();
            let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
            let links = pairs.filter(|(a, b)| a != b);
            let links = links.map(|link| (link, Treatment::Lossy(percent))).collect();
            treat(cluster, id, links, format!("{percent} %"))
        })
    },
    ..PARTITION
};

fn net(cluster: &mut Cluster) -> Result<&mut crate::cluster::Net> {
    cluster.net().context("the replicas have no namespaces of their own")
}

fn shuffled(cluster: &Cluster, rng: &mut SmallRng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..cluster.replicas().len()).collect();
    places.shuffle(rng);
    places
}

fn others(cluster: &Cluster, side: &[usize]) -> Vec<usize> {
    (0..cluster.replicas().len()).filter(|at| !side.contains(at)).collect()
}

/// Links from one side to the other, and back.
fn between(one: &[usize], other: &[usize]) -> Vec<Link> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

fn cut(links: &[Link]) -> Vec<(Link, Treatment)> {
    links.iter().map(|link| (*link, Treatment::Cut)).collect()
}

fn told(cluster: &Cluster, places: &[usize]) -> String {
    let names: Vec<String> =
        places.iter().map(|at| format!("replica {}", cluster.replicas()[*at].id)).collect();
    names.join(", ")
}

fn treat(
    cluster: &mut Cluster,
    id: u64,
    links: Vec<(Link, Treatment)>,
    told: String,
) -> Result<Hit> {
    net(cluster)?.treat(id, links)?;
    Ok(Hit { places: Vec::new(), told, id })
}
