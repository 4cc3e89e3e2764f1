//! The clients' workload, drawn from a seed: addresses are allocated and released, hosts and policies change,
//! and so does the topology. Each client has its own names, so that it knows what to expect; in addition
//! several clients compete for shared names, each requested once, and for specific addresses.

mod client;
mod set_up;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::caller::{Caller, library};
use crate::evidence::{Call, Clock};
use client::Client;
pub use set_up::{set_up, topology, world};

/// Options of the workload.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    pub clients: usize,
    pub seed: u64,
}

/// Running clients.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    /// Acknowledged calls of each client.
    served: Arc<[AtomicU64]>,
    clients: JoinSet<Vec<Call>>,
}

impl Workload {
    /// Starts the clients. Half of them use the client library, half single requests.
    ///
    /// # Errors
    /// A client cannot be created.
    pub fn start(apis: &[SocketAddr], options: &WorkloadOptions, clock: Clock) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let served: Arc<[AtomicU64]> = (0..options.clients).map(|_| AtomicU64::new(0)).collect();
        let mut clients = JoinSet::new();
        // Some share a library client, so that calls are batched.
        let shared = library(apis, "chaos:shared")?;
        for number in 1..=options.clients {
            let caller = match number % 4 {
                0 => Caller::Library(shared.clone()),
                1 => Caller::Library(library(apis, &format!("chaos:{number}"))?),
                _ => Caller::Bare { apis: apis.to_vec(), connection: None },
            };
            let (bare, replicas) = (!caller.retries(), apis.len() as u64);
            let client = Client::new(number, options.seed, clock, bare, replicas);
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            clients.spawn(client.live(caller, stop, served));
        }
        Ok(Self { stop, served, clients })
    }

    /// Waits until every client has had two more calls acknowledged. Returns those that have not.
    pub async fn all_served(&self, patience: Duration) -> Vec<usize> {
        let counts = || self.served.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        let end = Instant::now() + patience;
        loop {
            let waiting: Vec<usize> = counts()
                .zip(&before)
                .zip(1..)
                .filter(|((now, before), _)| *now < *before + 2)
                .map(|(_, client)| client)
                .collect();
            if waiting.is_empty() || Instant::now() > end {
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets every client finish its current call, and returns all calls.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn finish(mut self) -> Result<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        while let Some(done) = self.clients.join_next().await {
            calls.extend(done.context("a client of the workload")?);
        }
        Ok(calls)
    }
}
