//! Where a probe runs: on this host, in a network namespace of it, or in a pod.

use std::time::Duration;

use super::probe::{Fault, Outcome, Target};
use crate::process::{self, Limits};

/// Time for a call of the probe; kubectl needs some of it.
const WITHIN: Duration = Duration::from_secs(40);
/// Size limit of its answer.
const BYTES_MAX: usize = 4 << 20;

/// A place that connections can be opened from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The network namespace of this command.
    Here,
    /// A named network namespace on this host.
    Namespace(String),
    /// A pod, by namespace and name, and the program in it.
    Pod { namespace: String, name: String, program: String },
    /// Out of reach: nothing can be opened from there.
    Elsewhere,
}

impl Place {
    /// The argument vector that runs this program (`own`) there with these words.
    pub(super) fn argv(&self, own: &str, words: &[String]) -> Option<Vec<String>> {
        let before: Vec<&str> = match self {
            Self::Here => vec![own],
            Self::Namespace(name) => vec!["ip", "netns", "exec", name.as_str(), own],
            Self::Pod { namespace, name, program } => {
                vec!["kubectl", "exec", "--namespace", &**namespace, &**name, "--", &**program]
            }
            Self::Elsewhere => return None,
        };
        Some(before.into_iter().map(str::to_owned).chain(words.iter().cloned()).collect())
    }

    /// Tries all targets from there. The outcomes are in the same order.
    pub(super) async fn probe(&self, targets: &[Target]) -> Vec<Outcome> {
        let unable = |why: String| vec![Outcome::failed(Fault::Unable, why); targets.len()];
        let words = ["connectivity", "probe"].map(str::to_owned).into_iter();
        let words: Vec<String> = words.chain(targets.iter().map(ToString::to_string)).collect();
        let own = match std::env::current_exe() {
            Ok(own) => own.to_string_lossy().into_owned(),
            Err(error) => return unable(format!("this program is not found: {error}")),
        };
        let Some(argv) = self.argv(&own, &words) else { return unable("out of reach".into()) };
        let ran = process::run(&argv, Limits { within: WITHIN, bytes_max: BYTES_MAX }).await;
        let outcomes = ran.and_then(|ran| ran.ok(&argv)).and_then(|text| {
            let read: Result<Vec<Outcome>, _> = serde_json::from_slice(&text);
            let read =
                read.map_err(|error| format!("the probe's answer does not parse: {error}"))?;
            if read.len() == targets.len() {
                Ok(read)
            } else {
                Err("the probe's answer is short".into())
            }
        });
        outcomes.unwrap_or_else(unable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_argument_vector() {
        let words = ["connectivity", "probe", "tcp/10.0.0.1/1"].map(str::to_owned);
        let line = |place: Place| place.argv("/x/romana", &words).map(|argv| argv.join(" "));
        let probe = "connectivity probe tcp/10.0.0.1/1";
        assert_eq!(line(Place::Here), Some(format!("/x/romana {probe}")));
        let namespace = line(Place::Namespace("n1".into()));
        assert_eq!(namespace, Some(format!("ip netns exec n1 /x/romana {probe}")));
        let pod = Place::Pod {
            namespace: "a".into(),
            name: "p".into(),
            program: "/opt/romana/romana".into(),
        };
        assert_eq!(
            line(pod),
            Some(format!("kubectl exec --namespace a p -- /opt/romana/romana {probe}"))
        );
        assert_eq!(line(Place::Elsewhere), None);
    }
}
