//! Addresses of the replicas, and timeouts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};

use crate::error::Error;

pub use romana_api::API_PORT;

/// Configuration of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Some replicas, at least one; others are discovered.
    pub servers: Vec<Server>,
    /// Timeout of a call, including retries.
    pub timeout: Duration,
    /// Timeout of an attempt, after which another replica is tried. Attempts that must not
    /// be repeated are not cut short.
    pub attempt_timeout: Duration,
    /// For slow queries: timeout of an attempt that may exceed `timeout`, which then limits
    /// the search for a replica only.
    pub patience: Option<Duration>,
    /// The actor, recorded with every event (`X-Romana-Actor`). Visible ASCII.
    pub actor: String,
}

impl ClientConfig {
    /// Configuration for these servers, with default timeouts.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self {
            servers,
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            patience: None,
            actor: String::from("client"),
        }
    }
}

/// A replica's API: scheme and authority, no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    scheme: Scheme,
    authority: Authority,
}

impl Server {
    /// The URI of a request. `path` starts with a slash.
    pub(crate) fn uri(&self, path: &str) -> Result<Uri, Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| Error::config(format!("{path:?} is not a request path")))
    }

    /// The host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(crate::API_PORT)
    }

    /// The same host at another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        let host = self.authority.host();
        match Authority::from_str(&format!("{host}:{port}")) {
            Ok(authority) => Self { scheme: self.scheme.clone(), authority },
            Err(_) => self.clone(), // Unreachable: a host and a port form a valid authority.
        }
    }

    /// Parses a comma-separated list, such as `http://10.0.0.1,http://10.0.0.2:9600`.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid element or an empty list.
    pub fn list(text: &str, default_port: u16) -> Result<Vec<Self>, Error> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let servers =
            parts.map(|url| Self::parse(url, default_port)).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(Error::config("no server is given; write http://HOST:9600"));
        }
        Ok(servers)
    }

    /// Parses `http://host[:port]` or `host[:port]`.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason.
    pub fn parse(url: &str, default_port: u16) -> Result<Self, Error> {
        let bad = |why: &str| Error::config(format!("{url:?} is not a server: {why}"));
        let text = url.trim().trim_end_matches('/');
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(bad("only http:// is supported"));
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("write http://HOST:PORT, without a path or user"));
        }
        let authority = Authority::from_str(rest).map_err(|_| bad("write http://HOST:PORT"))?;
        if authority.host().is_empty() {
            return Err(bad("the host is missing"));
        }
        let named = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let authority = match (named, authority.port_u16()) {
            (None, _) => Authority::from_str(&format!("{rest}:{default_port}"))
                .map_err(|_| bad("write http://HOST:PORT"))?,
            (Some(_), Some(port)) if port > 0 => authority,
            (Some(_), _) => return Err(bad("the port is not between 1 and 65535")),
        };
        Ok(Self { scheme: Scheme::HTTP, authority })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::parse(url, API_PORT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_read() {
        for (text, expected) in [
            ("http://10.0.0.1", Some("http://10.0.0.1:9600")),
            ("http://10.0.0.1:80/", Some("http://10.0.0.1:80")),
            ("HTTP://host", Some("http://host:9600")),
            ("host:1", Some("http://host:1")),
            ("[::1]", Some("http://[::1]:9600")),
            ("http://[fd00::1]:9601", Some("http://[fd00::1]:9601")),
            ("https://host", None),
            ("http://", None),
            ("http://host/path", None),
            ("http://user@host", None),
            ("host:99999", None),
            ("host:0", None),
            ("host:", None),
            ("ho st", None),
        ] {
            let read = Server::parse(text, 9600).ok().map(|server| server.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
        assert_eq!(Server::list("a, b:1,,c", 9600).unwrap().len(), 3);
        assert!(Server::list(" , ", 9600).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*", port in 1u16..) {
            if let Ok(server) = Server::parse(&text, port) {
                prop_assert!(server.uri("/v1/cluster").is_ok());
            }
        }
    }
}
