//! `romanad --join`: how a replica learns its identity. An operator has added it (`romana cluster add`),
//! so the cluster has a member with this replica's peer address that has not started. The replica takes that member's
//! id once and writes it to its data directory; later starts do not ask the cluster.
//!
//! `romanad --rejoin`: a replica whose data directory was lost asks for a place itself, as `romana cluster replace` does.
//! Under its old id it would have forgotten its votes; as a new member it has made none, and the old id is never used
//! again. The others agree by a majority without it. So there is no second cluster, whichever of them is asked.

use std::time::Duration;

use axum::http::{Request, StatusCode, request};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use romana_api::cluster::AddMemberBody;
use romana_api::{ErrorAnswer, header};
use romana_replica::{IdentityError, Owner, join, owner};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;

/// How long to keep asking the cluster.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A change of the members is committed first.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a replica cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster has no member for this replica.
    #[error(
        "the cluster did not take this replica in within {PATIENCE:?}: {why}; add it first: \
         romana cluster add {peer}"
    )]
    Unknown {
        peer: String,
        /// The last answer of the cluster.
        why: String,
    },
    /// The cluster knows this replica with other data, and gives it no new place.
    #[error(
        "this replica has lost its data directory, and the cluster gave it no new place at {peer} within {PATIENCE:?}: \
         {why}. A majority of the members must run without it"
    )]
    NotReplaced {
        peer: String,
        /// The last answer of the cluster.
        why: String,
    },
}

/// The fields used from `GET /v1/cluster`.
#[derive(Deserialize)]
struct Cluster {
    cluster_id: String,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    id: u64,
    peer: String,
    role: String,
    claimed: bool,
    #[serde(default)]
    healthy: bool,
}

/// What a cluster has at the peer address of a replica without data.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A member that has not started.
    New(u64),
    /// A member that had data, and does not run.
    Lost(u64),
    /// A member that runs.
    Running(u64),
    /// No member that has started: this replica is new.
    Nothing,
}

impl Cluster {
    /// Id of the member with a peer address.
    fn id_of(&self, peer: &str) -> Result<u64, String> {
        let here: Vec<&Member> = self.members.iter().filter(|member| member.peer == peer).collect();
        if let Some(new) = here.iter().find(|member| member.role == "learner" && !member.claimed) {
            return Ok(new.id);
        }
        Err(match here.last() {
            Some(Member { id, .. }) => {
                format!("the member at {peer} is replica {id}, which has started with other data")
            }
            None => format!("no member has the peer address {peer}"),
        })
    }

    /// What is at a peer address.
    fn place(&self, peer: &str) -> Place {
        if let Ok(id) = self.id_of(peer) {
            return Place::New(id);
        }
        let here = self.members.iter().filter(|member| member.peer == peer && member.claimed);
        match here.max_by_key(|member| member.id) {
            Some(member) if member.healthy => Place::Running(member.id),
            Some(member) => Place::Lost(member.id),
            None => Place::Nothing,
        }
    }
}

/// Completes the configuration of a joining replica with its id and its stored identity. Asks the
/// cluster if the data directory is new.
///
/// # Errors
/// [`JoinError`].
pub async fn prepare(config: &mut Config) -> Result<(), JoinError> {
    let found = owner(&config.data_dir)?;
    if found.is_none() && !config.rejoin.is_empty() {
        rejoin(config).await?;
    }
    // A founder that has lost its data once is a member that came later.
    let came_later = owner(&config.data_dir)?.is_some_and(|own| own.initial_cluster.is_empty());
    if config.join.is_empty() && came_later && !config.rejoin.is_empty() {
        config.join.clone_from(&config.rejoin);
    }
    if config.join.is_empty() {
        return Ok(());
    }
    if owner(&config.data_dir)?.is_none() {
        let (cluster, id) = ask_all(&config.join, &config.advertise_peer).await?;
        tracing::info!(cluster, id, "joining the cluster");
        join(&config.data_dir, cluster, id)?;
    }
    if let Some(Owner { id, initial_cluster }) = owner(&config.data_dir)? {
        config.id = id;
        config.initial_cluster = initial_cluster;
    }
    Ok(())
}

/// Asks the cluster for a new place, if it knows this replica with other data. Changes nothing if the replica is new, or
/// if no server answers: then the other replicas are asked whether they know it, before it starts.
async fn rejoin(config: &Config) -> Result<(), JoinError> {
    let peer = &config.advertise_peer;
    let (end, mut said, mut heard) = (Instant::now() + PATIENCE, String::new(), false);
    loop {
        let mut whys = Vec::new();
        for server in &config.rejoin {
            match ask(server).await {
                Err(why) => whys.push(format!("{server}: {why}")),
                Ok(cluster) => match cluster.place(peer) {
                    Place::New(id) => {
                        tracing::warn!(id, "the data directory was lost: joining as a new member");
                        return Ok(join(&config.data_dir, cluster.cluster_id, id)?);
                    }
                    Place::Nothing => return Ok(()),
                    Place::Running(id) => {
                        heard = true;
                        whys.push(format!("{server}: replica {id} still runs at {peer}"));
                    }
                    Place::Lost(id) => {
                        heard = true;
                        tracing::warn!(id, "the data directory was lost: replacing this replica");
                        let replaced = replace(server, peer, id).await;
                        whys.extend(replaced.err().map(|why| format!("{server}: {why}")));
                    }
                },
            }
        }
        if !heard {
            return Ok(());
        }
        let why = whys.join("; ");
        if Instant::now() >= end {
            return Err(JoinError::NotReplaced { peer: peer.clone(), why });
        }
        if why != said && !why.is_empty() {
            tracing::info!(why, "no new place yet: waiting");
            said = why;
        }
        sleep(PAUSE).await;
    }
}

/// Adds a member in the place of another one at the same address.
async fn replace(server: &str, peer: &str, id: u64) -> Result<(), String> {
    let body = AddMemberBody { peer: peer.into(), replaces: Some(id), force: false };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let request = Request::post("/v1/cluster/members")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .header(header::ACTOR, "replica");
    let answered = timeout(REPLACE_TIMEOUT, call(server, request, body.into())).await;
    let (status, body) =
        answered.map_err(|_| String::from("no answer"))?.map_err(|error| error.to_string())?;
    match status.is_success() {
        true => Ok(()),
        false => {
            let error: Option<ErrorAnswer> = serde_json::from_slice(&body).ok();
            Err(error.map_or_else(|| format!("status {status}"), |answer| answer.error.message))
        }
    }
}

async fn ask_all(servers: &[String], peer: &str) -> Result<(String, u64), JoinError> {
    let end = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        let mut whys = Vec::new();
        for server in servers {
            match ask(server)
                .await
                .and_then(|cluster| Ok((cluster.id_of(peer)?, cluster.cluster_id)))
            {
                Ok((id, cluster)) => return Ok((cluster, id)),
                Err(why) => whys.push(format!("{server}: {why}")),
            }
        }
        if Instant::now() >= end {
            return Err(JoinError::Unknown { peer: peer.into(), why: whys.join("; ") });
        }
        let why = whys.join("; ");
        // Asked several times a second: log only when the answer changes.
        if why != said {
            tracing::info!(why, "not a member yet: waiting");
            said = why;
        }
        sleep(PAUSE).await;
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Requests the cluster from a server, given as `host:port`.
async fn ask(server: &str) -> Result<Cluster, String> {
    let asked = timeout(ASK_TIMEOUT, call(server, Request::get("/v1/cluster"), Bytes::new())).await;
    let (status, body) =
        asked.map_err(|_| String::from("no answer"))?.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("status {status}"));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

/// Sends a request to a server. Returns status and body of the answer.
async fn call(
    server: &str,
    request: request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), AnyError> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header(hyper::header::HOST, server).body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    Ok((status, body?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_known_by_its_address_until_it_has_started() {
        let member = |id, role: &str, claimed| Member {
            id,
            peer: "h:1".into(),
            role: role.into(),
            claimed,
            healthy: false,
        };
        let cluster = |members| Cluster { cluster_id: "c".into(), members };
        let lost = || member(3, "follower", true);
        assert_eq!(cluster(vec![lost(), member(4, "learner", false)]).id_of("h:1"), Ok(4));
        let why = cluster(vec![lost()]).id_of("h:1").unwrap_err();
        assert!(why.contains("replica 3"), "{why}");
        assert!(cluster(vec![lost()]).id_of("h:2").unwrap_err().contains("no member"));
        // Who has lost its data asks for a new place, unless it runs, or has never had any.
        let place = |members| cluster(members).place("h:1");
        assert_eq!(place(vec![lost()]), Place::Lost(3));
        assert_eq!(place(vec![lost(), member(4, "learner", false)]), Place::New(4));
        assert_eq!(place(vec![Member { healthy: true, ..lost() }]), Place::Running(3));
        assert_eq!(place(vec![lost(), member(4, "learner", true)]), Place::Lost(4));
        assert_eq!(
            place(vec![member(3, "follower", false)]),
            Place::Nothing,
            "a founder that is new"
        );
        assert_eq!(cluster(vec![lost()]).place("h:2"), Place::Nothing);
    }
}
