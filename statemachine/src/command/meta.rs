//! Properties of each kind of command: one table, a row per command.

use super::Command;
use crate::entry::Term;
use crate::event::Topic;

/// Properties of a kind of command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandMeta {
    /// The variant's name, as in JSON.
    pub name: &'static str,
    /// The version that introduced it. A cluster at an earlier version refuses it.
    pub since: u16,
    /// Whether applying it twice has the same effect as once: it states a desired value, or is keyed by a name. It
    /// may be retried when the outcome of the first attempt is unknown. The second attempt of any other command is
    /// refused, which would hide that the first one succeeded.
    pub idempotent: bool,
    /// Whether `POST /v1/batch` accepts it. Others have a path of their own with additional checks, or are not for
    /// clients at all.
    pub batchable: bool,
    /// Who proposes it.
    pub access: Access,
    /// The topic of the objects that it changes.
    pub topic: Topic,
}

/// Who proposes a command. Each may also propose the commands of those listed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// The agent of the host concerned.
    Agent,
    /// Operators, and orchestrators on their behalf.
    Operator,
    /// A replica, about itself.
    Replica,
    /// A leader task. The command carries the term in which the task decided, and is refused in a later term.
    Leader,
}

macro_rules! commands {
    (@yes) => { true };
    (@no) => { false };
    (@row $name:ident $since:literal $idempotent:ident $batch:ident $access:ident $topic:ident) => {
        CommandMeta {
            name: stringify!($name),
            since: $since,
            idempotent: commands!(@$idempotent),
            batchable: commands!(@$batch),
            access: Access::$access,
            topic: Topic::$topic,
        }
    };
    ($($name:ident $since:literal $idempotent:ident $batch:ident $access:ident $topic:ident;)*) => {
        impl Command {
            /// Properties of all commands, in the order of the wire form.
            pub const TABLE: &[CommandMeta] =
                &[$(commands!(@row $name $since $idempotent $batch $access $topic),)*];

            /// Properties of the command's kind.
            #[must_use]
            pub fn meta(&self) -> &'static CommandMeta {
                match self {
                    $(Self::$name(_) => {
                        const { &commands!(@row $name $since $idempotent $batch $access $topic) }
                    })*
                }
            }
        }
    };
}

commands! {
//  command              since  idempotent  batch  access    topic
    SetTopology          1      yes         yes    Operator  Topology;
    AddBlackout          1      yes         yes    Operator  Topology;
    RemoveBlackout       1      no          yes    Operator  Topology;
    ChangeSettings       1      yes         yes    Operator  Topology;
    RaiseVersion         1      yes         no     Operator  Topology;
    AddHost              1      yes         yes    Agent     Hosts;
    UpdateHost           1      yes         yes    Agent     Hosts;
    SetHostState         1      yes         yes    Operator  Hosts;
    RemoveHost           1      no          yes    Operator  Hosts;
    ReportHost           1      yes         yes    Agent     Addresses;
    AllocateAddress      1      yes         yes    Agent     Addresses;
    ReleaseAddress       1      yes         yes    Agent     Addresses;
    CreateTenant         1      yes         yes    Operator  Tenants;
    DeleteTenant         1      no          yes    Operator  Tenants;
    CreateSegment        1      yes         yes    Operator  Tenants;
    DeleteSegment        1      no          yes    Operator  Tenants;
    SetPolicy            1      yes         yes    Operator  Policies;
    RemovePolicy         1      no          yes    Operator  Policies;
    SetEndpoint          1      yes         yes    Operator  Endpoints;
    RemoveEndpoint       1      yes         yes    Operator  Endpoints;
    RequestVip           1      yes         yes    Operator  Vips;
    AssignVip            1      yes         yes    Leader    Vips;
    UnassignVip          1      no          yes    Leader    Vips;
    RemoveVip            1      no          yes    Operator  Vips;
    AssignRouter         1      yes         yes    Leader    Routers;
    UnassignRouter       1      no          yes    Leader    Routers;
    EndCooldowns         1      yes         yes    Leader    Addresses;
    SetRetention         2      yes         yes    Operator  Cluster;
    SignCheckpoint       2      no          no     Leader    Cluster;
    AddMember            2      yes         no     Operator  Cluster;
    ClaimMember          2      yes         no     Replica   Cluster;
    RemoveMember         2      yes         no     Operator  Cluster;
    ResumeAllocation     2      yes         yes    Operator  Cluster;
    ReportAttachments    3      yes         yes    Agent     Addresses;
    ClaimReserve         3      yes         yes    Agent     Addresses;
    ChangeAgentSettings  3      yes         yes    Operator  Topology;
    EndHold              3      yes         yes    Leader    Cluster;
    EnrolAgent           4      yes         yes    Agent     Hosts;
    ReserveServices      4      yes         yes    Operator  Topology;
    ImportObject         4      yes         yes    Leader    Sources;
    WithdrawObject       4      no          yes    Leader    Sources;
    FollowKubernetes     4      yes         yes    Operator  Sources;
    PlaceVip             4      no          no     Leader    Vips;
    SetVipPools          4      yes         yes    Operator  Topology;
    RequestVipFromPool   4      yes         yes    Operator  Vips;
}

impl Command {
    /// The term in which a leader task decided it. All commands of [`Access::Leader`] have one, and
    /// [`Command::SetHostState`] and [`Command::FollowKubernetes`] when a task proposes them.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        match self {
            Self::SetHostState(change) => change.term,
            Self::AssignVip(assign) => Some(assign.term),
            Self::UnassignVip(unassign) => Some(unassign.term),
            Self::AssignRouter(assign) => Some(assign.term),
            Self::UnassignRouter(unassign) => Some(unassign.term),
            Self::EndCooldowns(end) => Some(end.term),
            Self::SignCheckpoint(sign) => Some(sign.term),
            Self::EndHold(end) => Some(end.term),
            Self::ImportObject(import) => Some(import.term),
            Self::WithdrawObject(withdraw) => Some(withdraw.term),
            Self::FollowKubernetes(follow) => follow.term,
            Self::PlaceVip(place) => Some(place.term),
            _ => None,
        }
    }
}
