//! The initial topology of a new cluster: from a document, or a built-in one. It becomes the first
//! proposal; a cluster that already has a history ignores it.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use romana_statemachine::command::{RaiseVersion, ReserveServices};
use romana_statemachine::topology::{TopologySpec, builtin, builtin_names};
use romana_statemachine::{
    Actor, Command, Entry, Index, Millis, Position, Proposal, State, Term, VERSION_MAX,
};
use tokio::net::TcpStream;

use crate::config::{Config, InitialTopology};

/// The AWS instance metadata service: link-local, answered by the hypervisor.
const METADATA: &str = "169.254.169.254:80";
/// Timeout of the whole look-up.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of an answer, in bytes.
const METADATA_BYTES_MAX: usize = 4096;
/// Maximum size of a topology document, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Why there is no initial topology.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The document cannot be read.
    #[error("cannot read the initial topology {path}")]
    Read { path: String, source: std::io::Error },
    #[error("the initial topology {path} is not valid: {why}")]
    Document {
        /// The file, or the name of the built-in topology.
        path: String,
        /// The invalid field and the reason.
        why: String,
    },
    /// There is no built-in topology with that name.
    #[error("there is no built-in topology {name}; there are: {known}")]
    NoBuiltin {
        name: String,
        /// The names of the built-in topologies.
        known: String,
    },
    /// The region could not be determined.
    #[error("cannot look up the region at the instance metadata service ({why}): give --region")]
    Region { why: String },
    /// An override names an unknown network.
    #[error("network_cidr_overrides names network {network}, which the initial topology has not")]
    UnknownNetwork { network: String },
    /// A network overlaps the service range.
    #[error(
        "network {network} ({cidr}) overlaps service_cluster_ip_range {range}: choose another CIDR, \
         with --network-cidr-overrides {network}=CIDR for example"
    )]
    OverlapsServices { network: String, cidr: String, range: String },
    /// The cluster would refuse to reserve the service ranges.
    #[error("service_cluster_ip_range is not valid: {why}")]
    Services { why: String },
}

/// What the first leader of a new cluster proposes: the current behaviour version from the first entry on, and
/// the initial topology, if there is one.
///
/// # Errors
/// [`BootstrapError`].
pub async fn initial_proposals(config: &Config) -> Result<Vec<Proposal>, BootstrapError> {
    let (name, spec) = match &config.initial_topology {
        InitialTopology::Later => return Ok(first(config)?.0),
        InitialTopology::File(path) => (path.display().to_string(), read(path)?),
        InitialTopology::Builtin(name) => ((*name).to_owned(), built_in(name)?),
        InitialTopology::Aws(region) => {
            let region = match region {
                Some(region) => region.clone(),
                None => look_up_region(METADATA).await?,
            };
            let name = format!("aws-{region}");
            let spec = built_in(&name)?;
            (name, spec)
        }
    };
    let spec = adapt(spec, config)?;
    let (mut proposals, state) = first(config)?;
    let refused = |why: String| BootstrapError::Document { path: name.clone(), why };
    let plan = state.plan_topology(&spec).map_err(|why| refused(why.to_string()))?;
    if let Some(conflict) = plan.conflicts.into_iter().next() {
        return Err(refused(conflict.reason));
    }
    let actor = Actor::from("bootstrap");
    proposals.push(Proposal { actor, command: Command::SetTopology(spec) });
    Ok(proposals)
}

/// A new cluster has no members of an older release, so it starts with the newest version.
fn newest() -> Vec<Proposal> {
    let raise = |version| Command::RaiseVersion(RaiseVersion { version });
    let commands = (2..=VERSION_MAX).map(raise);
    commands.map(|command| Proposal { actor: Actor::from("bootstrap"), command }).collect()
}

/// That version, and the service ranges if they are known; and the state of a new cluster after them. What the
/// cluster would refuse is refused here, where the operator sees it.
fn first(config: &Config) -> Result<(Vec<Proposal>, State), BootstrapError> {
    let mut proposals = newest();
    let ranges: Vec<String> =
        config.service_cluster_ip_range.iter().map(ToString::to_string).collect();
    if !ranges.is_empty() {
        let command = Command::ReserveServices(ReserveServices { ranges });
        proposals.push(Proposal { actor: Actor::from("bootstrap"), command });
    }
    let mut state = State::new();
    let entry = Entry { at: Millis(0), proposals: proposals.clone() };
    let (outcomes, _) = state.apply(Position { term: Term(0), index: Index(1) }, &entry);
    match outcomes.into_iter().find_map(|outcome| outcome.result.err()) {
        Some(refusal) => Err(BootstrapError::Services { why: refusal.to_string() }),
        None => Ok((proposals, state)),
    }
}

fn read(path: &Path) -> Result<TopologySpec, BootstrapError> {
    let shown = path.display().to_string();
    let read = romana_daemon::file::read(path, DOCUMENT_BYTES_MAX);
    let text = read.map_err(|source| BootstrapError::Read { path: shown.clone(), source })?;
    document(&text).map_err(|why| BootstrapError::Document { path: shown, why })
}

/// Parses JSON, and anything else as YAML: Romana 2.0's documents have comments and trailing commas in lists. If a
/// document is neither, the error refers to the format that it starts like.
fn document(text: &[u8]) -> Result<TopologySpec, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut deserializer);
    let not_json = match read {
        Ok(spec) => match deserializer.end() {
            Ok(()) => return Ok(spec),
            Err(error) => error.to_string(),
        },
        Err(error) if error.inner().is_data() => return Err(wrong(&error)),
        Err(error) => wrong(&error),
    };
    let yaml = serde_yaml_ng::Deserializer::from_slice(text);
    serde_path_to_error::deserialize(yaml)
        .map_err(|error| format!("it is neither JSON ({not_json}) nor YAML ({})", wrong(&error)))
}

fn wrong(error: &serde_path_to_error::Error<impl std::fmt::Display>) -> String {
    format!("field {}: {}", error.path(), error.inner())
}

fn built_in(name: &str) -> Result<TopologySpec, BootstrapError> {
    builtin(name).ok_or_else(|| BootstrapError::NoBuiltin {
        name: name.into(),
        known: builtin_names().join(", "),
    })
}

/// Applies the overrides and checks against the service range.
fn adapt(mut spec: TopologySpec, config: &Config) -> Result<TopologySpec, BootstrapError> {
    for (name, cidr) in &config.network_cidr_overrides {
        let network = spec.networks.iter_mut().find(|network| network.name == *name);
        let network =
            network.ok_or_else(|| BootstrapError::UnknownNetwork { network: name.to_string() })?;
        network.cidr = cidr.to_string();
    }
    let pairs = config.service_cluster_ip_range.iter();
    let pairs = pairs.flat_map(|range| spec.networks.iter().map(move |network| (range, network)));
    for (range, network) in pairs {
        // An invalid CIDR is refused with the rest of the document.
        let Ok(cidr) = romana_statemachine::parse_cidr(&network.cidr) else { continue };
        if cidr.contains(range) || range.contains(&cidr) {
            return Err(BootstrapError::OverlapsServices {
                network: network.name.to_string(),
                cidr: cidr.to_string(),
                range: range.to_string(),
            });
        }
    }
    Ok(spec)
}

/// The region of this instance: its availability zone without the trailing letter.
async fn look_up_region(service: &str) -> Result<String, BootstrapError> {
    let fail = |why: &dyn Display| BootstrapError::Region { why: why.to_string() };
    let zone = tokio::time::timeout(METADATA_TIMEOUT, look_up_zone(service))
        .await
        .map_err(|_| fail(&"no answer within 2 s"))?
        .map_err(|why| fail(&why))?;
    let zone = zone.trim();
    let mut letters = zone.chars();
    let last = letters.next_back();
    let plausible = zone.len() <= 64
        && last.is_some_and(|c| c.is_ascii_lowercase())
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !plausible {
        return Err(fail(&"the answer is not an availability zone"));
    }
    Ok(letters.as_str().to_owned())
}

/// Why the metadata service gave no answer.
#[derive(Debug, thiserror::Error)]
enum LookUpError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("status {0}")]
    Status(hyper::StatusCode),
}

async fn look_up_zone(service: &str) -> Result<String, LookUpError> {
    // Version 2 of the service requires a token; version 1 does not know tokens and refuses to issue one.
    let token = Request::builder()
        .method(Method::PUT)
        .uri("/latest/api/token")
        .header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let token = match ask(service, token).await {
        Ok(token) => Some(token),
        Err(LookUpError::Status(_)) => None,
        Err(error) => return Err(error),
    };
    let mut zone = Request::builder().uri("/latest/meta-data/placement/availability-zone");
    if let Some(token) = token {
        zone = zone.header("x-aws-ec2-metadata-token", token);
    }
    ask(service, zone).await
}

async fn ask(service: &str, request: hyper::http::request::Builder) -> Result<String, LookUpError> {
    let stream = TcpStream::connect(service).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let host = service.strip_suffix(":80").unwrap_or(service);
    let request = request.header(hyper::header::HOST, host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), METADATA_BYTES_MAX).collect().await;
    connection.abort();
    if !status.is_success() {
        return Err(LookUpError::Status(status));
    }
    let bytes = body.map_err(LookUpError::Body)?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use clap::Parser;
    use http_body_util::Full;
    use hyper::Response;
    use hyper::service::service_fn;

    use super::*;
    use crate::config::Args;

    fn config(line: &str) -> Config {
        let words = ["romanad", "--dev"].into_iter().chain(line.split_whitespace());
        Config::load(Args::parse_from(words), None).unwrap()
    }

    /// A metadata service on loopback; `tokens`: whether it requires tokens.
    async fn metadata(zone: &'static str, tokens: bool) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service =
                    service_fn(move |request: Request<hyper::body::Incoming>| async move {
                        let token = request.headers().get("x-aws-ec2-metadata-token");
                        let (status, body) = match (request.method(), request.uri().path()) {
                            (&Method::PUT, "/latest/api/token") if tokens => (200, "secret"),
                            (&Method::GET, _)
                                if !tokens || token.is_some_and(|t| t == "secret") =>
                            {
                                (200, zone)
                            }
                            _ => (401, ""),
                        };
                        let body = Full::new(Bytes::from_static(body.as_bytes()));
                        let mut response = Response::new(body);
                        *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
                        Ok::<_, Infallible>(response)
                    });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    #[tokio::test]
    async fn the_region_is_the_zone_without_its_letter() {
        for tokens in [true, false] {
            let service = metadata("eu-west-1b", tokens).await;
            assert_eq!(look_up_region(&service).await.unwrap(), "eu-west-1");
        }
        let service = metadata("<html>", true).await;
        assert!(look_up_region(&service).await.unwrap_err().to_string().contains("--region"));
    }

    #[tokio::test]
    async fn built_in_topologies_are_accepted() {
        for name in builtin_names() {
            let line = match name.strip_prefix("aws-") {
                Some(region) => format!("--cloud aws --region {region}"),
                None => continue,
            };
            let proposals = initial_proposals(&config(&line)).await.unwrap();
            assert_eq!(proposals.len(), newest().len() + 1, "{name}");
        }
        let error = initial_proposals(&config("--cloud aws --region moon")).await.unwrap_err();
        assert!(error.to_string().contains("aws-eu-west-1"));
        assert_eq!(initial_proposals(&config("")).await.unwrap(), newest());
    }

    #[tokio::test]
    async fn overrides_and_the_service_range_are_checked() {
        let aws = "--cloud aws --region eu-west-1";
        let line = format!("{aws} --network-cidr-overrides romana-network=10.96.0.0/11");
        let proposals = initial_proposals(&config(&line)).await.unwrap();
        let Command::SetTopology(spec) = &proposals.last().unwrap().command else { panic!() };
        assert_eq!(spec.networks[0].cidr, "10.96.0.0/11");
        let line = format!("{line} --service-cluster-ip-range 10.96.0.0/12");
        let error = initial_proposals(&config(&line)).await.unwrap_err();
        assert!(matches!(error, BootstrapError::OverlapsServices { .. }), "{error}");
        let line = format!("{aws} --service-cluster-ip-range 10.96.0.0/12,fd00:10::/108");
        let proposals = initial_proposals(&config(&line)).await.unwrap();
        let reserved = &proposals[proposals.len() - 2].command;
        assert_eq!(reserved.to_string(), "ReserveServices 10.96.0.0/12, fd00:10::/108");
        let line = format!("{aws} --network-cidr-overrides other=10.0.0.0/8");
        let error = initial_proposals(&config(&line)).await.unwrap_err();
        assert!(matches!(error, BootstrapError::UnknownNetwork { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_network_that_the_cluster_would_refuse_is_refused_at_the_start() {
        let line =
            "--cloud aws --region eu-west-1 --network-cidr-overrides romana-network=224.0.0.0/8";
        let error = initial_proposals(&config(line)).await.unwrap_err().to_string();
        assert!(error.contains("multicast"), "{error}");
    }

    #[tokio::test]
    async fn services_that_the_cluster_would_refuse_are_refused_at_the_start() {
        for range in ["::ffff:10.96.0.0/108", "127.0.0.0/8", "10.96.0.0/12,224.0.0.0/8"] {
            let line = format!("--service-cluster-ip-range {range}");
            let error = initial_proposals(&config(&line)).await.unwrap_err();
            assert!(matches!(error, BootstrapError::Services { .. }), "{range}: {error}");
        }
    }

    #[tokio::test]
    async fn a_document_with_a_mistake_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("topology.json");
        let text =
            r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/8", "colour": 1}], "topologies": []}"#;
        std::fs::write(&file, text).unwrap();
        let line = format!("--initial-network {}", file.display());
        let error = initial_proposals(&config(&line)).await.unwrap_err().to_string();
        assert!(error.contains("networks[0]") && error.contains("colour"), "{error}");
    }

    /// Romana 2.0's documents have comments and trailing commas, or are YAML.
    #[test]
    fn a_document_may_have_comments() {
        let json = "{ # networks\n \"networks\": [{\"name\": \"n\", \"cidr\": \"10.0.0.0/8\",}], \"topologies\": [],}";
        let yaml = "networks:\n- name: n\n  cidr: 10.0.0.0/8\ntopologies: []\n";
        let (json, yaml) = (document(json.as_bytes()), document(yaml.as_bytes()));
        assert_eq!(json.as_ref().unwrap().networks[0].cidr, "10.0.0.0/8");
        assert_eq!(json, yaml);
        let wrong = document(b"{ # networks\n \"networks\": [{\"colour\": 1}]}").unwrap_err();
        assert!(wrong.contains("networks[0]") && wrong.contains("colour"), "{wrong}");
    }
}
