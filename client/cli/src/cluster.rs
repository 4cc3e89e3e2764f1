//! `romana cluster`.

use clap::Subcommand;
use romana_api::Changed;
use romana_api::cluster::{
    AddMemberBody, ClusterStatus, Leader, MemberStatus, NewMember, RaiseBody, Raised, TransferBody,
};
use romana_client::Query;
use romana_statemachine::command::ResumeAllocation;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell};

const PATH: &str = "/v1/cluster";
const MEMBERS: &str = "/v1/cluster/members";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the replicas, the leader and the lag of each replica
    #[command(visible_alias = "show")]
    Status,
    /// Add a replica; it votes once it has started and caught up
    Add {
        /// Address at which the other replicas reach it
        #[arg(value_name = "HOST:PORT")]
        peer: String,
    },
    /// Remove a replica; its id is never used again
    #[command(visible_alias = "delete")]
    Remove {
        /// Id of the replica
        id: u64,
        /// Do it even if too few healthy replicas remain
        #[arg(long)]
        force: bool,
    },
    /// Replace a replica that lost its data by a new one
    Replace {
        /// Id of the replica to replace
        id: u64,
        /// Address at which the other replicas reach the new one [default: that of the old one]
        #[arg(value_name = "HOST:PORT")]
        peer: Option<String>,
        /// Do it even if too few healthy replicas remain
        #[arg(long)]
        force: bool,
    },
    /// Transfer leadership to another replica
    Transfer {
        /// Id of the new leader [default: the healthy replica with the smallest lag]
        id: Option<u64>,
    },
    /// After a restore: resume allocation without waiting for the remaining hosts
    Resume,
    /// Enable the behaviour that all replicas support; this happens automatically once all agents
    /// support it, too
    RaiseVersion {
        /// Do it even if an agent does not support it
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Status => {
                let status = ctx.get(Query::new(PATH)).await?;
                ctx.out.show(&status, table)?;
                status.value.leader.map(|_| ()).ok_or(Failure::NoLeader)
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
                let query = Query::new("/v1/cluster/transfer");
                let answer: Answer<Leader> = ctx.post(query, &body, false).await?;
                ctx.out.done(&answer, format!("replica {} leads", answer.value.leader))
            }
            Self::Resume => {
                let query = Query::new("/v1/cluster/resume");
                let answer: Answer<Changed> = ctx.post(query, &ResumeAllocation {}, true).await?;
                ctx.out.done(&answer, resumed(answer.value))
            }
            Self::RaiseVersion { force } => {
                let body = RaiseBody { force };
                let query = Query::new("/v1/cluster/version");
                let answer: Answer<Raised> = ctx.post(query, &body, true).await?;
                ctx.out.done(&answer, format!("version {} is on", answer.value.version))
            }
        }
    }
}

/// What became of `romana cluster resume`.
fn resumed(answer: Changed) -> &'static str {
    match answer.changed {
        true => "allocation goes on",
        false => "allocation was not held: nothing to resume",
    }
}

/// Adds a member, possibly to replace another one, and prints how to start it.
async fn add(ctx: &Context, peer: &str, replaces: Option<u64>, force: bool) -> Result<(), Failure> {
    let body = AddMemberBody { peer: peer.into(), replaces, force };
    let answer: Answer<NewMember> = ctx.post(Query::new(MEMBERS), &body, true).await?;
    let (id, start) = (answer.value.id, cell(&answer.value.start));
    ctx.out.done(&answer, format!("replica {id} added at {peer}; start it there:\n  {start}"))
}

/// The peer address of a member. An unknown id is an error, so that a typing error replaces no member.
async fn peer_of(ctx: &Context, id: u64) -> Result<String, Failure> {
    let status: Answer<ClusterStatus> = ctx.get(Query::new(PATH)).await?;
    let member = status.value.members.into_iter().find(|member| member.id == id);
    let unknown = || {
        let hint = "romana cluster status shows the replicas.";
        Failure::not_found("MemberNotFound", format!("the cluster has no replica {id}"), hint)
    };
    member.map(|member| member.peer).ok_or_else(unknown)
}

/// Whether a member is healthy, and the codes of its problems.
fn health(member: &MemberStatus) -> String {
    let healthy = if member.healthy { "yes" } else { "no" };
    let codes: Vec<String> = member.problems.iter().map(|problem| cell(&problem.code)).collect();
    if codes.is_empty() { healthy.into() } else { format!("{healthy} ({})", codes.join(", ")) }
}

fn table(status: &ClusterStatus) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "HEALTHY", "LAG", "API", "PEER"], "no members");
    for member in &status.members {
        let tone = match (member.healthy, status.leader == Some(member.id)) {
            (false, _) => Tone::Bad,
            (true, true) => Tone::Good,
            (true, false) => Tone::Plain,
        };
        let cells = vec![
            cell(member.id),
            member.role.as_str().into(),
            health(member),
            cell(member.lag),
            cell(&member.api),
            cell(&member.peer),
        ];
        table.toned(tone, cells);
    }
    let leader = status.leader.map_or_else(|| "no leader".into(), |id| format!("leader {id}"));
    let ClusterStatus { cluster_id, term, revision, .. } = status;
    let cluster = cell(cluster_id);
    table.note(format!("cluster {cluster}: {leader}, term {term}, revision {revision}"));
    table
}

#[cfg(test)]
mod tests {
    use romana_api::cluster::{MemberProblem, Role};
    use romana_statemachine::Term;

    use super::*;

    #[test]
    fn health_and_problems_are_shown() {
        let problem = MemberProblem { code: "OlderCopy".into(), ..MemberProblem::default() };
        let leader = MemberStatus {
            id: 1,
            api: "http://h1:9600".into(),
            peer: "h1:9601".into(),
            role: Role::Leader,
            healthy: true,
            ..MemberStatus::default()
        };
        let ill =
            MemberStatus { id: 2, lag: 7, problems: vec![problem], ..MemberStatus::default() };
        let mut status = ClusterStatus {
            cluster_id: "c\u{1b}".into(),
            leader: Some(1),
            term: Term(5),
            members: vec![leader, ill],
            ..ClusterStatus::default()
        };
        let text = table(&status).render();
        let (good, bad) = ("\u{1b}[32m", "\u{1b}[31m");
        assert!(text.contains(&format!("{good} 1  leader   yes")), "{text}");
        assert!(text.contains(&format!("{bad} 2  unknown  no (OlderCopy)    7  -")), "{text}");
        assert!(text.ends_with("cluster c\\u{1b}: leader 1, term 5, revision 0\n"), "{text}");
        status.leader = None;
        assert!(table(&status).render().contains(": no leader, term 5"));
    }
}
