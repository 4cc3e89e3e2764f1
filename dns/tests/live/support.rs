//! A running `romana-dns`, questions to it, and an upstream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "no {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running server; killed on drop.
pub(crate) struct Dns {
    child: Child,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    metrics: String,
    log: Arc<Mutex<String>>,
}

impl Dns {
    /// Starts a server that follows an API server, and waits until it is ready.
    pub(crate) fn follow(api: &Api, dir: &TempDir, arguments: &[&str]) -> Self {
        let kubeconfig = api.kubeconfig(dir.path()).display().to_string();
        let dns = Self::start(
            dir.path(),
            &[&["--kubernetes", "--kubeconfig", &kubeconfig], arguments].concat(),
        );
        until("readiness", || dns.get("/readyz").0 == 200);
        dns
    }

    pub(crate) fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_romana-dns"))
            .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "json"])
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(arguments)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let (mut address, mut metrics) = (None, None);
        let mut text = String::new();
        while address.is_none() || metrics.is_none() {
            let start = text.len();
            assert_ne!(lines.read_line(&mut text).unwrap(), 0, "it ended: {text}");
            let line: Value = serde_json::from_str(&text[start..]).unwrap();
            let Some(found) = line["address"].as_str().map(str::to_owned) else { continue };
            match line["message"].as_str().unwrap_or_default() {
                "answering by UDP and TCP" => address = Some(found.parse().unwrap()),
                _ => metrics = Some(found),
            }
        }
        let log = Arc::new(Mutex::new(text));
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, address: address.unwrap(), metrics: metrics.unwrap(), log }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGTERM; the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// A path of the probe: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: dns\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
    }

    /// What `dig` prints.
    pub(crate) fn dig(&self, arguments: &str) -> String {
        let output = Command::new("dig")
            .arg(format!("@{}", self.address.ip()))
            .args(["-p", &self.address.port().to_string(), "+tries=1", "+time=10"])
            .args(arguments.split(' '))
            .output()
            .expect("dig (deploy/test-setup.sh installs what the tests need)");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "dig {arguments}: {text}\n{}", self.log());
        text
    }

    /// The records of an answer, sorted.
    pub(crate) fn short(&self, arguments: &str) -> Vec<String> {
        let mut lines: Vec<String> =
            self.dig(&format!("+short {arguments}")).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The code and the flags of an answer.
    pub(crate) fn status(&self, arguments: &str) -> (String, String) {
        let text = self.dig(arguments);
        let between = |from: &str, to: &str| {
            let rest = text.split_once(from).unwrap_or_else(|| panic!("{text}")).1;
            rest.split_once(to).unwrap().0.to_owned()
        };
        (between("status: ", ","), between("flags: ", ";"))
    }

    /// A question by UDP over a socket of its own; `None` if no answer comes soon.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(&question(7, name, kind), self.address).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..length]).unwrap())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // A process that has ended already is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A question as a packet.
pub(crate) fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// How an upstream answers a question: the answer, or silence.
pub(crate) type Behaviour = fn(&Message) -> Option<Message>;

/// A DNS server in two threads: what is longer than 512 bytes is whole by TCP only.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

/// Sockets of UDP and TCP with one port: another test may have the one that is free for UDP.
fn both() -> (UdpSocket, TcpListener) {
    let pair = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind(socket.local_addr().unwrap()).ok()?;
        Some((socket, listener))
    };
    std::iter::repeat_with(pair).take(100).flatten().next().expect("a port for both")
}

impl Upstream {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let (socket, listener) = both();
        let address = socket.local_addr().unwrap();
        let (asked, silent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, quiet) = (Arc::clone(&asked), Arc::clone(&silent));
        thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                answer_by_tcp(stream, behaviour);
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).unwrap();
                if quiet.load(Ordering::SeqCst) {
                    continue;
                }
                let request = Message::from_vec(&buffer[..length]).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let Some(mut answer) = behaviour(&request) else { continue };
                if answer.to_vec().unwrap().len() > 512 {
                    answer.answers.truncate(1);
                    answer.metadata.truncation = true;
                }
                socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
            }
        });
        Self { address, asked, silent }
    }

    /// Questions so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }
}

/// Answers one question.
fn answer_by_tcp(mut stream: TcpStream, behaviour: Behaviour) {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet).unwrap();
    let Some(answer) = behaviour(&Message::from_vec(&packet).unwrap()) else { return };
    let answer = answer.to_vec().unwrap();
    let length = u16::try_from(answer.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).unwrap();
}
