//! etcd for comparison: three members with default settings, and the required part of its
//! gRPC interface, declared manually.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::load;
use crate::cluster::free_ports;

/// Size of a value.
const VALUE_BYTES: usize = 256;
/// Number of keys.
const KEYS: u64 = 100_000;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// A member.
#[derive(Debug)]
struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

/// Three members in their own directory. Processes and directory are removed on drop.
#[derive(Debug)]
pub(super) struct Etcd {
    dir: TempDir,
    members: Vec<Member>,
}

impl Etcd {
    pub(super) async fn start(parent: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("etcd-chaos-");
        let dir = match parent {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let members = free_ports(6)?
            .chunks_exact(2)
            .map(|ports| Member { client: local(ports[0]), peer: local(ports[1]), child: None })
            .collect();
        let mut etcd = Self { dir, members };
        for at in 0..etcd.members.len() {
            etcd.start_member(at)?;
        }
        etcd.wait_ready().await?;
        Ok(etcd)
    }

    pub(super) fn start_member(&mut self, at: usize) -> Result<()> {
        let everybody: Vec<String> = (0..)
            .zip(&self.members)
            .map(|(number, member)| format!("m{number}=http://{}", member.peer))
            .collect();
        let data = self.dir.path().join(format!("m{at}"));
        let state = if data.exists() { "existing" } else { "new" };
        let log = self.dir.path().join(format!("m{at}.log"));
        let log = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let member = &mut self.members[at];
        let (client, peer) =
            (format!("http://{}", member.client), format!("http://{}", member.peer));
        let child = Command::new("etcd")
            .args(["--name", &format!("m{at}"), "--data-dir"])
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &everybody.join(","), "--initial-cluster-state", state])
            .args(["--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start etcd (apt-get install etcd-server)")?;
        member.child = Some(child);
        Ok(())
    }

    pub(super) fn kill(&mut self, at: usize) -> Result<()> {
        let mut child = self.members[at].child.take().context("the member is down")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub(super) fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// Waits until every member knows a leader and answers.
    pub(super) async fn wait_ready(&self) -> Result<()> {
        let start = Instant::now();
        for member in &self.members {
            let grpc = Kv::open(member.client)?;
            while !grpc.clone().status().await.is_ok_and(|status| status.leader != 0) {
                ensure!(start.elapsed() < Duration::from_secs(30), "etcd does not become ready");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// The leader's position.
    pub(super) async fn leader(&self) -> Result<usize> {
        for (at, member) in self.members.iter().enumerate() {
            let Ok(status) = Kv::open(member.client)?.status().await else { continue };
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(at);
            }
        }
        anyhow::bail!("etcd has no leader")
    }

    /// The version it reports.
    pub(super) async fn version(&self) -> Result<String> {
        let status = Kv::open(self.members[0].client)?.status().await?;
        Ok(format!("etcd {}", status.version))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // A process that cannot be killed is ignored.
                _ = child.kill();
                _ = child.wait();
            }
        }
    }
}

/// A gRPC connection. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Kv(Grpc<Channel>);

impl Kv {
    pub(super) fn open(to: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{to}"))?.tcp_nodelay(true);
        Ok(Self(Grpc::new(endpoint.connect_lazy())))
    }

    async fn unary<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        self.0.unary(Request::new(request), path, codec).await.map(tonic::Response::into_inner)
    }

    async fn status(&mut self) -> Result<StatusResponse, Status> {
        self.unary("/etcdserverpb.Maintenance/Status", StatusRequest {}).await
    }

    /// A durable put. Returns the revision.
    pub(super) async fn put(&mut self, key: u64) -> Result<i64, Status> {
        let key = format!("/romana/{:08}", key % KEYS).into_bytes();
        let request = PutRequest { key, value: vec![b'v'; VALUE_BYTES] };
        let answer: PutResponse = self.unary("/etcdserverpb.KV/Put", request).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// A linearizable read. Returns the number of keys found.
    pub(super) async fn get(&mut self, key: u64) -> Result<i64, Status> {
        let request = RangeRequest { key: format!("/romana/{:08}", key % KEYS).into_bytes() };
        let answer: RangeResponse = self.unary("/etcdserverpb.KV/Range", request).await?;
        Ok(answer.count)
    }
}

/// The operation of a caller.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Put,
    Get,
}

/// A caller of etcd.
pub(super) struct Putter {
    kv: Kv,
    next: u64,
    step: u64,
    deed: Deed,
}

impl load::Caller for Putter {
    async fn call(&mut self) -> Result<()> {
        self.next = self.next.wrapping_add(self.step);
        match self.deed {
            Deed::Put => ensure!(self.kv.put(self.next).await? > 0, "etcd put nothing"),
            Deed::Get => ensure!(self.kv.get(self.next % KEYS % 10_000).await? == 1, "not found"),
        }
        Ok(())
    }
}

/// Callers of the leader: one connection for a single caller, else eight shared ones.
pub(super) async fn callers(etcd: &Etcd, count: usize, deed: Deed) -> Result<Vec<Putter>> {
    let leader = etcd.clients()[etcd.leader().await?];
    let connections = (0..if count == 1 { 1 } else { 8 })
        .map(|_| Kv::open(leader))
        .collect::<Result<Vec<_>>>()?;
    Ok((0..count)
        .map(|number| Putter {
            kv: connections[number % connections.len()].clone(),
            next: number as u64 * 7919,
            step: 1,
            deed,
        })
        .collect())
}
