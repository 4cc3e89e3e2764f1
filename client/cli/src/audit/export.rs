//! `romana audit export`.

use std::path::PathBuf;

use clap::Args;
use romana_client::Error;
use serde::Serialize;

use super::moment::{Moment, moment};
use super::show::bytes_bar;
use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::sink::Sink;

/// Writes the history to a file.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// From this revision or time [default: the oldest that is kept]
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    from: Option<Moment>,
    /// To this revision or time [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    to: Option<Moment>,
    /// File to write; it appears only once it is complete [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A file that was written.
#[derive(Serialize)]
struct Exported {
    file: String,
    bytes: u64,
}

impl Export {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let [from, to] = [self.from, self.to].map(|moment| moment.map(Moment::text));
        let client = ctx.patient(super::PATIENCE)?;
        // Opened before the request: without a writable path there is no use for the export.
        let mut sink = Sink::open(self.output.as_deref()).await?;
        let mut export = client.audit_export(from.as_deref(), to.as_deref()).await?;
        let bar = bytes_bar(None);
        let mut tail = Tail::default();
        while let Some(piece) = export.next().await? {
            tail.add(&piece);
            bar.inc(piece.len() as u64);
            sink = sink.write(piece).await?;
        }
        bar.finish_and_clear();
        if !tail.is_end() {
            let why = String::from_utf8_lossy(&tail.line).into_owned();
            let what = format!("the export was cut: it ends with {:?}", &*why);
            return Err(Failure::Client(Error::Protocol { why: what }));
        }
        let bytes = tail.bytes;
        let quiet = sink.is_stdout();
        sink.finish().await?;
        match self.output {
            Some(path) if !quiet => {
                let file = path.display().to_string();
                let said = format!(
                    "{bytes} bytes written to {file}; check it with: romana audit replay {file}"
                );
                ctx.out.done(&Answer::own(Exported { file, bytes }), said)
            }
            _ => Ok(()),
        }
    }
}

/// The beginning of the last line that is not blank, and the total number of bytes.
#[derive(Default)]
struct Tail {
    line: Vec<u8>,
    ended: bool,
    bytes: u64,
}

/// Bytes kept of a line.
const KEPT: usize = 200;

impl Tail {
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.ended {
                self.line.clear();
            }
            let room = KEPT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.ended = part.ends_with(b"\n");
        }
    }

    fn is_end(&self) -> bool {
        self.ended && self.line.starts_with(b"{\"end\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_known_however_it_comes() {
        let text = b"{\"romana_history\":1}\n{\"revision\":1}\n{\"end\":{\"revision\":1}}\n";
        for size in 1..text.len() {
            let mut tail = Tail::default();
            text.chunks(size).for_each(|piece| tail.add(piece));
            assert!(tail.is_end(), "{size}");
            assert_eq!(tail.bytes, text.len() as u64);
            let mut cut = Tail::default();
            text[..text.len() - size].chunks(7).for_each(|piece| cut.add(piece));
            assert!(!cut.is_end(), "{size}");
        }
    }
}
