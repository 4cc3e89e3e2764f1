//! Pods as the network sees them: real connections from their namespaces.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lab::Lab;
use crate::machine::{Machine, enter};

/// Where the pods of [`crate::objects`] answer with their name.
pub(crate) const PORT: u16 = 8080;
/// Answers arrive earlier; packets that are dropped are never answered.
const ANSWER: Duration = Duration::from_millis(600);

/// A running pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) ip: IpAddr,
    netns: PathBuf,
}

impl Pod {
    /// Pods that have an address, with their namespaces. Fails where a node has no namespace with a pod's address.
    pub(crate) fn all(lab: &Lab, listed: &[Value]) -> Vec<Self> {
        let all = lab.nodes.iter().map(|node| &node.machine);
        let namespaces: HashMap<&str, _> =
            all.map(|machine| (machine.name.as_str(), namespaces(machine))).collect();
        let pod = |object: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (name, node) =
                (text(&object["metadata"]["name"]), text(&object["spec"]["nodeName"]));
            let ip: IpAddr = text(&object["status"]["podIP"]).parse().expect("an address");
            let netns = namespaces.get(node.as_str()).and_then(|known| known.get(&ip));
            let netns = netns.unwrap_or_else(|| panic!("{name}: no namespace on {node} has {ip}"));
            Self { name, node, ip, netns: netns.clone() }
        };
        listed.iter().map(pod).collect()
    }

    /// Which pods answer with their names, asked at once from this one.
    pub(crate) fn reaches(&self, others: &[&Self]) -> Vec<bool> {
        let asked: Vec<_> = others.iter().map(|pod| (pod.ip, pod.name.clone())).collect();
        self.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                join_all(asked.iter().map(|(ip, name)| async move {
                    let answer = timeout(ANSWER, answer(*ip)).await;
                    answer.is_ok_and(|answer| answer.is_ok_and(|text| text.trim().ends_with(name)))
                }))
                .await
            })
        })
    }

    /// Runs `work` in the pod's network.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).join().expect("it ends")
    }

    /// Starts `work` in the pod's network, on a thread of its own.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = self.netns.clone();
        std::thread::spawn(move || {
            enter(&netns).expect("the pod's namespace");
            work()
        })
    }
}

async fn answer(ip: IpAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((ip, PORT)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// The network namespaces of pods on a machine, by their addresses.
fn namespaces(machine: &Machine) -> HashMap<IpAddr, PathBuf> {
    let found = fs::read_dir(machine.path("/run/netns")).into_iter().flatten().flatten();
    let with_address = |path: PathBuf| Some((address(&path)?, path));
    found.filter_map(|entry| with_address(entry.path())).collect()
}

/// The address that a namespace's packets have.
fn address(netns: &Path) -> Option<IpAddr> {
    let netns = netns.to_owned();
    let thread = std::thread::spawn(move || {
        enter(&netns).ok()?;
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        // Nothing is sent; the kernel chooses a route and a source.
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    thread.join().expect("it ends")
}
