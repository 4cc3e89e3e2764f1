//! What replicas and agents say, over HTTP.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use romana_client::{Client, RawReply, Server};
use serde_json::Value;

use super::archive::{Content, ITEM_BYTES_MAX, Item, part};

/// Time for an answer of a replica, and of an agent (most of them listen on loopback only).
const REPLICA_WITHIN: Duration = Duration::from_secs(10);
const AGENT_WITHIN: Duration = Duration::from_secs(3);
/// Number of requests at a time.
const AT_ONCE: usize = 32;
/// Number of agents that are asked.
const AGENTS_MAX: usize = 500;
/// Number of the last events.
const EVENTS: u64 = 1_000;

/// What every replica is asked. Local reads: they work without a majority, and show where replicas differ.
const REPLICA: [(&str, &str); 21] = [
    ("healthz.json", "/healthz"),
    ("readyz.json", "/readyz"),
    ("status.json", "/status"),
    ("metrics.txt", "/metrics"),
    ("cluster.json", "/v1/cluster"),
    ("digest.json", "/v1/digest?consistency=local"),
    ("settings.json", "/v1/settings?consistency=local"),
    ("topology.json", "/v1/topology?consistency=local"),
    ("networks.json", "/v1/networks?consistency=local"),
    ("hosts.json", "/v1/hosts?consistency=local"),
    ("heartbeats.json", "/v1/heartbeats"),
    ("blocks.json", "/v1/blocks?consistency=local"),
    ("addresses.json", "/v1/addresses?consistency=local"),
    ("blackouts.json", "/v1/blackouts?consistency=local"),
    ("tenants.json", "/v1/tenants?consistency=local"),
    ("policies.json", "/v1/policies?consistency=local"),
    ("endpoints.json", "/v1/endpoints?consistency=local"),
    ("vips.json", "/v1/vips?consistency=local"),
    ("vip-pools.json", "/v1/vip-pools?consistency=local"),
    ("routes-router.json", "/v1/routes?for=router&consistency=local"),
    ("ipam-check.json", "/v1/ipam/check?consistency=local"),
];

/// An address to ask.
#[derive(Clone, Debug)]
struct Ask {
    path: String,
    server: Server,
    url: String,
    within: Duration,
}

impl Ask {
    fn new(dir: &str, file: &str, server: &Server, url: &str, within: Duration) -> Self {
        let path = format!("{dir}/{file}");
        Self { path, server: server.clone(), url: url.into(), within }
    }

    async fn item(self, client: &Client) -> Item {
        let from = format!("GET {}{}", self.server, self.url);
        let answer = client.raw(&self.server, &self.url, ITEM_BYTES_MAX, self.within).await;
        let found = answer.map(content).map_err(|error| romana_daemon::error::chain(&error));
        Item::new(self.path, from, found)
    }
}

/// An answer as a content. One that is no success is one as well: it says what is wrong.
fn content(reply: RawReply) -> Content {
    let RawReply { status, body, cut } = reply;
    let more =
        serde_json::from_slice::<Value>(&body).is_ok_and(|page| page["continue"].is_string());
    let bytes = match status {
        200 => body.to_vec(),
        _ => [format!("HTTP status {status}\n").as_bytes(), &*body].concat(),
    };
    Content { bytes, cut: cut || more }
}

/// The directory of a server's items.
fn dir(kind: &str, server: &Server) -> String {
    format!("{kind}/{}", part(&format!("{}_{}", server.host(), server.port())))
}

/// All replicas: those that the command line names, and those that any of them names.
pub(super) async fn all(client: &Client) -> Vec<Server> {
    let named = client.servers();
    let asked = named.iter().map(|server| async {
        let answer = client.raw(server, "/v1/cluster", ITEM_BYTES_MAX, REPLICA_WITHIN).await;
        members(&answer.map(|reply| reply.body).unwrap_or_default())
    });
    let found = futures_util::future::join_all(asked).await;
    let mut all = Vec::new();
    for server in named.into_iter().chain(found.into_iter().flatten()) {
        if !all.contains(&server) {
            all.push(server);
        }
    }
    all
}

fn members(body: &[u8]) -> Vec<Server> {
    let cluster: Value = serde_json::from_slice(body).unwrap_or_default();
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    members.iter().filter_map(|member| member["api"].as_str()?.parse().ok()).collect()
}

/// What the replicas say, as it comes.
pub(super) async fn items(client: &Client, servers: &[Server], mut add: impl FnMut(Item)) {
    let each = |server: &Server| {
        let dir = dir("replicas", server);
        let ask = |(file, url): &(&str, &str)| Ask::new(&dir, file, server, url, REPLICA_WITHIN);
        REPLICA.iter().map(ask).collect::<Vec<_>>()
    };
    let asks = stream::iter(servers.iter().flat_map(each));
    let answers = asks.map(|ask| ask.item(client)).buffer_unordered(AT_ONCE);
    answers
        .for_each(|item| {
            add(item);
            std::future::ready(())
        })
        .await;
    let tails = stream::iter(servers).map(|server| tail(client, server));
    tails
        .buffer_unordered(AT_ONCE)
        .for_each(|item| {
            add(item);
            std::future::ready(())
        })
        .await;
}

/// The last events that a replica has.
async fn tail(client: &Client, server: &Server) -> Item {
    let local = "/v1/digest?consistency=local";
    let digest = client.raw(server, local, ITEM_BYTES_MAX, REPLICA_WITHIN).await;
    let digest = digest.map(|reply| serde_json::from_slice(&reply.body).unwrap_or_default());
    let digest: Value = digest.unwrap_or_default();
    let from = digest["revision"].as_u64().unwrap_or_default().saturating_sub(EVENTS) + 1;
    let url = format!("/v1/audit/log?from={from}&limit={EVENTS}&consistency=local");
    let dir = dir("replicas", server);
    Ask::new(&dir, "audit-tail.json", server, &url, REPLICA_WITHIN).item(client).await
}

/// The addresses of the hosts, from what the replicas said.
pub(super) fn hosts(items: &[Item]) -> BTreeSet<IpAddr> {
    let lists = items.iter().filter(|item| item.path.ends_with("/hosts.json"));
    let bytes = lists.filter_map(|item| Some(&item.found.as_ref().ok()?.bytes));
    let pages = bytes.filter_map(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let hosts = pages.flat_map(|page| page["items"].as_array().cloned().unwrap_or_default());
    hosts.filter_map(|host| host["ip"].as_str()?.parse().ok()).collect()
}

/// The agents to ask: on this host, and on every host, at this port.
pub(super) fn agents(hosts: &BTreeSet<IpAddr>, port: u16) -> (Vec<(String, Server)>, Option<Item>) {
    let server = |host: &str| Server::parse(host, port).ok();
    let bracketed = |ip: &IpAddr| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let local = server("127.0.0.1").map(|server| ("agents/this-host".into(), server));
    let others = hosts.iter().take(AGENTS_MAX).filter_map(|ip| {
        let server = server(&bracketed(ip))?;
        Some((dir("agents", &server), server))
    });
    let left = hosts.len().saturating_sub(AGENTS_MAX);
    let note = (left > 0).then(|| {
        let why = format!("{left} more agents were not asked: at most {AGENTS_MAX} are");
        Item::new("agents/others", "hosts", Err(why))
    });
    (local.into_iter().chain(others).collect(), note)
}

/// What the agents say. The metrics of one that does not answer are not asked for.
pub(super) async fn agent_items(
    client: &Client,
    agents: &[(String, Server)],
    mut add: impl FnMut(Item),
) {
    let each = |(dir, server): &(String, Server)| {
        let ask = |file, url| Ask::new(dir, file, server, url, AGENT_WITHIN);
        let (status, metrics) = (ask("status.json", "/status"), ask("metrics.txt", "/metrics"));
        async move {
            let status = status.item(client).await;
            match status.found {
                Ok(_) => vec![status, metrics.item(client).await],
                Err(_) => vec![status],
            }
        }
    };
    let asked = stream::iter(agents).map(each).buffer_unordered(AT_ONCE);
    asked
        .for_each(|items| {
            items.into_iter().for_each(&mut add);
            std::future::ready(())
        })
        .await;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn answers_become_contents() {
        let reply = |status, body: &'static str| RawReply {
            status,
            body: Bytes::from_static(body.as_bytes()),
            cut: false,
        };
        let full = content(reply(200, "{\"items\":[]}"));
        assert_eq!(full, Content { bytes: b"{\"items\":[]}".to_vec(), cut: false });
        assert!(
            content(reply(200, "{\"items\":[],\"continue\":\"a\"}")).cut,
            "there is a next page"
        );
        assert_eq!(content(reply(503, "no leader")).bytes, b"HTTP status 503\nno leader");
    }

    #[test]
    fn replicas_and_hosts_are_found_in_answers() {
        let body = br#"{"members":[{"api":"http://10.0.0.1:9600"},{"api":""},{"api":"http://[fd00::1]:1"}]}"#;
        let found: Vec<String> = members(body).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["http://10.0.0.1:9600", "http://[fd00::1]:1"]);
        assert_eq!(members(b"<html>"), []);
        let page =
            Content { bytes: br#"{"items":[{"ip":"10.0.0.9"},{"ip":7}]}"#.to_vec(), cut: false };
        let items = [
            Item::new("replicas/a/hosts.json", "", Ok(page)),
            Item::new("replicas/b/hosts.json", "", Err("no".into())),
        ];
        let hosts = hosts(&items);
        assert_eq!(hosts, BTreeSet::from(["10.0.0.9".parse().unwrap()]));
        let (agents, none) = agents(&hosts, 9607);
        assert_eq!((agents[1].0.as_str(), none), ("agents/10.0.0.9_9607", None));
        let many: BTreeSet<IpAddr> = (0..600_u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
        let (asked, note) = super::agents(&many, 1);
        assert_eq!(asked.len(), AGENTS_MAX + 1);
        assert!(note.unwrap().found.unwrap_err().starts_with("100 more agents"));
    }
}
