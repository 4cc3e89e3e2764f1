//! The clients' access to the cluster: with the client library, which retries, or with single HTTP requests,
//! so that guarantees of a single request are checked as well.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use romana_client::{Client, ClientConfig, Error, Server};
use romana_statemachine::name::AddressName;
use romana_statemachine::{Command, Revision};
use serde_json::{Value, json};

use crate::evidence::{Ask, HeldAddress, Outcome};
use crate::http::{Answer, Connection, HttpError};

/// Timeout of a single request.
const PATIENCE: Duration = Duration::from_secs(3);

/// Creates a library client for these replicas.
///
/// # Errors
/// Never in practice: the addresses are valid.
pub fn library(apis: &[SocketAddr], actor: &str) -> Result<Client> {
    let servers = apis
        .iter()
        .map(|api| Server::parse(&api.to_string(), api.port()))
        .collect::<Result<Vec<_>, _>>()
        .context("addresses of the replicas")?;
    let mut config = ClientConfig::new(servers);
    config.actor = actor.to_owned();
    Client::new(config).context("make a client")
}

/// A way to call the cluster.
#[derive(Debug)]
pub enum Caller {
    Library(Client),
    /// One request at a time on a kept-alive connection to a random replica, without retries.
    Bare {
        apis: Vec<SocketAddr>,
        connection: Option<Connection>,
    },
}

impl Caller {
    /// Whether it may send a command more than once.
    #[must_use]
    pub fn retries(&self) -> bool {
        matches!(self, Self::Library(_))
    }

    /// Makes a call and returns its outcome.
    pub async fn call(&mut self, ask: &Ask, rng: &mut SmallRng) -> Outcome {
        match (self, ask) {
            // Reads never use the library, which does not return the revision of a read.
            (Self::Library(client), Ask::Command(command)) => {
                judge_library(client.submit(command).await)
            }
            (Self::Library(client), Ask::Read(_) | Ask::Who(_)) => {
                let servers = client.servers();
                let server = &servers[rng.random_range(0..servers.len())];
                let Ok(api) = server.to_string().trim_start_matches("http://").parse() else {
                    return Outcome::Unavailable;
                };
                Self::Bare { apis: vec![api], connection: None }.bare(ask, rng).await
            }
            // The library has no call for a local read at a given replica.
            (Self::Library(_), Ask::Local(..)) => Outcome::Unavailable,
            (caller @ Self::Bare { .. }, ask) => caller.bare(ask, rng).await,
        }
    }

    async fn bare(&mut self, ask: &Ask, rng: &mut SmallRng) -> Outcome {
        let Self::Bare { apis, connection } = self else { return Outcome::Unavailable };
        let held = match (connection.take(), ask) {
            (_, Ask::Local(_, place)) => {
                // Places count from 1.
                let at = usize::try_from(*place).unwrap_or(1).saturating_sub(1);
                Connection::open(apis[at.min(apis.len() - 1)], PATIENCE).await
            }
            (Some(held), _) if held.is_open() && rng.random_bool(0.9) => Ok(held),
            _ => Connection::open(apis[rng.random_range(0..apis.len())], PATIENCE).await,
        };
        let mut open = match held {
            Ok(open) => open,
            Err(_) => return Outcome::Unavailable,
        };
        let (method, path, body) = request(ask);
        let answer = open.call(method, &path, body.as_ref(), PATIENCE).await;
        if answer.is_ok() && !matches!(ask, Ask::Local(..)) {
            *connection = Some(open);
        }
        judge_bare(ask, answer)
    }
}

/// The request for a call: a resource if there is one, else a batch of one.
fn request(ask: &Ask) -> (Method, String, Option<Value>) {
    let address = |name: &AddressName| format!("/v1/addresses/{name}");
    match ask {
        Ask::Read(name) => (Method::GET, address(name), None),
        Ask::Who(ip) => (Method::GET, format!("/v1/audit/who?ip={ip}"), None),
        Ask::Local(name, _) => (Method::GET, format!("{}?consistency=local", address(name)), None),
        Ask::Command(command) => match &**command {
            Command::AllocateAddress(ask) => {
                (Method::POST, String::from("/v1/addresses"), serde_json::to_value(ask).ok())
            }
            Command::ReleaseAddress(ask) => (Method::DELETE, address(&ask.address), None),
            command => (Method::POST, String::from("/v1/batch"), Some(json!([command]))),
        },
    }
}

fn judge_library(result: Result<romana_client::model::Done, Error>) -> Outcome {
    match result {
        Ok(done) => Outcome::Acked {
            revision: done.revision,
            changed: Some(done.changed),
            held: done.allocation.map(|allocation| HeldAddress {
                name: allocation.name,
                ip: allocation.ip,
                host: allocation.host,
                revision: allocation.revision,
            }),
        },
        Err(Error::Refused(error)) => Outcome::Refused { code: error.code },
        Err(Error::Unavailable { .. } | Error::Newer { .. } | Error::Config { .. }) => {
            Outcome::Unavailable
        }
        Err(Error::Unknown { .. } | Error::Protocol { .. }) => Outcome::Unknown,
    }
}

fn judge_bare(ask: &Ask, answer: Result<Answer, HttpError>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(HttpError::Unsent(..)) => return Outcome::Unavailable,
        Err(HttpError::Lost(_)) => return Outcome::Unknown,
    };
    let item = answer.body.get(0);
    let revision = item
        .and_then(|item| item.get("revision"))
        .and_then(Value::as_u64)
        .or(answer.revision)
        .unwrap_or_default();
    match (answer.status, answer.code()) {
        (404, "AddressNotFound") if matches!(ask, Ask::Read(_) | Ask::Local(..)) => {
            Outcome::Acked { revision: Revision(revision), changed: None, held: None }
        }
        (200..=299, _) => match item.and_then(|item| item.pointer("/error/code")) {
            Some(code) => refused(code.as_str().unwrap_or_default()),
            None => acked(ask, Revision(revision), &answer),
        },
        (_, code @ ("Unavailable" | "Busy" | "OutcomeUnknown" | "Internal")) => refused(code),
        (400..=499 | 507, code) if !code.is_empty() => refused(code),
        _ => Outcome::Unknown,
    }
}

fn refused(code: &str) -> Outcome {
    match code {
        "Unavailable" | "Busy" => Outcome::Unavailable,
        "OutcomeUnknown" | "Internal" | "" => Outcome::Unknown,
        code => Outcome::Refused { code: code.to_owned() },
    }
}

fn acked(ask: &Ask, revision: Revision, answer: &Answer) -> Outcome {
    let wants_address = match ask {
        Ask::Who(_) => return who(revision, answer),
        Ask::Read(_) | Ask::Local(..) => true,
        Ask::Command(command) => matches!(&**command, Command::AllocateAddress(_)),
    };
    let changed = match ask {
        Ask::Read(_) | Ask::Local(..) | Ask::Who(_) => None,
        Ask::Command(_) => wants_address.then_some(answer.status == 201),
    };
    // An acknowledged allocation without an address in the answer is left to the oracle.
    let held = wants_address.then(|| held(&answer.body)).flatten();
    Outcome::Acked { revision, changed, held }
}

/// The current holder among all holders of an address.
fn who(revision: Revision, answer: &Answer) -> Outcome {
    let tenures = answer.body.get("items").and_then(Value::as_array);
    let Some(tenures) = tenures.filter(|_| answer.body.get("continue").is_none()) else {
        // Several pages are unexpected here.
        return Outcome::Unavailable;
    };
    let last = tenures.last().filter(|tenure| tenure.get("to").is_none_or(Value::is_null));
    let held = last.and_then(|tenure| {
        let mut tenure = tenure.clone();
        tenure["revision"] = tenure.pointer("/from/revision")?.clone();
        held(&tenure)
    });
    Outcome::Acked { revision, changed: None, held }
}

/// Parses an address in an answer.
#[must_use]
pub fn held(body: &Value) -> Option<HeldAddress> {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    Some(HeldAddress {
        name: text("name")?.into(),
        ip: text("ip")?.parse().ok()?,
        host: text("host")?.into(),
        revision: Revision(body.get("revision")?.as_u64()?),
    })
}
