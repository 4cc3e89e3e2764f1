//! Packets between pods while something is done: three kinds of probes, each every ten milliseconds, and what was lost.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::pods::Pod;

const PORT: u16 = 9001;
const EVERY: Duration = Duration::from_millis(10);
/// What was not answered within this time is lost. Longer than TCP repeats a packet that was dropped once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Reasons that are kept of each kind.
const REASONS: usize = 3;

/// Whether the probes end. The sender is gone when they do.
type Stop = watch::Receiver<()>;

/// Probes of one kind.
#[derive(Clone, Debug, Default)]
struct Count {
    sent: u64,
    answered: u64,
    why: Vec<String>,
}

impl Count {
    fn lost(&mut self, why: impl ToString) {
        if self.why.len() < REASONS {
            self.why.push(why.to_string());
        }
    }
}

/// What came of a pod's probes to another one.
#[derive(Debug)]
struct Tally {
    pair: String,
    /// Datagrams that were sent back.
    datagrams: Count,
    /// Messages on a connection that stands all the time.
    messages: Count,
    /// New connections.
    connections: Count,
    /// Segments that TCP in the pod had to repeat: packets that were lost on the way, exactly.
    repeated: u64,
}

/// Probes from each pod to the next one, until they are finished.
pub(crate) struct Streams {
    stop: watch::Sender<()>,
    clients: Vec<JoinHandle<Tally>>,
    servers: JoinHandle<()>,
}

impl Streams {
    /// Starts them; policies let the pods reach each other.
    pub(crate) fn start(pods: &[&Pod]) -> Self {
        assert!(pods.len() > 1, "a pod and another one");
        let (stop, stopped) = watch::channel(());
        // A socket stays in the network in which it was made.
        let sockets: Vec<_> = pods.iter().map(|pod| sockets(pod)).collect();
        let until = stopped.clone();
        let servers = std::thread::spawn(move || block_on(serve_all(sockets, until)));
        let next = pods.iter().cycle().skip(1);
        let clients = pods.iter().zip(next).map(|(from, to)| {
            let pair = format!("{} on {} to {} on {}", from.name, from.node, to.name, to.node);
            let (to, stop) = (SocketAddr::new(to.ip, PORT), stopped.clone());
            from.start(move || block_on(probe(pair, to, stop)))
        });
        Self { clients: clients.collect(), stop, servers }
    }

    /// Ends them. Fails if anything was lost.
    pub(crate) fn finish(self) {
        let Self { stop, clients, servers } = self;
        drop(stop);
        let tallies: Vec<Tally> =
            clients.into_iter().map(|client| client.join().expect("it ends")).collect();
        servers.join().expect("it ends");
        for tally in &tallies {
            println!("           {}: {}", tally.pair, tally.summary());
        }
        let wrong: Vec<&Tally> = tallies.iter().filter(|tally| !tally.is_whole()).collect();
        assert!(wrong.is_empty(), "packets were lost: {wrong:#?}");
    }
}

impl Tally {
    fn kinds(&self) -> [(&'static str, &Count); 3] {
        [
            ("datagrams", &self.datagrams),
            ("messages", &self.messages),
            ("connections", &self.connections),
        ]
    }

    fn summary(&self) -> String {
        let kinds = self.kinds().map(|(name, count)| {
            let Count { sent, answered, .. } = count;
            format!("{answered} of {sent} {name}")
        });
        format!("{}, {} segments repeated", kinds.join(", "), self.repeated)
    }

    /// Whether there was something to lose, and nothing was.
    fn is_whole(&self) -> bool {
        let whole = |count: &Count| count.sent > 0 && count.answered == count.sent;
        self.kinds().iter().all(|(_, count)| whole(count)) && self.repeated == 0
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// Sockets of a pod at which probes are answered.
fn sockets(pod: &Pod) -> (std::net::UdpSocket, std::net::TcpListener) {
    let at = SocketAddr::new(pod.ip, PORT);
    pod.inside(move || {
        let datagrams = std::net::UdpSocket::bind(at).expect("a port");
        let connections = std::net::TcpListener::bind(at).expect("a port");
        datagrams.set_nonblocking(true).expect("a socket");
        connections.set_nonblocking(true).expect("a socket");
        (datagrams, connections)
    })
}

/// Answers everything until the probes have ended, and what they still wait for.
async fn serve_all(sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>, mut stop: Stop) {
    for (datagrams, connections) in sockets {
        tokio::spawn(echo(UdpSocket::from_std(datagrams).expect("a socket")));
        tokio::spawn(accept(TcpListener::from_std(connections).expect("a socket")));
    }
    // The channel has no values: it ends when the sender is gone.
    _ = stop.changed().await;
    tokio::time::sleep(PATIENCE).await;
}

async fn echo(socket: UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        // An error is about an earlier answer, to a probe that is counted as lost.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

async fn accept(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            _ = stream.set_nodelay(true);
            let (mut reader, mut writer) = stream.split();
            _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

async fn probe(pair: String, to: SocketAddr, stop: Stop) -> Tally {
    let before = repeated();
    let (datagrams, messages, connections) =
        tokio::join!(datagrams(to, stop.clone()), messages(to, stop.clone()), connect(to, stop));
    Tally { pair, datagrams, messages, connections, repeated: repeated() - before }
}

/// Waits for the next moment to send. `false`: the probes end.
async fn goes_on(ticks: &mut tokio::time::Interval, stop: &mut Stop) -> bool {
    tokio::select! {
        biased;
        _ = stop.changed() => false,
        _ = ticks.tick() => true,
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn datagrams(to: SocketAddr, mut stop: Stop) -> Count {
    let (mut count, mut answered) = (Count::default(), HashSet::new());
    let socket = UdpSocket::bind("0.0.0.0:0").await.expect("a socket");
    socket.connect(to).await.expect("a socket");
    let (mut ticks, mut buffer) = (ticks(), [0; 8]);
    loop {
        tokio::select! {
            biased;
            more = goes_on(&mut ticks, &mut stop) => {
                if !more {
                    break;
                }
                if let Err(error) = socket.send(&count.sent.to_be_bytes()).await {
                    count.lost(error);
                }
                count.sent += 1;
            }
            received = socket.recv(&mut buffer) => match received {
                Ok(_) => _ = answered.insert(buffer),
                Err(error) => count.lost(error),
            },
        }
    }
    let rest = async {
        while (answered.len() as u64) < count.sent {
            if socket.recv(&mut buffer).await.is_ok() {
                answered.insert(buffer);
            }
        }
    };
    _ = timeout(PATIENCE, rest).await;
    count.answered = answered.len() as u64;
    count
}

/// Sends a number and reads it back.
async fn exchange(stream: &mut TcpStream, number: u64) -> io::Result<()> {
    let work = async {
        stream.write_all(&number.to_be_bytes()).await?;
        stream.read_u64().await
    };
    let got = timeout(PATIENCE, work).await??;
    if got == number { Ok(()) } else { Err(io::Error::other(format!("{got} for {number}"))) }
}

async fn messages(to: SocketAddr, mut stop: Stop) -> Count {
    let mut count = Count::default();
    let mut stream = match timeout(PATIENCE, open(to)).await {
        Ok(Ok(stream)) => stream,
        other => {
            count.sent = 1;
            count.lost(format!("no connection: {other:?}"));
            return count;
        }
    };
    let mut ticks = ticks();
    while goes_on(&mut ticks, &mut stop).await {
        count.sent += 1;
        match exchange(&mut stream, count.sent).await {
            Ok(()) => count.answered += 1,
            // A connection that breaks is broken for good.
            Err(error) => {
                count.lost(error);
                break;
            }
        }
    }
    count
}

async fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect(to: SocketAddr, mut stop: Stop) -> Count {
    let (mut count, mut ticks) = (Count::default(), ticks());
    while goes_on(&mut ticks, &mut stop).await {
        count.sent += 1;
        let number = count.sent;
        let work = async move {
            let mut stream = open(to).await?;
            exchange(&mut stream, number).await
        };
        match timeout(PATIENCE, work).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) => count.answered += 1,
            Err(error) => count.lost(error),
        }
    }
    count
}

/// How many segments TCP has repeated in this thread's network.
fn repeated() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split_whitespace().position(|name| name == "RetransSegs").expect("the counter");
    values.split_whitespace().nth(at).expect("a value").parse().expect("a number")
}
