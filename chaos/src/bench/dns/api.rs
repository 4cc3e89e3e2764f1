//! An API server of Kubernetes in this process that has lists and watches of Services and EndpointSlices, and nothing
//! else; so that what is measured is the DNS server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::names::{NAMES, first, service};

/// Size limit of the head of a request, bytes.
const HEAD_MAX: usize = 64 << 10;
/// Length of a watch whose client does not say one, seconds.
const WATCH_SECONDS: u64 = 30;

/// The server; it stops when this is dropped.
pub(super) struct Api {
    objects: Arc<Objects>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Objects {
    /// The endpoint of each Service.
    endpoints: Mutex<Vec<Ipv4Addr>>,
    /// Watch events of EndpointSlices. The version of the objects is one more than their number.
    events: Mutex<Vec<String>>,
    news: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Api {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let address = listener.local_addr()?;
        let endpoints = Mutex::new((0..NAMES).map(first).collect());
        let (events, news) = (Mutex::default(), watch::Sender::new(()));
        let objects = Arc::new(Objects { endpoints, events, news });
        let served = Arc::clone(&objects);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let objects = Arc::clone(&served);
                // A client that goes away ends its connection.
                tokio::spawn(async move { serve(stream, &objects).await });
            }
        });
        Ok(Self { objects, address, task })
    }

    /// A kubeconfig for it.
    pub(super) fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        config.to_string()
    }

    /// Gives a Service another endpoint.
    pub(super) fn change(&self, at: usize, ip: Ipv4Addr) {
        lock(&self.objects.endpoints)[at] = ip;
        {
            let mut events = lock(&self.objects.events);
            let version = events.len() + 2;
            let event = json!({"type": "MODIFIED", "object": slice(at, ip, version)});
            events.push(format!("{event}\n"));
        }
        self.objects.news.send_replace(());
    }
}

fn slice(at: usize, ip: Ipv4Addr, version: usize) -> Value {
    let (name, namespace) = service(at);
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": namespace, "name": format!("{name}-x"), "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [ip]}]})
}

impl Objects {
    /// The answer to a request that is no watch; `None`: there is no such path.
    fn list(&self, path: &str) -> Option<Value> {
        let version = lock(&self.events).len() + 1;
        let (kind, group, items) = match path {
            "/apis/discovery.k8s.io/v1" => {
                let resource = json!({"name": "endpointslices", "singularName": "", "namespaced": true,
                    "kind": "EndpointSlice", "verbs": ["list", "watch"]});
                return Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
                    "groupVersion": "discovery.k8s.io/v1", "resources": [resource]}));
            }
            "/api/v1/namespaces" => {
                let namespace = |at| json!({"metadata": {"name": format!("n{at}")}});
                ("Namespace", "v1", (0..100).map(namespace).collect())
            }
            "/api/v1/services" => {
                let items = (0..NAMES).map(|at| {
                    let (name, namespace) = service(at);
                    json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"},
                        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}})
                });
                ("Service", "v1", items.collect())
            }
            "/apis/discovery.k8s.io/v1/endpointslices" => {
                let endpoints = lock(&self.endpoints);
                let items = endpoints.iter().enumerate().map(|(at, ip)| slice(at, *ip, 1));
                ("EndpointSlice", "discovery.k8s.io/v1", items.collect::<Vec<Value>>())
            }
            _ => return None,
        };
        Some(json!({"kind": format!("{kind}List"), "apiVersion": group,
            "metadata": {"resourceVersion": version.to_string()}, "items": items}))
    }
}

/// Serves one connection.
async fn serve(mut stream: TcpStream, objects: &Objects) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer).await? {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        if matches!(parameter("watch"), Some("true" | "1")) {
            let number = |name| parameter(name).and_then(|text| text.parse::<u64>().ok());
            let seconds = number("timeoutSeconds").unwrap_or(WATCH_SECONDS);
            let version = number("resourceVersion").unwrap_or(1);
            let from = usize::try_from(version.saturating_sub(1))?;
            let slices = path.ends_with("/endpointslices");
            follow(&mut stream, objects, slices.then_some(from), seconds).await?;
            continue;
        }
        let (status, body) = match objects.list(path) {
            Some(body) => ("200 OK", body.to_string()),
            None => ("404 Not Found", String::from("{}")),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    }
    Ok(())
}

/// The head of the next request; `None`: there is none.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            return Ok(Some(head));
        }
        ensure!(buffer.len() < HEAD_MAX, "the request is too large");
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// A watch, in chunks: events from a position on; `None`: of a kind that does not change.
async fn follow(
    stream: &mut TcpStream,
    objects: &Objects,
    from: Option<usize>,
    seconds: u64,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut news, mut next) = (objects.news.subscribe(), from);
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    loop {
        news.borrow_and_update();
        if let Some(next) = &mut next {
            let text = {
                let events = lock(&objects.events);
                let new = events.get(*next..).unwrap_or_default();
                *next += new.len();
                new.concat()
            };
            if !text.is_empty() {
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        if timeout_at(end, news.changed()).await.is_err() {
            stream.write_all(b"0\r\n\r\n").await?;
            return Ok(());
        }
    }
}
