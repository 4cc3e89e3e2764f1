//! Compiled rules give the evaluator's verdicts: arbitrary clusters and policies, every pair of addresses,
//! packets of every kind sent through an interpreter of the rules on each host on their path. Incremental
//! compilation gives the same result as compiling from scratch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod interpreter;
mod preview;

use std::path::Path;

use proptest::prelude::*;

use cluster::{Cluster, command, command_with_pods, policy};
use romana_agent::policy::model::Filter;
use romana_testing::goldens::check;

/// The differences between two filters, as text.
fn differing(left: &Filter, right: &Filter) -> Vec<String> {
    let sets = left.sets.diff(&right.sets).map(|item| format!("{item:?}"));
    let chains = left.chains.diff(&right.chains).map(|item| format!("{item:?}"));
    sets.chain(chains).collect()
}

/// Golden files: commands, `step`, commands …, `---`, the changes of the first host's kernel in each step
/// (IPv4). `UPDATE=1` rewrites them.
#[test]
fn rules_are_as_the_goldens_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/policy");
    check(&dir, 3, |input| {
        let mut cluster = Cluster::new();
        cluster.update();
        let mut printed = String::new();
        for (n, step) in input.split("step\n").enumerate() {
            let commands = step.lines().filter(|line| line.starts_with('{'));
            commands.for_each(|line| cluster.must(&serde_json::from_str(line).unwrap()));
            printed.push_str(&format!("step {}\n{}", n + 1, cluster.changes()));
        }
        printed
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn packets_fare_as_the_evaluator_says(commands in prop::collection::vec(command(), 1..40)) {
        let mut cluster = Cluster::new();
        for command in &commands {
            cluster.tell(command);
        }
        cluster.update();
        if let Err(why) = cluster.judge() {
            return Err(TestCaseError::fail(why));
        }
    }

    #[test]
    fn check_lists_what_explain_answers_differently(
        commands in prop::collection::vec(command_with_pods(), 1..40),
        proposed in prop::collection::vec(policy(), 1..3),
    ) {
        let mut cluster = Cluster::new();
        for command in &commands {
            cluster.tell(command);
        }
        if let Err(why) = preview::verify(&cluster, &proposed) {
            return Err(TestCaseError::fail(why));
        }
    }

    #[test]
    fn step_by_step_is_as_at_once(commands in prop::collection::vec(command(), 1..60)) {
        let mut cluster = Cluster::new();
        for (n, command) in commands.iter().enumerate() {
            cluster.tell(command);
            if n % 3 != 1 {
                cluster.update();
            }
        }
        cluster.update();
        for host in cluster.hosts() {
            let (stepwise, fresh) = (host.compiler.filter(), host.fresh().filter());
            let differing = differing(&stepwise, &fresh);
            prop_assert!(stepwise == fresh, "{}: {:?}", host.name, differing);
        }
    }
}
