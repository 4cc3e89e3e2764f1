//! A stream of allocations by several callers, with the times of their acknowledgements.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use romana_client::{Client, Error};
use romana_statemachine::command::AllocateAddress;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Number of concurrent callers.
const CALLERS: u64 = 16;
/// Pause of a caller between two allocations, to limit the load on a laptop.
const PAUSE: Duration = Duration::from_millis(5);

/// An acknowledged allocation.
pub(super) struct Ack {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    asked: Instant,
    answered: Instant,
}

/// The running callers.
pub(super) struct Stream {
    callers: JoinSet<Result<Vec<Ack>, Error>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Stream {
    /// Starts callers that allocate on each host in turn.
    pub(super) fn start(client: &Client, hosts: &[String]) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        let hosts: Arc<[String]> = hosts.into();
        for caller in 0..CALLERS {
            let (client, hosts) = (client.clone(), Arc::clone(&hosts));
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            callers.spawn(async move {
                let mut acks = Vec::new();
                let turns = hosts.iter().cycle().skip(usize::try_from(caller).unwrap_or(0));
                for (number, host) in turns.enumerate() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("stream-{caller}-{number}");
                    let asked = Instant::now();
                    let allocation = client.allocate(ask(&name, host)).await?;
                    let (ip, answered) = (allocation.ip, Instant::now());
                    acks.push(Ack { name, ip, asked, answered });
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                Ok(acks)
            });
        }
        Self { callers, stop, acknowledged }
    }

    /// Number of allocations acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops the callers and collects their acknowledgements.
    pub(super) async fn finish(mut self) -> Result<Vec<Ack>, Error> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acks = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            match caller {
                Ok(result) => acks.extend(result?),
                Err(error) => {
                    return Err(Error::Config { why: format!("a caller ended: {error}") });
                }
            }
        }
        Ok(acks)
    }
}

fn ask(name: &str, host: &str) -> AllocateAddress {
    AllocateAddress {
        name: name.into(),
        host: host.into(),
        tenant: "shop".into(),
        segment: "stream".into(),
        network: None,
        ip: None,
    }
}

/// Time from a moment to the first acknowledgement of a request sent after it.
pub(super) fn next_ack_after(acks: &[Ack], moment: Instant) -> Option<Duration> {
    let after = acks.iter().filter(|ack| ack.asked >= moment);
    after.map(|ack| ack.answered - moment).min()
}

/// Compares the acknowledgements with the present addresses: lost or changed ones, and addresses with two names.
pub(super) fn compare(acks: &[Ack], present: &[(String, IpAddr)]) -> (Vec<String>, Vec<IpAddr>) {
    let by_name: BTreeMap<&str, IpAddr> =
        present.iter().map(|(name, ip)| (name.as_str(), *ip)).collect();
    let kept = |ack: &&Ack| by_name.get(ack.name.as_str()) == Some(&ack.ip);
    let lost = acks.iter().filter(|ack| !kept(ack)).map(|ack| ack.name.clone()).collect();
    let mut times: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for (_, ip) in present {
        *times.entry(*ip).or_default() += 1;
    }
    let twice = times.into_iter().filter(|(_, count)| *count > 1).map(|(ip, _)| ip).collect();
    (lost, twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_doubles_are_found() {
        let now = Instant::now();
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let ack = |name: &str, last, asked| Ack {
            name: name.into(),
            ip: ip(last),
            asked: now + Duration::from_millis(asked),
            answered: now + Duration::from_millis(asked + 5),
        };
        let acks = [ack("a", 1, 0), ack("b", 2, 10), ack("c", 3, 20)];
        let present = [("a".into(), ip(1)), ("b".into(), ip(9)), ("x".into(), ip(1))];
        let (lost, twice) = compare(&acks, &present);
        assert_eq!((lost, twice), (vec!["b".into(), "c".into()], vec![ip(1)]));
        let gap = next_ack_after(&acks, now + Duration::from_millis(5));
        assert_eq!(gap, Some(Duration::from_millis(10)));
        assert_eq!(next_ack_after(&acks, now + Duration::from_millis(50)), None);
    }
}
