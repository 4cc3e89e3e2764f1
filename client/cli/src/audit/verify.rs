//! `romana audit verify`.

use std::time::Duration;

use indicatif::ProgressBar;
use romana_api::audit::Verification;
use romana_statemachine::Digest;
use romana_statemachine::time::Span;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, optional};

pub(super) async fn run(ctx: &Context) -> Result<(), Failure> {
    let client = ctx.patient(super::PATIENCE)?;
    let bar = ProgressBar::new_spinner().with_message("every replica reads its whole history");
    bar.enable_steady_tick(Duration::from_millis(100));
    let asked = client.get("/v1/audit/verify").await;
    bar.finish_and_clear();
    let answer: Answer<Verification> = Answer::read(asked?)?;
    ctx.out.show(&answer, table)?;
    if answer.value.agreed { Ok(()) } else { Err(Failure::Found) }
}

const COLUMNS: [&str; 8] =
    ["REPLICA", "RESULT", "OLDEST", "REVISION", "DIGEST", "STATE", "TOOK", "ERROR"];

/// The first digits of a digest, enough to distinguish it from others.
fn short(digest: Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

fn table(answer: &Verification) -> Table {
    let mut table = Table::new(&COLUMNS, "no replica answers");
    for replica in &answer.replicas {
        let proof = replica.proof.as_ref();
        let (tone, result) = if replica.ok { (Tone::Good, "ok") } else { (Tone::Bad, "BAD") };
        let row = vec![
            cell(replica.id),
            result.into(),
            optional(proof.map(|proof| proof.oldest)),
            optional(proof.map(|proof| proof.revision)),
            optional(proof.map(|proof| short(proof.digest))),
            optional(proof.map(|proof| short(proof.state_digest))),
            optional(proof.map(|proof| Span(proof.took_ms))),
            optional(replica.error.as_ref()),
        ];
        table.toned(tone, row);
    }
    answer.differences.iter().for_each(|difference| table.note(cell(difference)));
    table.note(if answer.agreed {
        "all replicas have the same history, and it is whole"
    } else {
        "the replicas do not all have the same whole history"
    });
    table
}
