//! Adds this host to the cluster, if that is asked for, and keeps its addresses there true; in any case
//! says there that it has an agent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use romana_client::model::Host;
use romana_client::{Client, Error};
use romana_daemon::reconcile::{Pass, Reconcile, Schedule};
use romana_statemachine::agent::AGENT_INFO;
use romana_statemachine::command::{HostChange, HostSource, HostSpec, Labels};
use rtnetlink::Handle;
use tokio::sync::watch;

use crate::config::{Config, Registration};
use crate::enrol::Enrolment;
use crate::follow::Seen;
use crate::kernel::facts;

/// How often it looks whether the addresses are still right.
const PERIOD: Duration = Duration::from_secs(30);
/// So many addresses of other hosts are asked for the way to them.
const OTHERS_ASKED: usize = 16;
/// When it looks. How long another agent of this host has been silent is measured by asking: failures do not put
/// that off.
pub const SCHEDULE: Schedule = Schedule { period: Some(PERIOD), retry: RETRY, retry_max: RETRY };
const RETRY: Duration = Duration::from_secs(1);

/// Registers the host, if it is to be registered, has this agent speak for it, and looks after its facts.
pub struct Registrar {
    /// How to register.
    pub config: Config,
    /// What this agent is called.
    pub enrolment: Arc<Enrolment>,
    /// The control plane.
    pub client: Client,
    /// The kernel.
    pub handle: Handle,
    /// The view of the cluster.
    pub seen: watch::Receiver<Seen>,
}

impl Reconcile for Registrar {
    const PART: &'static str = "registration";
    const DROPPED_AT_STOP: bool = true;

    async fn pass(&mut self) -> Pass {
        let Self { config, enrolment, client, handle, seen } = self;
        match look(config, enrolment, client, handle, seen).await {
            Ok(()) => Pass::default(),
            Err(why) => Pass::failed(format!("this host is not registered yet: {why}")),
        }
    }

    async fn wake(&mut self) {
        self.enrolment.refused.notified().await;
    }
}

/// The host is there, this agent speaks for it, and its facts are true: in this order, so that one of two
/// agents changes nothing.
async fn look(
    config: &Config,
    enrolment: &Enrolment,
    client: &Client,
    handle: &Handle,
    seen: &watch::Receiver<Seen>,
) -> Result<(), String> {
    let ips = match &config.register {
        Some(registration) => Some(addresses(config, registration, handle, seen).await?),
        None => None,
    };
    let known = match (client.host(&config.host).await, &config.register, &ips) {
        (Ok(host), ..) => Some(host),
        (Err(Error::Refused(error)), Some(registration), Some(ips)) if error.status == 404 => {
            add(config, registration, ips, client).await?;
            enrolment.forget();
            None
        }
        (Err(error), ..) => return Err(error.to_string()),
    };
    enrolment.ask(client).await?;
    let Some(host) = known else { return Ok(()) };
    let as_known = std::iter::once(host.ip).chain(host.addresses.iter().copied()).collect();
    let ips = ips.unwrap_or(as_known);
    let Some((ip, further)) = ips.split_first() else { return Ok(()) };
    if let Some(change) = change(&host, *ip, further, own_info()) {
        client.update_host(change).await.map_err(|error| error.to_string())?;
        tracing::info!(host = %config.host, %ip, "registration changed");
    }
    Ok(())
}

/// What this program says of itself among its host's facts.
fn own_info() -> Labels {
    Labels::from([(AGENT_INFO.into(), env!("CARGO_PKG_VERSION").into())])
}

/// Addresses to register, the main one first; one at least.
async fn addresses(
    config: &Config,
    registration: &Registration,
    handle: &Handle,
    seen: &watch::Receiver<Seen>,
) -> Result<Vec<IpAddr>, String> {
    let ips = match &registration.ips[..] {
        [] => {
            let others = others(config, seen)?;
            facts::own_addresses(handle, &others).await.map_err(|error| error.to_string())?
        }
        given => given.to_vec(),
    };
    if ips.is_empty() {
        return Err("it has no address on the link of its default route: give --host-ip".into());
    }
    Ok(ips)
}

/// Addresses at which the others are: hosts, and after them replicas.
fn others(config: &Config, seen: &watch::Receiver<Seen>) -> Result<Vec<IpAddr>, String> {
    let seen = seen.borrow();
    let view = seen.view.as_ref().filter(|_| seen.caught_up);
    let view = view.ok_or("the cluster is not known yet")?;
    let hosts = view.hosts.iter().filter(|(name, _)| **name != config.host);
    let hosts = hosts.flat_map(|(_, host)| host.ips.iter().copied()).take(OTHERS_ASKED);
    let servers = config.servers.iter().filter_map(|server| server.host().parse().ok());
    Ok(hosts.chain(servers).filter(|ip: &IpAddr| !ip.is_loopback()).collect())
}

async fn add(
    config: &Config,
    registration: &Registration,
    ips: &[IpAddr],
    client: &Client,
) -> Result<(), String> {
    let Some((ip, further)) = ips.split_first() else { return Ok(()) };
    let (name, labels) = (config.host.clone(), registration.labels.clone());
    let (addresses, source) = (further.to_vec(), HostSource::Operator);
    let spec = HostSpec { name, ip: *ip, addresses, labels, info: own_info(), source };
    client.add_host(spec).await.map_err(|error| error.to_string())?;
    tracing::info!(host = %config.host, %ip, "registered");
    Ok(())
}

/// What is not as the cluster knows it. Labels are the operator's once the host is there.
fn change(host: &Host, ip: IpAddr, further: &[IpAddr], own: Labels) -> Option<HostChange> {
    let mut info = host.info.clone();
    info.extend(own);
    let change = HostChange {
        name: host.name.clone(),
        ip: (host.ip != ip).then_some(ip),
        addresses: (host.addresses != further).then(|| further.to_vec()),
        labels: None,
        info: (host.info != info).then_some(info),
    };
    let nothing = change.ip.is_none() && change.addresses.is_none() && change.info.is_none();
    (!nothing).then_some(change)
}
