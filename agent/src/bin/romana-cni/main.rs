//! `romana-cni`, the CNI plugin: it passes standard input to the agent's socket. It is started for every
//! container, so it has no runtime, no log and no state.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use romana_agent::cni::{self, Agent, Env};
use romana_agent::ipc::{self, FRAME_BYTES_MAX, Reply, Request};
use romana_agent::ownership;
use romana_daemon::durable;
use romana_statemachine::escaped_json;

/// The agent always answers within a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long an ADD waits for an agent that restarts: a DaemonSet replaces its pod in less. Runtimes wait for minutes.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Connects to the agent. `waits`: also to one that is about to start again.
fn connect(socket: &str, waits: bool) -> io::Result<UnixStream> {
    let begun = Instant::now();
    // Without the socket's directory no agent has run since the host booted.
    let patience = match Path::new(socket).parent().is_some_and(Path::is_dir) && waits {
        true => RESTART_MAX,
        false => Duration::ZERO,
    };
    loop {
        match UnixStream::connect(socket) {
            Err(error) if is_away(&error) && begun.elapsed() < patience => {
                std::thread::sleep(PAUSE);
            }
            connected => return connected,
        }
    }
}

/// Whether nobody listens at the socket.
fn is_away(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whether the agent has closed the connection without an answer.
fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Sends a request, and receives the reply. `waits`: also from an agent that is about to start again.
fn exchange(socket: &str, request: &Request, waits: bool) -> io::Result<Reply> {
    let mut stream = connect(socket, waits)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    ipc::send(&mut stream, request)?;
    ipc::receive(&mut stream)
}

/// Client of this host's agent.
struct Socket;

impl Agent for Socket {
    fn ask(&mut self, socket: &str, request: &Request) -> io::Result<Reply> {
        // A DEL has its spool, and STATUS and CHECK are about this moment.
        let waits = matches!(request, Request::Add(_));
        match exchange(socket, request, waits) {
            // The agent has ended after it accepted. It undoes an unfinished ADD when it starts again; one that was
            // finished is refused as a duplicate, and as after any error the runtime sends a DEL.
            Err(error) if waits && is_cut(&error) => exchange(socket, request, waits),
            done => done,
        }
    }

    fn leave(&mut self, state_dir: &str, request: &Request) -> io::Result<()> {
        let dir = Path::new(state_dir).join(ownership::SPOOL_DIR);
        std::fs::create_dir_all(&dir)?;
        let name = ipc::digest(request);
        durable::save(&dir.join(name), request).map_err(io::Error::other)
    }
}

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = io::stdin().take(FRAME_BYTES_MAX as u64).read_to_end(&mut stdin);
    let output = cni::run(&Env::new(std::env::vars_os()), read.map(|_| stdin), &mut Socket);
    if !output.stdout.is_empty() {
        // An error means that the runtime no longer reads.
        _ = writeln!(io::stdout(), "{}", escaped_json(&output.stdout));
    }
    ExitCode::from(output.status)
}
