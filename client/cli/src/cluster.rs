//! `romana cluster`.

use clap::Subcommand;
use romana_api::cluster::{AddMemberBody, RaiseBody, TransferBody};
use romana_client::Query;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::{CHANGED, CLUSTER, Kind, Shape};
use crate::table::{Table, Tone, cell, items};

/// The leader after a transfer.
const LEADER: Shape = Shape::new(&[("leader", Kind::Number)]);
/// The version after it was raised.
const RAISED: Shape = Shape::new(&[("version", Kind::Number)]);
/// A member that was added.
const NEW_MEMBER: Shape = Shape::new(&[("id", Kind::Number), ("start", Kind::Text)]);

const PATH: &str = "/v1/cluster";
const MEMBERS: &str = "/v1/cluster/members";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the replicas, the leader and how far each is
    #[command(visible_alias = "show")]
    Status,
    /// Add a replica; it votes when it has started and caught up
    Add {
        /// Where the others will reach it
        #[arg(value_name = "HOST:PORT")]
        peer: String,
    },
    /// Remove a replica; its id is never used again
    #[command(visible_alias = "delete")]
    Remove {
        /// Its id
        id: u64,
        /// Even if too few healthy replicas are left
        #[arg(long)]
        force: bool,
    },
    /// Put a new replica in the place of one that lost its data
    Replace {
        /// Id of the old one
        id: u64,
        /// Where the others will reach the new one [default: where the old one was]
        #[arg(value_name = "HOST:PORT")]
        peer: Option<String>,
        /// Even if too few healthy replicas are left
        #[arg(long)]
        force: bool,
    },
    /// Hand leadership over
    Transfer {
        /// Who is to lead [default: the healthy replica that is furthest]
        id: Option<u64>,
    },
    /// After a restore: allocate without waiting for more hosts
    Resume,
    /// Switch on what all replicas know; by itself that waits for the agents, too
    RaiseVersion {
        /// Even if an agent does not know it
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Status => {
                let status = ctx.get(Query::new(PATH), CLUSTER).await?;
                ctx.out.show(&status, || table(&status))?;
                match status.get("leader") {
                    None | Some(Value::Null) => Err(Failure::NoLeader),
                    Some(_) => Ok(()),
                }
            }
            Self::Add { peer } => add(ctx, &peer, None, false).await,
            Self::Remove { id, force } => {
                let query = Query::new(MEMBERS).segment(id);
                let query = query.with("force", force.then_some(true));
                let answer = ctx.delete(query, true).await?;
                ctx.out.done(&answer, format!("replica {id} removed"))
            }
            Self::Replace { id, peer: Some(peer), force } => add(ctx, &peer, Some(id), force).await,
            Self::Replace { id, peer: None, force } => {
                let peer = peer_of(ctx, id).await?;
                add(ctx, &peer, Some(id), force).await
            }
            Self::Transfer { id } => {
                let body = TransferBody { to: id };
                let answer =
                    ctx.post(Query::new("/v1/cluster/transfer"), &body, false, LEADER).await?;
                let leader = cell(&answer, "/leader");
                ctx.out.done(&answer, format!("replica {leader} leads"))
            }
            Self::Resume => {
                let answer =
                    ctx.post(Query::new("/v1/cluster/resume"), &json!({}), true, CHANGED).await?;
                ctx.out.done(&answer, "allocation goes on")
            }
            Self::RaiseVersion { force } => {
                let body = RaiseBody { force };
                let answer =
                    ctx.post(Query::new("/v1/cluster/version"), &body, true, RAISED).await?;
                let version = cell(&answer, "/version");
                ctx.out.done(&answer, format!("version {version} is on"))
            }
        }
    }
}

/// Adds a member, possibly to replace another one, and prints how to start it.
async fn add(ctx: &Context, peer: &str, replaces: Option<u64>, force: bool) -> Result<(), Failure> {
    let body = AddMemberBody { peer: peer.into(), replaces, force };
    let answer = ctx.post(Query::new(MEMBERS), &body, true, NEW_MEMBER).await?;
    let (id, start) = (cell(&answer, "/id"), cell(&answer, "/start"));
    ctx.out.done(&answer, format!("replica {id} added at {peer}; start it there:\n  {start}"))
}

/// The peer address of a member. An unknown id is an error, so that a typing error replaces no member.
async fn peer_of(ctx: &Context, id: u64) -> Result<String, Failure> {
    let status = ctx.get(Query::new(PATH), CLUSTER).await?;
    let members = status.get("members").map(items).unwrap_or_default();
    let member = members.iter().find(|member| member.get("id") == Some(&json!(id)));
    let peer = member.and_then(|member| member.get("peer")).and_then(Value::as_str);
    let unknown = || Failure::usage(format!("the cluster has no replica {id}"));
    peer.map(Into::into).ok_or_else(unknown)
}

/// Appends the codes of the member's problems.
fn with_problems(healthy: &str, member: &Value) -> String {
    let problems = member.get("problems").map(items).unwrap_or_default();
    let codes: Vec<String> = problems.iter().map(|problem| cell(problem, "/code")).collect();
    if codes.is_empty() { healthy.into() } else { format!("{healthy} ({})", codes.join(", ")) }
}

fn table(status: &Value) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "HEALTHY", "LAG", "API", "PEER"], "no members");
    for member in status.get("members").map(items).unwrap_or_default() {
        let healthy = member.get("healthy").and_then(Value::as_bool);
        let leads =
            status.get("leader").is_some_and(|id| !id.is_null() && Some(id) == member.get("id"));
        let (tone, healthy) = match (healthy, leads) {
            (Some(false), _) => (Tone::Bad, "no"),
            (_, true) => (Tone::Good, "yes"),
            (Some(true), false) => (Tone::Plain, "yes"),
            (None, false) => (Tone::Plain, "-"),
        };
        table.toned(
            tone,
            vec![
                cell(member, "/id"),
                cell(member, "/role"),
                with_problems(healthy, member),
                cell(member, "/lag"),
                cell(member, "/api"),
                cell(member, "/peer"),
            ],
        );
    }
    let leader = match cell(status, "/leader") {
        none if none == "-" => String::from("no leader"),
        id => format!("leader {id}"),
    };
    let (cluster, term) = (cell(status, "/cluster_id"), cell(status, "/term"));
    table.note(format!(
        "cluster {cluster}: {leader}, term {term}, revision {}",
        cell(status, "/revision")
    ));
    table
}
