//! Upstreams: addresses, and files like resolv.conf.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use romana_daemon::file;

use super::PORT;

/// Size limit of a file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Most upstreams.
const UPSTREAMS_MAX: usize = 15;

/// Reads a list of addresses and files. An upstream that is this server itself is left out: questions would go round.
pub(super) fn read(given: &[String], own: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
    let mut found: Vec<SocketAddr> = Vec::new();
    // An empty text is an empty list: --upstream "".
    for text in given.iter().filter(|text| !text.is_empty()) {
        let some = match address(text) {
            Some(address) => vec![address],
            None if text.starts_with('/') => from_file(Path::new(text))?,
            None => return Err(format!("{text:?} is neither an address nor an absolute path")),
        };
        for address in some {
            if !found.contains(&address) && !is_own(address, own) {
                found.push(address);
            }
        }
    }
    match found.len() {
        0..=UPSTREAMS_MAX => Ok(found),
        many => Err(format!("{many} upstreams are too many: give at most {UPSTREAMS_MAX}")),
    }
}

/// Whether this server listens at an address. Who listens at all addresses listens at `127.0.0.1` and `::1`; others of
/// the loopback may belong to another server, such as Docker's at `127.0.0.11`.
pub(super) fn is_own(address: SocketAddr, listen: &[SocketAddr]) -> bool {
    let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    listen.iter().any(|at| {
        let includes = at.ip().is_unspecified() && here.contains(&address.ip());
        *at == address || (at.port() == address.port() && includes)
    })
}

fn from_file(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let text = file::read_text(path, FILE_BYTES_MAX)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(nameservers(&text))
}

/// The `nameserver` lines of resolv.conf(5).
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    lines.filter_map(address).collect()
}

/// `10.0.0.2`, `10.0.0.2:53`, `fd00::2`, `[fd00::2]:53`.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let bare = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    text.parse().ok().or_else(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let text = "# comment\nsearch a b\nnameserver 10.0.0.2\nnameserver fd00::2 # two\n\
                    nameserver bad\noptions ndots:5\nnameserver 127.0.0.1\n";
        std::fs::write(&path, text).unwrap();
        let given = |items: &[&str]| {
            let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
            read(&items, &["127.0.0.1:53".parse().unwrap()])
        };
        let path = path.display().to_string();
        let found = given(&["10.0.0.1:5353", "10.0.0.2", &path]).unwrap();
        let expected = ["10.0.0.1:5353", "10.0.0.2:53", "[fd00::2]:53"];
        assert_eq!(found, expected.map(|text| text.parse().unwrap()));
        assert_eq!(given(&[]).unwrap(), []);
        assert_eq!(given(&[""]).unwrap(), []);
        for bad in ["dns.example", "/none", "10.0.0.1:99999"] {
            assert!(given(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_addresses_include_the_loopback() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let listen = ["0.0.0.0:53", "[::]:5353", "192.0.2.1:54"].map(at);
        for own in ["0.0.0.0:53", "127.0.0.1:53", "127.0.0.1:5353", "[::1]:5353", "192.0.2.1:54"] {
            assert!(is_own(at(own), &listen), "{own}");
        }
        for other in ["127.0.0.1:54", "127.0.0.11:53", "192.0.2.1:53", "[2001:db8::1]:5353"] {
            assert!(!is_own(at(other), &listen), "{other}");
        }
    }
}
