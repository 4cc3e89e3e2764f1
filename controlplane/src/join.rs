//! `romanad --join`: how a replica learns its identity. An operator has added it (`romana cluster add`),
//! so the cluster has a member with this replica's peer address that has not started. The replica takes that member's
//! id once and writes it to its data directory; later starts do not ask the cluster.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use romana_replica::{IdentityError, Owner, join, owner};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;

/// How long to keep asking the cluster.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
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
}

/// Completes the configuration of a joining replica with its id and its stored identity. Asks the
/// cluster if the data directory is new.
///
/// # Errors
/// [`JoinError`].
pub async fn prepare(config: &mut Config) -> Result<(), JoinError> {
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

async fn ask_all(servers: &[String], peer: &str) -> Result<(String, u64), JoinError> {
    let end = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        let mut whys = Vec::new();
        for server in servers {
            let asked = timeout(ASK_TIMEOUT, ask(server)).await;
            let asked = asked.unwrap_or_else(|_| Err("no answer".into()));
            let found = asked.map_err(|error| error.to_string());
            match found.and_then(|cluster| Ok((cluster.id_of(peer)?, cluster.cluster_id))) {
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
async fn ask(server: &str) -> Result<Cluster, AnyError> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/v1/cluster")
        .header(hyper::header::HOST, server)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    if !status.is_success() {
        return Err(format!("status {status}").into());
    }
    Ok(serde_json::from_slice(&body?.to_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_known_by_its_address_until_it_has_started() {
        let member =
            |id, role: &str, claimed| Member { id, peer: "h:1".into(), role: role.into(), claimed };
        let cluster = |members| Cluster { cluster_id: "c".into(), members };
        let lost = || member(3, "follower", true);
        assert_eq!(cluster(vec![lost(), member(4, "learner", false)]).id_of("h:1"), Ok(4));
        let why = cluster(vec![lost()]).id_of("h:1").unwrap_err();
        assert!(why.contains("replica 3"), "{why}");
        assert!(cluster(vec![lost()]).id_of("h:2").unwrap_err().contains("no member"));
    }
}
