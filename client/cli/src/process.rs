//! Runs other programs by argument vectors, limited in time and output. No shell is involved.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Directories of system programs, which may not be in `$PATH` of a user.
const SYSTEM_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Limit of what is kept of the standard error.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) within: Duration,
    /// Limit of the standard output; the rest is not read.
    pub(crate) bytes_max: usize,
}

/// The output of a program that was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The exit code; `None`: it was killed by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// Whether the output was longer than permitted.
    pub(crate) cut: bool,
}

impl Ran {
    /// The standard output if the program succeeded; otherwise what went wrong.
    pub(crate) fn ok(self, argv: &[String]) -> Result<Vec<u8>, String> {
        // A program that is cut off may fail because nobody reads on.
        if self.code == Some(0) || self.cut {
            return Ok(self.stdout);
        }
        let said = self.stderr.trim();
        let how = self.code.map_or_else(|| "a signal".into(), |code| format!("code {code}"));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(format!("{} ended with {how}{said}", shown(argv)))
    }
}

/// An argument vector as text, for people.
pub(crate) fn shown(argv: &[String]) -> String {
    argv.join(" ")
}

/// Words as an argument vector.
pub(crate) fn argv<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

/// The file of a program: as given if it is a path, otherwise found in `$PATH` or a system directory.
pub(crate) fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| file.is_file());
    }
    let listed = path.into_iter().flat_map(std::env::split_paths);
    let mut dirs = listed.chain(SYSTEM_DIRS.iter().map(PathBuf::from));
    dirs.find_map(|dir| Some(dir.join(program)).filter(|file| file.is_file()))
}

/// A command for an argument vector: no input, killed when dropped, messages in English.
pub(crate) fn command(argv: &[String]) -> Result<Command, String> {
    let (program, rest) = argv.split_first().ok_or("there is no program to run")?;
    let file = find(program, std::env::var_os("PATH").as_deref());
    let file = file.ok_or_else(|| format!("{program} is not installed here"))?;
    let mut command = Command::new(file);
    command.args(rest).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Runs a program to its end, or to its limits.
pub(crate) async fn run(argv: &[String], limits: Limits) -> Result<Ran, String> {
    drive(command(argv)?, argv, None, limits).await
}

/// The same with an input, and with `env` instead of this program's environment: how plugins are called.
pub(crate) async fn run_with(
    argv: &[String],
    env: Option<&[(String, String)]>,
    input: &[u8],
    limits: Limits,
) -> Result<Ran, String> {
    let mut command = command(argv)?;
    if let Some(env) = env {
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    }
    command.stdin(Stdio::piped());
    drive(command, argv, Some(input), limits).await
}

async fn drive(
    mut command: Command,
    argv: &[String],
    input: Option<&[u8]>,
    Limits { within, bytes_max }: Limits,
) -> Result<Ran, String> {
    let name = argv.first().map(String::as_str).unwrap_or_default();
    let child = command.spawn();
    let mut child = child.map_err(|error| format!("{name} cannot be started: {error}"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program that does not read its input says why on its own.
                _ = stdin.write_all(input).await;
            }
        };
        let reads = (read(stdout, bytes_max), read(stderr, ERROR_BYTES_MAX));
        let ((), (stdout, cut), (stderr, _)) = tokio::join!(feed, reads.0, reads.1);
        (stdout, cut, stderr, child.wait().await)
    };
    let ended = timeout(within, work).await;
    let (stdout, cut, stderr, status) =
        ended.map_err(|_| format!("{} did not end within {within:?}", shown(argv)))?;
    let status = status.map_err(|error| format!("{name}: {error}"))?;
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Ok(Ran { code: status.code(), stdout, stderr, cut })
}

/// Reads at most `bytes_max` bytes, and says whether there are more.
async fn read(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> (Vec<u8>, bool) {
    let Some(mut from) = from else { return (Vec::new(), false) };
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count) = from.read(&mut piece).await {
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        if bytes.len() > bytes_max {
            bytes.truncate(bytes_max);
            return (bytes, true);
        }
    }
    (bytes, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { within: Duration::from_secs(20), bytes_max: 1_000 };

    #[tokio::test]
    async fn output_and_failures_are_told_apart() {
        let echo = argv(["echo", "a b", "$HOME"]);
        assert_eq!(run(&echo, LIMITS).await.unwrap().ok(&echo).unwrap(), b"a b $HOME\n");
        let missing = argv(["cat", "/no/such/file"]);
        let why = run(&missing, LIMITS).await.unwrap().ok(&missing).unwrap_err();
        assert!(
            why.starts_with("cat /no/such/file ended with code 1: ") && why.contains("No such")
        );
        let none = run(&argv(["romana-no-such-program"]), LIMITS).await.unwrap_err();
        assert_eq!(none, "romana-no-such-program is not installed here");
        let fed = argv(["cat"]);
        let env = [("A".to_owned(), "b".to_owned())];
        assert_eq!(run_with(&fed, Some(&env), b"in", LIMITS).await.unwrap().stdout, b"in");
        let own = argv(["env"]);
        assert_eq!(run_with(&own, Some(&env), b"", LIMITS).await.unwrap().stdout, b"A=b\n");
    }

    #[tokio::test]
    async fn what_does_not_end_is_cut_off() {
        let endless = argv(["yes"]);
        let ran = run(&endless, LIMITS).await.unwrap();
        assert!(ran.cut && ran.stdout.len() == 1_000 && ran.ok(&endless).is_ok());
        let slow = argv(["sleep", "1000"]);
        let limits = Limits { within: Duration::from_millis(50), ..LIMITS };
        assert_eq!(run(&slow, limits).await.unwrap_err(), "sleep 1000 did not end within 50ms");
    }

    #[test]
    fn programs_are_found_without_a_path() {
        assert!(find("ls", None).is_some());
        assert_eq!(find("/no/such/program", None), None);
    }
}
