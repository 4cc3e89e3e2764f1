//! Chooses the replica to ask next: a small pure list of the known replicas.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Server;
use crate::model::ClusterStatus;

/// How long a failed replica is avoided while there are others.
const AVOID: Duration = Duration::from_millis(1_000);
/// How long a replica's description of the cluster is valid.
const FRESH: Duration = Duration::from_secs(5);
/// Limit of known replicas.
const KNOWN_MAX: usize = 64;

/// The known replicas.
///
/// Invariants: at least one server; configured ones are never removed; no duplicates; `leader` and
/// `preferred` are valid positions.
#[derive(Debug)]
pub(crate) struct Servers {
    known: Vec<Known>,
    configured: usize,
    leader: Option<usize>,
    preferred: usize,
    refresh_after: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    server: Server,
    avoid_until: Option<Instant>,
}

impl Servers {
    /// `roll` spreads clients over the replicas.
    pub(crate) fn new(configured: Vec<Server>, roll: usize) -> Self {
        let mut known: Vec<Known> = Vec::new();
        for server in configured {
            if !known.iter().any(|other| other.server == server) {
                known.push(Known { server, avoid_until: None });
            }
        }
        let (configured, preferred) = (known.len(), roll % known.len().max(1));
        Self { known, configured, leader: None, preferred, refresh_after: None }
    }

    /// The replica to ask: the leader for writes, else the one that answered last, else another.
    pub(crate) fn choose(&mut self, write: bool, now: Instant) -> Server {
        let ready = |known: &Known| known.avoid_until.is_none_or(|until| until <= now);
        let leader = self.leader.filter(|_| write).and_then(|at| self.known.get(at));
        if let Some(leader) = leader.filter(|known| ready(known)) {
            return leader.server.clone();
        }
        let count = self.known.len();
        let turn = (0..count).map(|step| (self.preferred + step) % count);
        let best = turn.min_by_key(|&at| {
            self.known.get(at).and_then(|known| known.avoid_until).filter(|until| *until > now)
        });
        self.preferred = best.unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there is at least one server")]
        self.known[self.preferred].server.clone()
    }

    /// Records that a replica failed, to avoid it for a while.
    pub(crate) fn failed(&mut self, server: &Server, now: Instant) {
        if let Some(at) = self.position(server) {
            if let Some(known) = self.known.get_mut(at) {
                known.avoid_until = Some(now + AVOID);
            }
            if self.leader == Some(at) {
                self.leader = None;
            }
        }
        self.refresh_after = None;
    }

    /// Whether there is a replica that has not just failed.
    pub(crate) fn is_one_ready(&self, now: Instant) -> bool {
        self.known.iter().any(|known| known.avoid_until.is_none_or(|until| until <= now))
    }

    /// Records that a replica answered.
    pub(crate) fn worked(&mut self, server: &Server) {
        let at = self.position(server);
        if let Some(known) = at.and_then(|at| self.known.get_mut(at)) {
            known.avoid_until = None;
        }
    }

    /// Whether the cluster's members should be queried; if so, other callers are not told to for a while.
    pub(crate) fn claim_refresh(&mut self, now: Instant) -> bool {
        let due = self.refresh_after.is_none_or(|after| after <= now);
        if due {
            // A short interval: if the answer is lost, another caller asks soon.
            self.refresh_after = Some(now + AVOID / 4);
        }
        due
    }

    /// Updates the list from a replica's description of the cluster.
    pub(crate) fn learned(&mut self, cluster: &ClusterStatus, now: Instant) {
        self.refresh_after = Some(now + if cluster.leader.is_some() { FRESH } else { AVOID / 4 });
        let members: Vec<(u64, Server)> =
            cluster.members.iter().filter_map(|m| Some((m.id, m.api.parse().ok()?))).collect();
        let mut at = 0;
        self.known.retain(|known| {
            at += 1;
            at <= self.configured || members.iter().any(|(_, server)| *server == known.server)
        });
        for (_, server) in &members {
            if self.position(server).is_none() && self.known.len() < KNOWN_MAX {
                self.known.push(Known { server: server.clone(), avoid_until: None });
            }
        }
        let leader = members.iter().find(|(id, _)| Some(*id) == cluster.leader);
        self.leader = leader.and_then(|(_, server)| self.position(server));
        self.preferred %= self.known.len().max(1);
    }

    /// All replicas, configured ones first.
    pub(crate) fn all(&self) -> Vec<Server> {
        self.known.iter().map(|known| known.server.clone()).collect()
    }

    fn position(&self, server: &Server) -> Option<usize> {
        self.known.iter().position(|known| known.server == *server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MemberStatus;

    fn server(port: u16) -> Server {
        Server::parse("127.0.0.1", port).unwrap()
    }

    fn cluster(leader: Option<u64>, ports: &[u16]) -> ClusterStatus {
        let members = ports.iter().map(|&port| MemberStatus {
            id: u64::from(port),
            api: format!("127.0.0.1:{port}"),
            ..MemberStatus::default()
        });
        ClusterStatus { leader, members: members.collect(), ..ClusterStatus::default() }
    }

    #[test]
    fn writes_go_to_the_leader_and_failures_move_on() {
        let now = Instant::now();
        let mut servers = Servers::new(vec![server(1), server(1), server(2)], 0);
        assert_eq!(servers.choose(true, now), server(1));
        servers.learned(&cluster(Some(3), &[1, 2, 3]), now);
        assert_eq!(servers.choose(true, now), server(3));
        assert_eq!(servers.choose(false, now), server(1));
        servers.failed(&server(3), now);
        assert_eq!(servers.choose(true, now), server(1));
        servers.failed(&server(1), now);
        assert_eq!(servers.choose(true, now), server(2));
        servers.failed(&server(2), now + AVOID / 2);
        // All have failed: the one whose avoidance ends first.
        assert_ne!(servers.choose(true, now + AVOID / 2), server(2));
        servers.worked(&server(2));
        assert_eq!(servers.choose(false, now + AVOID / 2), server(2));
    }

    #[test]
    fn members_that_left_are_forgotten_but_not_configured_servers() {
        let now = Instant::now();
        let mut servers = Servers::new(vec![server(9)], 7);
        servers.learned(&cluster(None, &[1, 2]), now);
        assert_eq!(servers.all(), [server(9), server(1), server(2)]);
        servers.learned(&cluster(Some(2), &[2]), now);
        assert_eq!(servers.all(), [server(9), server(2)]);
        assert_eq!(servers.choose(true, now), server(2));
    }

    #[test]
    fn the_cluster_is_asked_once_at_a_time() {
        let now = Instant::now();
        let mut servers = Servers::new(vec![server(1)], 0);
        assert!(servers.claim_refresh(now));
        assert!(!servers.claim_refresh(now));
        servers.learned(&cluster(Some(1), &[1]), now);
        assert!(!servers.claim_refresh(now + AVOID));
        assert!(servers.claim_refresh(now + FRESH));
        servers.failed(&server(1), now);
        assert!(servers.claim_refresh(now));
    }
}
