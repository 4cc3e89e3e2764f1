//! What a test makes on this host, and its removal.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use romana_client::{Error, Query};
use romana_statemachine::Host;
use romana_statemachine::name::HostName;
use serde_json::Value;
use tokio::process::Child;

use super::OnHost;
use super::namespaces::{Attachment, Plugin};
use super::report::Row;
use crate::context::Context;

/// How the names of everything that a test makes begin.
pub(super) const PREFIX: &str = "romana-connectivity-";
/// The segment of an endpoint that `serve` makes.
pub(super) const SERVED: &str = "served";
/// Time for the agent's status, and its size limit.
const WITHIN: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 16 << 20;

/// A test on this host: its names, and what there is to remove.
pub(super) struct Local {
    pub(super) options: OnHost,
    /// In every name.
    id: String,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    plugin: Option<Plugin>,
    attachments: Vec<Attachment>,
    policies: Vec<String>,
    servers: Vec<Child>,
}

/// What is known about this host.
#[derive(Clone, Debug)]
pub(super) struct ThisHost {
    pub(super) host: Host,
    /// Whether its agent enforces policy.
    pub(super) enforcing: bool,
    pub(super) hosts: BTreeMap<HostName, Host>,
}

impl Local {
    pub(super) fn new(options: OnHost) -> Self {
        Self { id: options.id(), options, made: Mutex::default() }
    }

    /// The tenant of the test's endpoints, which is its policy's name as well.
    pub(super) fn tenant(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    fn made<T>(&self, change: impl FnOnce(&mut Made) -> T) -> T {
        change(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the agent on this host and the control plane say about it; a failed row if they do not.
    pub(super) async fn this_host(&self, ctx: &Context) -> Result<(ThisHost, Row), Box<Row>> {
        let about = |what: &str| Row::about("this host", "agent", what);
        let agent = &self.options.agent;
        let status =
            ctx.client.raw(agent, "/status", BYTES_MAX, WITHIN).await.map_err(|error| {
                let remedy = "start romana-agent here, or say where its status is: --agent URL";
                about("its agent answers").failed(error.to_string(), remedy)
            })?;
        let status: Value = serde_json::from_slice(&status.body).unwrap_or_default();
        let Some(name) = status["host"].as_str().map(HostName::from) else {
            let why = format!("what answers at {agent} is no romana-agent");
            return Err(Box::new(about("its agent answers").failed(why, "--agent URL")));
        };
        let enforcing = status["policy"].is_object();
        let hosts = ctx.client.hosts().await.map_err(|error| {
            let remedy = "romana doctor; -r names the replicas";
            Row::about("this host", "control plane", "it answers").failed(error.to_string(), remedy)
        })?;
        let hosts: BTreeMap<HostName, Host> =
            hosts.items.into_iter().map(|host| (host.name.clone(), host)).collect();
        let Some(host) = hosts.get(&name).cloned() else {
            let why = format!("the control plane knows no host {name}");
            let remedy = "romana host add, or romana-agent --register";
            return Err(Box::new(about("the host is known").failed(why, remedy)));
        };
        let row = about(&format!("{name} is known, and its agent answers"));
        Ok((ThisHost { host, enforcing, hosts }, row))
    }

    /// Reads the runtime's configuration.
    pub(super) fn plugin(&self) -> Result<(Plugin, Row), Box<Row>> {
        let row =
            Row::about("this host", "CNI", "the container runtime's configuration has Romana");
        let OnHost { cni_conf_dir, cni_bin_dir, .. } = &self.options;
        match Plugin::load(cni_conf_dir, cni_bin_dir) {
            Ok(plugin) => {
                self.made(|made| made.plugin = Some(plugin.clone()));
                Ok((plugin, row))
            }
            Err(why) => Err(Box::new(row.failed(why, "romana-agent install"))),
        }
    }

    /// Sets the policy of the test.
    pub(super) async fn set_policy(&self, ctx: &Context, document: &Value) -> Result<(), Box<Row>> {
        self.made(|made| made.policies.push(self.tenant()));
        let query = Query::new("/v1/policies").build();
        let sent = ctx.client.send::<Value>(Method::POST, query, Some(document), true).await;
        sent.map(drop).map_err(|error| {
            let row = Row::about("policy", &self.tenant(), "it can be set");
            Box::new(row.failed(error.to_string(), "romana doctor"))
        })
    }

    /// Makes an endpoint, with a server in it.
    pub(super) async fn attach(
        &self,
        plugin: &Plugin,
        segment: &str,
    ) -> Result<(Attachment, Vec<IpAddr>), String> {
        let name = format!("rmct-{}-{segment}", self.id);
        let one = Attachment { name, tenant: self.tenant(), segment: segment.into() };
        // Noted before it is made: it may be interrupted halfway.
        self.made(|made| made.attachments.push(one.clone()));
        let ips = one.add(plugin).await?;
        let server = one.respond().await?;
        self.made(|made| made.servers.push(server));
        Ok((one, ips))
    }

    /// Removes everything. What cannot be removed is a failed row each.
    pub(super) async fn remove(&self, ctx: &Context) -> Vec<Row> {
        let Made { plugin, attachments, policies, servers } = self.made(std::mem::take);
        for mut server in servers {
            _ = server.kill().await;
        }
        let mut rows = Vec::new();
        for one in attachments {
            let removed = match &plugin {
                Some(plugin) => one.remove(plugin).await,
                None => Ok(()),
            };
            rows.extend(removed.err().map(|why| {
                let remedy = format!("ip netns delete {}", one.name);
                Row::about("clean up", &one.name, "it is removed").failed(why, remedy)
            }));
        }
        for policy in policies {
            let path = Query::new("/v1/policies").segment(&policy).build();
            let sent = ctx.client.send::<Value>(Method::DELETE, path, None::<&()>, true).await;
            let missing = |error: &Error| error.code() == Some("PolicyNotFound");
            rows.extend(sent.err().filter(|error| !missing(error)).map(|error| {
                let remedy = format!("romana policy remove {policy}");
                let row = Row::about("clean up", &policy, "its policy is removed");
                row.failed(error.to_string(), remedy)
            }));
        }
        rows
    }
}
