//! Adds this host to the cluster, if that is asked for, and keeps its addresses there true; in any case
//! says there that it has an agent.

use std::net::IpAddr;
use std::time::Duration;

use romana_client::model::Host;
use romana_client::{Client, Error};
use romana_statemachine::attachment::AGENT_INFO;
use romana_statemachine::command::{HostChange, HostSource, HostSpec, Labels};
use rtnetlink::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Registration};
use crate::kernel::facts;

/// How often it looks whether the addresses are still right.
const PERIOD: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Registers the host, if it is to be registered, and looks after it until `stop`.
pub async fn keep(config: Config, client: Client, handle: Handle, stop: CancellationToken) {
    let mut said = String::new();
    while !stop.is_cancelled() {
        let tried = tokio::select! {
            () = stop.cancelled() => return,
            tried = look(&config, &client, &handle) => tried,
        };
        let pause = match tried {
            Ok(()) => PERIOD,
            Err(why) => {
                if why != said {
                    tracing::warn!(why, "this host is not registered yet");
                    said = why;
                }
                RETRY
            }
        };
        // Nothing is lost when the wait is cut short.
        _ = timeout(pause, stop.cancelled()).await;
    }
}

async fn look(config: &Config, client: &Client, handle: &Handle) -> Result<(), String> {
    match &config.register {
        Some(registration) => register(config, registration, client, handle).await,
        None => announce(config, client).await,
    }
}

/// What this program says of itself among its host's facts.
fn own_info() -> Labels {
    Labels::from([(AGENT_INFO.into(), env!("CARGO_PKG_VERSION").into())])
}

/// Says that there is an agent, on a host that somebody else has added.
async fn announce(config: &Config, client: &Client) -> Result<(), String> {
    let host = client.host(&config.host).await.map_err(|error| error.to_string())?;
    match change(&host, host.ip, &host.addresses, own_info()) {
        None => Ok(()),
        Some(change) => {
            client.update_host(change).await.map(|_| ()).map_err(|error| error.to_string())
        }
    }
}

async fn register(
    config: &Config,
    registration: &Registration,
    client: &Client,
    handle: &Handle,
) -> Result<(), String> {
    let ips = match &registration.ips[..] {
        [] => facts::own_addresses(handle).await.map_err(|error| error.to_string())?,
        given => given.to_vec(),
    };
    let Some((ip, further)) = ips.split_first() else {
        return Err("it has no address on the link of its default route: give --host-ip".into());
    };
    let known = match client.host(&config.host).await {
        Ok(host) => Some(host),
        Err(Error::Refused(error)) if error.status == 404 => None,
        Err(error) => return Err(error.to_string()),
    };
    let info = own_info();
    let done = match known {
        None => {
            let (name, labels) = (config.host.clone(), registration.labels.clone());
            let (addresses, source) = (further.to_vec(), HostSource::Operator);
            let spec = HostSpec { name, ip: *ip, addresses, labels, info, source };
            client.add_host(spec).await.map(|_| "registered")
        }
        Some(host) => match change(&host, *ip, further, info) {
            None => return Ok(()),
            Some(change) => client.update_host(change).await.map(|_| "registration changed"),
        },
    };
    let what = done.map_err(|error| error.to_string())?;
    tracing::info!(host = %config.host, %ip, "{what}");
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
