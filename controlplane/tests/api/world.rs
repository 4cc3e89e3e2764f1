//! One replica with its API on a separate port, and a client for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use romana_controlplane::api::Api;
use romana_controlplane::server::Server;
use romana_replica::{Replica, ReplicaConfig, Tuning};
use romana_statemachine::command::RaiseVersion;
use romana_statemachine::{Actor, Command, Proposal};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct World {
    pub(crate) replica: Replica,
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// An answer, read completely.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("").to_owned()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::tuned(|_| {}).await
    }

    /// A replica with other tunables.
    pub(crate) async fn tuned(tune: impl FnOnce(&mut Tuning)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = peers.local_addr().unwrap();
        let cluster = BTreeMap::from([(1, peer.to_string())]);
        let mut config = ReplicaConfig::new(1, dir.path().into(), peer, cluster);
        config.advertise_api = format!("http://{address}");
        config.tuning.wal_segment_bytes = 4 << 20;
        tune(&mut config.tuning);
        let replica = Replica::start_on(config, peers).await.unwrap();
        replica.health().wait_ready().await.unwrap();
        let api = Api::new(replica.clone(), Duration::from_secs(5), Vec::new());
        let server = Server::new(api, 256);
        let accepting = tokio::spawn(server.clone().accept(listener));
        Self { replica, server, address, accepting, _dir: dir }
    }

    /// A replica with a topology and two hosts.
    pub(crate) async fn furnished() -> Self {
        let world = Self::new().await;
        assert_eq!(world.put("/v1/topology", &topology()).await.status, 200);
        for (name, ip) in [("h1", "192.168.0.1"), ("h2", "192.168.0.2")] {
            let host = json!({"name": name, "ip": ip});
            assert_eq!(world.post("/v1/hosts", &host).await.status, 201);
        }
        world
    }

    /// Raises the version, as the leader's task does.
    pub(crate) async fn raise(&self, version: u16) {
        self.propose("task:versions", Command::RaiseVersion(RaiseVersion { version })).await;
    }

    /// Commits a command directly, bypassing the API.
    pub(crate) async fn propose(&self, actor: &str, command: Command) {
        let proposals = vec![Proposal { actor: Actor::from(actor), command }];
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let outcomes = self.replica.propose(proposals, deadline).await.unwrap();
        outcomes[0].result.as_ref().unwrap();
    }

    pub(crate) async fn end(self) {
        self.accepting.abort();
        self.server.drain().await;
        self.replica.shutdown().await;
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "romana");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Full::new(body.into())).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.ask(method, path, &headers, body.to_string()).await
    }
}

pub(crate) fn topology() -> Value {
    json!({
        "networks": [
            {"name": "net1", "cidr": "10.111.0.0/16"},
            {"name": "tiny", "cidr": "10.200.0.0/30", "block_mask": 31, "tenants": ["small"]},
        ],
        "topologies": [{"networks": ["net1", "tiny"], "map": [{"name": "all", "groups": []}]}],
    })
}

pub(crate) fn allocation(name: &str, host: &str) -> Value {
    json!({"name": name, "host": host, "tenant": "t1", "segment": "s1"})
}
