//! A replica without its majority, as seen by scripts.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::real::{free_port, romanad};

/// One running founder out of three; killed when dropped.
struct Alone {
    api: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Alone {
    fn start() -> Self {
        let (api, dir) = (free_port(), tempfile::tempdir().unwrap());
        let peers: Vec<u16> = std::iter::repeat_with(free_port).take(3).collect();
        let founders: Vec<String> =
            (1..).zip(&peers).map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(romanad())
            .args(["--id", "1", "--listen", &format!("127.0.0.1:{api}")])
            .args(["--peer-listen", &format!("127.0.0.1:{}", peers[0])])
            .args(["--initial-cluster", &founders.join(","), "--data-dir"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let alone = Self { api, child, _dir: dir };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", api)).is_err() {
            assert!(Instant::now() < until, "romanad does not listen");
            std::thread::yield_now();
        }
        alone
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn romana(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_romana"))
            .args(["-r", &format!("http://127.0.0.1:{}", self.api), "--timeout", "2s"])
            .args(words)
            .env_clear()
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn a_replica_without_a_majority_says_so_everywhere() {
    let alone = Alone::start();
    let ready = alone.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("more than half") || ready.contains("recovering"), "{ready}");
    assert!(alone.get("/healthz").starts_with("HTTP/1.1 200"));
    let metrics = alone.get("/metrics");
    let gauge = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with("romana") && line.contains(name));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).to_owned()
    };
    assert!(gauge("raft_has_leader ").ends_with(" 0"), "{metrics}");
    assert!(gauge("raft_is_leader ").ends_with(" 0"), "{metrics}");
    for (words, code) in [
        (&["cluster", "status"][..], 3),
        (&["host", "list"], 3),
        (&["tenant", "create", "t"], 3),
        (&["doctor"], 1),
    ] {
        let (status, said) = alone.romana(words);
        assert_eq!(status, Some(code), "{words:?}: {said}");
    }
    assert!(alone.romana(&["cluster", "status"]).1.contains("no leader"));
    let said = alone.romana(&["doctor"]).1;
    assert!(said.contains("replicas are healthy, ") && said.contains("are needed"), "{said}");
}
