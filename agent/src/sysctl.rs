//! The sysctls of the host: those that forwarding needs (Romana 2.0: agent flag `-provision-sysctls`), and those of the
//! agent's own links.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// Where a system without containers has them.
pub const SYSCTL_DIR: &str = "/proc/sys";
/// Must be 1 where containers have addresses of the family: IPv4, IPv6.
pub const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// The sysctls below a directory, which has the host's `/proc/sys/net` as `net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls(PathBuf);

impl Sysctls {
    /// Those of a directory.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The path of a sysctl such as `net/ipv4/ip_forward`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The value of a sysctl.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, name: &str) -> io::Result<String> {
        std::fs::read_to_string(self.path(name)).map(|value| value.trim().to_owned())
    }

    /// Sets a sysctl.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.path(name), value)
    }

    /// Sets the sysctl that forwards packets of a family, or only checks it. Returns why they are not forwarded, if so.
    #[must_use]
    pub fn forward(&self, v4: bool, set: bool) -> Option<String> {
        let [four, six] = FORWARDING;
        let name = if v4 { four } else { six };
        let shown = name.replace('/', ".");
        match self.read(name) {
            Ok(value) if value == "1" => None,
            // A kernel without IPv6 has nothing to forward.
            Err(error) if error.kind() == ErrorKind::NotFound && !v4 && self.has_ipv4() => None,
            Err(error) => {
                let path = self.path(name);
                Some(format!("{shown} cannot be read at {}: {error}", path.display()))
            }
            Ok(_) if set => {
                let written = self.write(name, "1");
                written.err().map(|error| format!("{shown} cannot be set to 1: {error}"))
            }
            Ok(value) => Some(format!(
                "{shown} is {value}: set it to 1, or start the agent with --set-sysctls"
            )),
        }
    }

    fn has_ipv4(&self) -> bool {
        self.path("net/ipv4").is_dir()
    }
}
