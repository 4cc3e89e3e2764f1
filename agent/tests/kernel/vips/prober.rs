//! Clients that ask a service behind virtual IPs every 10 ms, and the service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::lab::in_namespace_thread;

pub(crate) const PORT: u16 = 7777;
/// Interval of probes.
const PERIOD: Duration = Duration::from_millis(10);
/// A connection that takes longer has failed; the kernel repeats a SYN after a second.
const CONNECT_MAX: Duration = Duration::from_millis(400);

/// Answers for virtual IPs on a host that may get them, until the test ends: UDP with the number of the host, TCP by
/// accepting.
pub(crate) fn serve(ns: &str, number: u8, vips: Vec<IpAddr>) {
    let (ready, wait) = std::sync::mpsc::channel();
    let ns = ns.to_owned();
    std::thread::spawn(move || {
        in_namespace_thread(&ns, move || {
            for family in ["ipv4", "ipv6"] {
                let file = format!("/proc/sys/net/{family}/ip_nonlocal_bind");
                std::fs::write(file, "1").expect("a sysctl of the namespace");
            }
            runtime().block_on(async {
                for vip in vips {
                    let udp = UdpSocket::bind((vip, PORT)).await.expect("a socket");
                    let tcp = TcpListener::bind((vip, PORT)).await.expect("a listener");
                    tokio::spawn(async move {
                        let mut bytes = [0; 16];
                        loop {
                            if let Ok((length, from)) = udp.recv_from(&mut bytes).await {
                                // It fails if the host does not have the address any more.
                                let answer = [&bytes[..length], &[number]].concat();
                                _ = udp.send_to(&answer, from).await;
                            }
                        }
                    });
                    tokio::spawn(async move {
                        loop {
                            drop(tcp.accept().await);
                        }
                    });
                }
                ready.send(()).expect("the test waits");
                std::future::pending::<()>().await;
            });
        });
    });
    wait.recv().expect("it serves");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What a client saw of one virtual IP: when each probe was sent, and which host answered (0: by TCP).
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) sent: Vec<Instant>,
    pub(crate) answered: BTreeMap<Instant, u8>,
}

impl Seen {
    /// The longest time without an answered probe.
    pub(crate) fn outage(&self) -> Duration {
        let ends = self.sent.first().into_iter().chain(self.sent.last());
        let mut times: Vec<Instant> = self.answered.keys().chain(ends).copied().collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The host that answered last.
    pub(crate) fn last(&self) -> Option<u8> {
        self.answered.values().next_back().copied()
    }
}

/// A running client.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<IpAddr, Seen>>>,
    thread: JoinHandle<()>,
}

impl Prober {
    /// Asks by UDP.
    pub(crate) fn udp(ns: &str, vips: Vec<IpAddr>) -> Self {
        Self::start(ns, async move |stop, seen| ask_udp(&vips, &stop, &seen).await)
    }

    /// Asks by TCP: a connection for each probe.
    pub(crate) fn tcp(ns: &str, vip: IpAddr) -> Self {
        Self::start(ns, async move |stop, seen| ask_tcp(vip, &stop, &seen).await)
    }

    fn start(
        ns: &str,
        ask: impl AsyncFnOnce(Arc<AtomicBool>, Arc<Mutex<BTreeMap<IpAddr, Seen>>>) + Send + 'static,
    ) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (ns, given) = (ns.to_owned(), (Arc::clone(&stop), Arc::clone(&seen)));
        let work = move || runtime().block_on(async { ask(given.0, given.1).await });
        let thread = std::thread::spawn(move || in_namespace_thread(&ns, work));
        Self { stop, seen, thread }
    }

    /// What it has seen of a virtual IP until now.
    pub(crate) fn seen(&self, vip: IpAddr) -> Seen {
        self.seen.lock().expect("no panic").get(&vip).cloned().unwrap_or_default()
    }

    /// Ends it.
    pub(crate) fn end(self) -> BTreeMap<IpAddr, Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends");
        let seen = self.seen.lock().expect("no panic");
        seen.clone()
    }
}

/// Probes have numbers; an answer counts for when its probe was sent.
async fn ask_udp(vips: &[IpAddr], stop: &AtomicBool, seen: &Mutex<BTreeMap<IpAddr, Seen>>) {
    let any: IpAddr = match vips.first() {
        Some(IpAddr::V6(_)) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.expect("a socket");
    let mut sent = BTreeMap::<u64, Instant>::new();
    // Many at once are asked less often.
    let period = PERIOD * (1 + u32::try_from(vips.len() / 20).expect("a few"));
    let (mut clock, mut number, mut bytes) = (interval(period), 0_u64, [0; 16]);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = clock.tick() => {
                number += 1;
                let now = Instant::now();
                sent.insert(number, now);
                for vip in vips {
                    let to = SocketAddr::from((*vip, PORT));
                    // Unreachable for now, perhaps.
                    _ = socket.send_to(&number.to_be_bytes(), to).await;
                    seen.lock().expect("no panic").entry(*vip).or_default().sent.push(now);
                }
            }
            answer = socket.recv_from(&mut bytes) => {
                let Ok((9, from)) = answer else { continue };
                let number = <[u8; 8]>::try_from(&bytes[..8]).map(u64::from_be_bytes);
                let number = number.expect("8 bytes");
                if let Some(at) = sent.get(&number) {
                    let mut seen = seen.lock().expect("no panic");
                    seen.entry(from.ip()).or_default().answered.insert(*at, bytes[8]);
                }
            }
        }
    }
}

async fn ask_tcp(vip: IpAddr, stop: &AtomicBool, seen: &Arc<Mutex<BTreeMap<IpAddr, Seen>>>) {
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        clock.tick().await;
        let (at, seen) = (Instant::now(), Arc::clone(seen));
        seen.lock().expect("no panic").entry(vip).or_default().sent.push(at);
        tokio::spawn(async move {
            let connected = timeout(CONNECT_MAX, TcpStream::connect((vip, PORT))).await;
            if connected.is_ok_and(|connected| connected.is_ok()) {
                seen.lock().expect("no panic").entry(vip).or_default().answered.insert(at, 0);
            }
        });
    }
}
