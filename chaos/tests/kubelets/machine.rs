//! A machine: a process with network, mount and process namespaces of its own, and what is started in them. It has no
//! name outside: when its first process ends, the kernel ends the others, and links, mounts and pods go with them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{LOOK, must};

/// Nothing that is waited for here takes longer.
const START: Duration = Duration::from_secs(10);

pub(crate) struct Machine {
    pub(crate) name: String,
    /// Its first process, by its number outside.
    init: u32,
    outer: Child,
    /// Programs that stay, by the names of their logs.
    programs: Vec<(String, Child)>,
    /// Files of this machine.
    pub(crate) dir: PathBuf,
}

impl Machine {
    /// Starts a machine; `init` waits for its children for ever. It dies with the thread that starts it, too.
    pub(crate) fn start(name: &str, init: &Path, parent: &Path) -> Self {
        assert!(rustix::process::getuid().is_root(), "namespaces need root");
        let dir = parent.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        let outer = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"])
            .args(["--kill-child=KILL", "--mount-proc", "--propagation", "private"])
            .arg(init)
            .stdin(Stdio::null())
            .spawn()
            .expect("start setpriv and unshare (package util-linux)");
        let init = first_process(outer.id(), init);
        let machine = Self { name: name.into(), init, outer, programs: Vec::new(), dir };
        machine.run("ip", &["link", "set", "lo", "up"]);
        // As on a node with systemd: what is mounted later appears in containers that ask for it.
        machine.run("mount", &["--make-rshared", "/"]);
        machine
    }

    /// A command in this machine.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", "--mount", "--pid", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// Runs a program, which must succeed. Returns its output.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        must(self.command(program).args(arguments))
    }

    /// Starts a program that stays; its output goes to a log.
    pub(crate) fn start_program(&mut self, name: &str, program: &Path, arguments: &[String]) {
        let log = File::options().create(true).append(true).open(self.log(name)).expect("a log");
        // nsenter stays in between: the program dies with it.
        let child = self
            .command("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start nsenter (package util-linux)");
        self.programs.push((name.into(), child));
    }

    /// kill -9 of a program.
    pub(crate) fn kill_program(&mut self, name: &str) {
        let at = self.programs.iter().position(|(known, _)| known == name).expect("it runs");
        let (_, mut child) = self.programs.swap_remove(at);
        child.kill().expect("kill a program");
        child.wait().expect("wait for a program");
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// The end of a program's log.
    pub(crate) fn log_tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// A path of this machine, from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// The name of its link on the bridge that it is connected to.
    pub(crate) fn port(&self) -> String {
        format!("to-{}", self.name)
    }

    /// Connects the machine to the bridge of another one.
    pub(crate) fn plug(&self, switch: &Self, address: &str) {
        let (here, there) = (self.init.to_string(), switch.init.to_string());
        let port = self.port();
        must(
            Command::new("nsenter")
                .args(["--target", &there, "--net", "ip", "link", "add", &port])
                .args(["type", "veth", "peer", "name", "eth0", "netns", &here]),
        );
        switch.run("ip", &["link", "set", &port, "master", "br0", "up"]);
        self.run("ip", &["link", "set", "eth0", "up"]);
        self.run("ip", &["addr", "add", address, "dev", "eth0"]);
    }

    /// Moves this thread into the machine's network; threads and processes that it starts later are there, too.
    pub(crate) fn enter_network(&self) {
        enter(Path::new(&format!("/proc/{}/ns/net", self.init))).expect("root");
    }
}

impl Machine {
    /// Starts the machine that has ended again, under its name, with its files.
    pub(crate) fn restart(&mut self, init: &Path) {
        self.end();
        let parent = self.dir.parent().expect("a folder").to_owned();
        let name = self.name.clone();
        *self = Self::start(&name, init, &parent);
    }

    /// Ends the machine, with everything that runs in it.
    pub(crate) fn end(&mut self) {
        if self.outer.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // The kernel ends all other processes before this one has ended.
        if let Some(init) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            _ = kill_process(init, Signal::KILL);
        }
        for (_, child) in &mut self.programs {
            _ = child.wait();
        }
        _ = self.outer.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Moves this thread into a network namespace.
pub(crate) fn enter(namespace: &Path) -> std::io::Result<()> {
    let file = File::open(namespace)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// The number of the process that `unshare` has forked, once it runs the program.
fn first_process(outer: u32, program: &Path) -> u32 {
    let begun = Instant::now();
    loop {
        let children = children(outer);
        let runs = |pid: &&u32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program)
        };
        if let Some(pid) = children.iter().find(runs) {
            return *pid;
        }
        assert!(begun.elapsed() < START, "unshare has not started {}", program.display());
        std::thread::sleep(LOOK);
    }
}

/// Numbers of a process's children.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    numbers.filter(is_child).collect()
}
