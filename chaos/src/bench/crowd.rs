//! Endpoints with labels on several hosts, and policies that select them by labels: a change of another
//! policy must not cost more because of them.

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream::iter;
use romana_client::Client;
use romana_statemachine::command::{Endpoint, HostSource, HostSpec, Labels, TenantSpec};
use romana_statemachine::policy::party::KUBERNETES_NAMESPACE;
use romana_statemachine::policy::{
    Peer, Policy, Port, Protocol, Rule, Selector, Target, TenantSelector, Traffic,
};

/// Number of endpoints and policies.
pub(super) const ENDPOINTS: usize = 2_000;
pub(super) const POLICIES: usize = 500;
/// Namespaces, and apps in each.
const TENANTS: usize = 20;
const APPS: usize = 10;
/// Every so many-th round of namespaces is on the host under test, so that it has some of
/// each namespace and of each app.
const HERE: usize = 7;
/// Concurrent requests.
const AT_ONCE: usize = 64;

fn tenant(n: usize) -> String {
    format!("crowd{}", n % TENANTS)
}

fn labels(n: usize) -> Labels {
    Labels::from([("app".into(), format!("app{}", n % APPS))])
}

fn selector(n: usize) -> Selector {
    Selector { labels: labels(n), expressions: Vec::new() }
}

fn endpoint(n: usize) -> Endpoint {
    let [_, _, high, low] = u32::try_from(n).unwrap_or(0).to_be_bytes();
    Endpoint {
        ip: [10, 250, high, low].into(),
        tenant: tenant(n).into(),
        segment: "default".into(),
        host: if (n / TENANTS).is_multiple_of(HERE) { "h1" } else { "far" }.into(),
        labels: labels(n / TENANTS),
        ports: Vec::new(),
    }
}

/// A policy from one app of a namespace to another one, for one port.
fn policy(n: usize) -> Policy {
    let peer = Peer::Endpoints {
        tenants: TenantSelector::Id(tenant(n).into()),
        endpoints: selector(n / TENANTS + 1),
    };
    let port = Port::Number(u16::try_from(1_000 + n).unwrap_or(1));
    let traffic = Traffic { protocol: Protocol::Tcp, ports: vec![port], icmp: None };
    Policy {
        name: format!("crowd{n}").into(),
        description: String::new(),
        applied_to: vec![Target::Endpoints(tenant(n).into(), selector(n / TENANTS))],
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![Rule { peers: vec![peer], traffic: vec![traffic] }],
        egress: Vec::new(),
    }
}

/// Commits all of them.
pub(super) async fn gather(client: &Client) -> Result<()> {
    let (name, ip, source) = ("far".into(), [10, 77, 0, 99].into(), HostSource::Operator);
    let (addresses, labels, info) = Default::default();
    client.add_host(HostSpec { name, ip, addresses, labels, info, source }).await?;
    for n in 0..TENANTS {
        let labels = Labels::from([(KUBERNETES_NAMESPACE.into(), tenant(n))]);
        client.set_tenant(TenantSpec { id: tenant(n).into(), labels }).await?;
    }
    let asked = iter((0..ENDPOINTS).map(|n| client.set_endpoint(endpoint(n))));
    let done: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
    done.into_iter().collect::<Result<Vec<_>, _>>()?;
    let asked = iter((0..POLICIES).map(|n| client.set_policy(policy(n))));
    let done: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
    done.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}
