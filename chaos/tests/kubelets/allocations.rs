//! Addresses that are asked for all the time, by a client that knows all replicas.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use romana_client::{Client, ClientConfig, Error, Server};
use romana_statemachine::command::AllocateAddress;

use crate::lab::Lab;

/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of them.
#[derive(Debug, Default)]
struct Outcome {
    given: Vec<(String, IpAddr)>,
    failed: Vec<String>,
}

/// A thread that allocates until it is finished.
pub(crate) struct Allocations {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Allocations {
    pub(crate) fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, servers) = (Arc::clone(&stop), lab.servers());
        let hosts: Vec<String> = lab.nodes.iter().map(|node| node.machine.name.clone()).collect();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(allocate(servers, hosts, &stopped))
        });
        Self { stop, thread }
    }

    /// Ends them, and releases the addresses. Fails if one was refused, or given out twice.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let Outcome { given, failed } = self.thread.join().expect("it ends");
        println!("           {} addresses were allocated, {} not", given.len(), failed.len());
        let unique: BTreeSet<IpAddr> = given.iter().map(|(_, ip)| *ip).collect();
        assert_eq!(unique.len(), given.len(), "given out twice: {given:?}");
        assert!(failed.is_empty() && !given.is_empty(), "{failed:#?}");
    }
}

async fn allocate(servers: Vec<Server>, hosts: Vec<String>, stop: &AtomicBool) -> Outcome {
    let client = Client::new(ClientConfig::new(servers)).expect("a client");
    let mut outcome = Outcome::default();
    for (number, host) in hosts.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("load-{number}");
        match one(&client, &name, host).await {
            Ok(ip) => outcome.given.push((name, ip)),
            Err(error) => outcome.failed.push(format!("{name}: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    for (name, _) in &outcome.given {
        if let Err(error) = client.release(name.as_str().into()).await {
            outcome.failed.push(format!("release of {name}: {error}"));
        }
    }
    outcome
}

/// An address on a host. As for the plugin, an answer that was lost is asked for again: the name makes it the same address.
async fn one(client: &Client, name: &str, host: &str) -> Result<IpAddr, Error> {
    let ask = AllocateAddress {
        name: name.into(),
        host: host.into(),
        tenant: "load".into(),
        segment: "load".into(),
        network: None,
        ip: None,
    };
    let given = match client.allocate(ask.clone()).await {
        Err(error) if error.may_have_happened() => client.allocate(ask).await,
        answer => answer,
    };
    Ok(given?.ip)
}
