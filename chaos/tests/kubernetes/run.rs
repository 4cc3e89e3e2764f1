//! A short `chaos run --kubernetes`: objects change all the time while the API server and the replicas are broken.

use std::time::Duration;

use romana_chaos::cluster::find_romanad;
use romana_chaos::nemesis::{Fault, Sort};
use romana_chaos::run::{RunOptions, run};

use crate::server::program;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_what_a_broken_api_server_has() {
    if program().is_none() {
        return;
    }
    let faults = Fault::list("kubernetes,kill-leader,pause").expect("faults");
    let options = RunOptions {
        seed: 18,
        seconds: 36,
        clients: 8,
        replicas: 3,
        faults,
        interval: Duration::from_secs(6),
        kubernetes: true,
        lying_disk: false,
        romanad: find_romanad(None).expect("cargo build --workspace --bins comes first"),
        previous: None,
        parent: None,
        keep: false,
    };
    println!("{}", options.reproduce());
    let report = run(&options).await.expect("the run can be carried out");
    assert!(
        report.violations.is_empty(),
        "{:#?}\n{:?}\ndata and logs: {:?}\nagain with: {}",
        report.violations,
        report.story.facts,
        report.kept,
        options.reproduce(),
    );
    let of_the_api_server =
        report.story.faults.iter().filter(|fault| fault.fault.kind().sort == Sort::Kubernetes);
    assert!(of_the_api_server.count() > 0, "{:?}", report.story.faults);
}
