//! `/v1/verdict`: whether a connection is allowed, and which policies decide.

use std::net::IpAddr;

use romana_api::verdict::{RuleAt, Verdict, VerdictEnd, VerdictSide};
use romana_statemachine::State;
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::policy::evaluate::{Side, verdict};
use romana_statemachine::policy::party::{Party, Transport};

use super::call::Call;
use super::operation::{CONSISTENCY, Operation, Param, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/verdict",
    "policies",
    "Whether a connection may be opened, and which policies decide.",
    &[(200, of::<Verdict>)],
    handler!(get),
)
.query(&[
    Param::required("source", "Who opens it: an IP address, or the name of an address or a host"),
    Param::required("destination", "Who accepts it: likewise"),
    Param::required("traffic", "tcp/PORT, udp/PORT, sctp/PORT, icmp, icmp/TYPE/CODE or other"),
    CONSISTENCY,
])];

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let [source, destination] = ["source", "destination"].map(|name| at(&call, &state, name));
    let (source, destination) = (source?, destination?);
    let malformed =
        |name: &str, why: String| Failure::new(Code::MalformedQuery, why).with("parameter", name);
    if source.is_ipv4() != destination.is_ipv4() {
        let why = format!(
            "{source} and {destination} are of different families: no packet goes between them"
        );
        return Err(malformed("destination", why));
    }
    let traffic = call.query("traffic").unwrap_or_default();
    let packet = Transport::parse(traffic, source.is_ipv4());
    let packet = packet.map_err(|why| malformed("traffic", why))?;
    let found = verdict(&state, source, destination, packet);
    let revision = state.revision();
    let answer = Verdict {
        allowed: found.is_allowed(),
        traffic: traffic.into(),
        source: end(&state, source),
        destination: end(&state, destination),
        egress: judged(found.egress),
        ingress: judged(found.ingress),
        revision,
    };
    reply::ok(revision, &answer)
}

/// An address, given directly or by name.
fn at(call: &Call, state: &State, parameter: &str) -> Result<IpAddr, Failure> {
    let text = call.query(parameter).unwrap_or_default();
    let named = || {
        let address = state.ipam().by_name(&AddressName::from(text)).map(|found| found.ip);
        address.or_else(|| Some(state.host(&HostName::from(text))?.ip))
    };
    text.parse().ok().or_else(named).ok_or_else(|| {
        let why = format!("{text:?} is no IP address, and no address or host has this name");
        Failure::new(Code::MalformedQuery, why).with("parameter", parameter)
    })
}

fn end(state: &State, ip: IpAddr) -> VerdictEnd {
    let party = Party::at(state, ip);
    let host = party.host().map(ToString::to_string);
    let name = state.ipam().by_ip(ip).map(|found| found.name.to_string());
    let (kind, tenant, segment) = match &party {
        Party::Endpoint { identity, .. } => {
            let owner = (identity.tenant.to_string(), identity.segment.to_string());
            ("endpoint", Some(owner.0), Some(owner.1))
        }
        Party::Host(_) => ("host", None, None),
        Party::Other => ("other", None, None),
    };
    VerdictEnd { ip, kind: kind.into(), name, tenant, segment, host }
}

fn judged(side: Side) -> VerdictSide {
    let rule = |(policy, rule): (romana_statemachine::name::PolicyName, usize)| RuleAt {
        policy: policy.to_string(),
        rule: rule as u64,
    };
    VerdictSide {
        open: side.why.is_open(),
        why: side.why.to_string(),
        isolating: side.isolating.iter().map(ToString::to_string).collect(),
        allowing: side.allowing.into_iter().map(rule).collect(),
    }
}
