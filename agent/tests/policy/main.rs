//! Compiled rules give the evaluator's verdicts: arbitrary clusters and policies, every pair of addresses,
//! packets of every kind through an interpreter of the rules on each host that they pass. And compiling step
//! by step gives what compiling at once gives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod interpreter;

use proptest::prelude::*;

use cluster::{Cluster, command};
use romana_agent::policy::model::Filter;

/// What two filters differ in, for people.
fn differing(left: &Filter, right: &Filter) -> Vec<String> {
    let sets = left.sets.diff(&right.sets).map(|item| format!("{item:?}"));
    let chains = left.chains.diff(&right.chains).map(|item| format!("{item:?}"));
    sets.chain(chains).collect()
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
