//! `romana connectivity`: tests the promises on packets. `test` makes endpoints on this host (or pods), connects them, and
//! removes them, however it ends; `serve` makes one for tests on other hosts.

mod evidence;
mod namespaces;
mod place;
mod plan;
mod pods;
mod probe;
mod report;
mod responder;
mod run;
mod serve;
mod setup;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use romana_client::Server;

use crate::answer::{Answer, to_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::signals::interrupted;
use probe::Target;
use report::Report;
use setup::Local;

/// The image that has this program.
const IMAGE: &str = concat!("localhost/romana:", env!("CARGO_PKG_VERSION"));
/// The program in that image.
const PROGRAM: &str = "/opt/romana/romana";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect endpoints that it makes on this host, or pods; exit code 1 if a promise is broken
    Test(Test),
    /// Make an endpoint on this host that tests on other hosts connect to, until it is stopped
    Serve(OnHost),
    /// Answer probes: what runs at the endpoints of a test
    #[command(hide = true)]
    Respond {
        /// Ports, separated by commas
        #[arg(long, value_delimiter = ',', default_values_t = [plan::OPEN, plan::CLOSED])]
        ports: Vec<u16>,
        /// End when the standard input ends
        #[arg(long)]
        until_stdin_ends: bool,
    },
    /// Open connections from here, and print what came of them
    #[command(hide = true)]
    Probe {
        /// tcp/IP/PORT, udp/IP/PORT, bulk/IP/PORT or full/IP/PORT
        #[arg(required = true)]
        targets: Vec<Target>,
    },
}

/// What the test needs to know.
#[derive(Debug, ClapArgs)]
pub(crate) struct Test {
    #[command(flatten)]
    host: OnHost,
    /// Make pods with kubectl instead of endpoints on this host
    #[arg(long)]
    kubernetes: bool,
    /// Namespace of the pods [default: one of its own, which is removed]
    #[arg(long, requires = "kubernetes")]
    namespace: Option<String>,
    /// Image of the pods, which has romana; nodes must have it or be able to pull it
    #[arg(long, default_value = IMAGE, requires = "kubernetes")]
    image: String,
    /// The program romana in the image
    #[arg(long, default_value = PROGRAM, value_name = "PATH", requires = "kubernetes")]
    program: String,
    /// Node to use; twice for two [default: the first two that are ready]
    #[arg(long = "node", value_name = "NODE", requires = "kubernetes")]
    nodes: Vec<String>,
}

/// How endpoints are made on this host.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct OnHost {
    /// Status of this host's agent
    #[arg(long, default_value = "http://127.0.0.1:9607", value_name = "URL")]
    agent: Server,
    /// Directory of the network configuration that the container runtime uses
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    cni_conf_dir: PathBuf,
    /// Directory of CNI plugins
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    cni_bin_dir: PathBuf,
    /// Part of the names of everything that it makes, up to 8 letters and digits [default: random]
    #[arg(long, value_parser = id)]
    id: Option<String>,
}

/// Parses the id of a run.
fn id(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    match (1..=8).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not 1 to 8 lower-case letters and digits")),
    }
}

impl OnHost {
    /// The id of this run.
    fn id(&self) -> String {
        self.id.clone().unwrap_or_else(|| format!("{:06x}", rand::random_range(0..1_u32 << 24)))
    }
}

impl Command {
    /// Runs the commands that need neither a cluster nor a configuration; returns the others.
    pub(crate) async fn run_alone(self) -> Result<Option<Self>, Failure> {
        match self {
            Self::Respond { ports, until_stdin_ends } => {
                respond(&ports, until_stdin_ends).await.map(|()| None)
            }
            Self::Probe { targets } => {
                let outcomes = to_json(&probe::try_all(&targets).await);
                crate::output::write(&format!("{outcomes}\n")).map(|()| None)
            }
            other => Ok(Some(other)),
        }
    }

    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Test(test) if test.kubernetes => {
                let report = run::with_pods(ctx, test).await?;
                show(ctx, report)
            }
            Self::Test(test) => {
                let local = Local::new(test.host);
                // However the test ends, what it made is removed.
                let (report, stopped) = tokio::select! {
                    report = run::on_host(ctx, &local) => (report, None),
                    name = interrupted("SIGINT") => (Report { items: Vec::new() }, Some(name)),
                };
                let report = Report { items: [report.items, local.remove(ctx).await].concat() };
                match stopped {
                    Some(name) => Err(stopped_by(name, &report)),
                    None => show(ctx, report),
                }
            }
            Self::Serve(host) => serve::run(ctx, &Local::new(host)).await,
            Self::Respond { .. } | Self::Probe { .. } => Ok(()),
        }
    }
}

fn show(ctx: &Context, report: Report) -> Result<(), Failure> {
    let failed = report.has_failed();
    ctx.out.show(&Answer::own(report), Report::table)?;
    if failed { Err(Failure::Found) } else { Ok(()) }
}

/// How a test that was stopped ends: it says whether all was removed.
fn stopped_by(name: &str, report: &Report) -> Failure {
    let left = report.items.iter().map(|row| row.why.as_str());
    let left: Vec<&str> = left.filter(|why| !why.is_empty()).collect();
    Failure::Broken(match left.is_empty() {
        true => format!("stopped by {name}; everything that was made is removed"),
        false => format!("stopped by {name}; not removed: {}", left.join("; ")),
    })
}

async fn respond(ports: &[u16], until_stdin_ends: bool) -> Result<(), Failure> {
    let responder = responder::start(ports).await;
    let responder = responder.map_err(|error| Failure::io("the ports", error))?;
    let said = serde_json::json!({"ports": responder.ports()});
    crate::output::write(&format!("{said}\n"))?;
    if until_stdin_ends {
        responder::until_stdin_ends().await;
    } else {
        interrupted("SIGINT").await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::place::Place;
    use super::plan::{End, OPEN, Role};
    use super::*;

    /// An end at these addresses of a host.
    pub(super) fn end(role: Role, host: &str, ips: &[&str]) -> End {
        End {
            role,
            name: role.as_str().into(),
            host: host.into(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            place: Place::Here,
            port: OPEN,
            strict: role == Role::Server,
        }
    }

    #[test]
    fn ids_are_short_and_plain() {
        assert_eq!(id("abc123"), Ok("abc123".into()));
        for bad in ["", "Abc", "a-b", "123456789"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
