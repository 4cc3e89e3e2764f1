//! Real connections between namespaces: servers, and clients that probe many of them concurrently.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use romana_statemachine::policy::party::Transport;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::lab::in_namespace_thread;

/// Answers arrive earlier; dropped packets are never answered.
const PATIENCE: Duration = Duration::from_millis(400);

/// First source port of UDP probes, and the number of ports.
const SOURCES: (u16, u16) = (10_000, 50_000);

/// Answers TCP and UDP on ports of all addresses of a namespace, until the test ends.
pub(crate) fn serve(ns: &str, ports: &'static [u16]) {
    let (ready, wait) = std::sync::mpsc::channel();
    let ns = ns.to_owned();
    std::thread::spawn(move || {
        in_namespace_thread(&ns, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let any: IpAddr = std::net::Ipv6Addr::UNSPECIFIED.into();
                for port in ports {
                    let tcp = TcpListener::bind((any, *port)).await.expect("a listener");
                    let udp = UdpSocket::bind((any, *port)).await.expect("a socket");
                    tokio::spawn(async move {
                        loop {
                            // Accepting the connection is sufficient.
                            drop(tcp.accept().await);
                        }
                    });
                    tokio::spawn(async move {
                        let mut byte = [0];
                        loop {
                            if let Ok((_, from)) = udp.recv_from(&mut byte).await {
                                _ = udp.send_to(&byte, from).await;
                            }
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

/// Which of these are reached from a namespace, probed concurrently.
pub(crate) fn reached(ns: &str, asked: &[(IpAddr, Transport)]) -> Vec<bool> {
    let asked = asked.to_vec();
    in_namespace_thread(ns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let each = asked.into_iter().map(|(ip, transport)| ask(ip, transport));
            futures_util::future::join_all(each).await
        })
    })
}

async fn ask(ip: IpAddr, transport: Transport) -> bool {
    let asked = async {
        match transport {
            Transport::Tcp(port) => TcpStream::connect((ip, port)).await.is_ok(),
            Transport::Udp(port) => udp((ip, port).into()).await.is_ok(),
            other => panic!("{other:?} is not asked here"),
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or(false)
}

/// Probes from a source port that was not used recently: for connection tracking, UDP from a port that was
/// answered within two minutes belongs to an established connection, which stays allowed.
async fn udp(to: SocketAddr) -> std::io::Result<()> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, count) = SOURCES;
    let next = NEXT.update(Ordering::Relaxed, Ordering::Relaxed, |n| (n + 1) % count);
    let from = first + next;
    let any: SocketAddr =
        if to.is_ipv4() { ([0, 0, 0, 0], from).into() } else { ([0; 16], from).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(&[1]).await?;
    socket.recv(&mut [0]).await.map(drop)
}
