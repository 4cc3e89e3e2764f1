//! The results: a row for each check.

use serde::Serialize;

use crate::table::{Table, Tone, cell};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Failed,
    /// Neither: it could not be decided, and something else is why.
    Skipped,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Failed => Tone::Bad,
            Self::Skipped => Tone::Warning,
        }
    }
}

/// A checked promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) result: Verdict,
    pub(super) check: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) what: String,
    pub(super) why: String,
    /// What to do; empty if nothing is wrong.
    pub(super) remedy: String,
}

impl Row {
    /// A row about one end.
    pub(super) fn about(check: &str, end: &str, what: impl Into<String>) -> Self {
        Self {
            result: Verdict::Ok,
            check: check.into(),
            from: end.into(),
            to: String::new(),
            what: what.into(),
            why: String::new(),
            remedy: String::new(),
        }
    }

    /// The same, failed.
    pub(super) fn failed(self, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Verdict::Failed, why: why.into(), remedy: remedy.into(), ..self }
    }

    /// The same, undecided.
    pub(super) fn skipped(self, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Verdict::Skipped, ..self.failed(why, remedy) }
    }
}

/// All results.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) items: Vec<Row>,
}

impl Report {
    /// Whether a promise is broken.
    pub(super) fn has_failed(&self) -> bool {
        self.items.iter().any(|row| row.result == Verdict::Failed)
    }

    pub(super) fn table(&self) -> Table {
        let columns = ["RESULT", "CHECK", "FROM", "TO", "WHAT", "WHY", "WHAT TO DO"];
        let mut table = Table::new(&columns, "nothing was checked");
        for row in &self.items {
            let texts = [&row.check, &row.from, &row.to, &row.what, &row.why, &row.remedy];
            let cells = std::iter::once(row.result.as_str().to_owned());
            let cells = cells.chain(texts.into_iter().map(cell)).collect();
            table.toned(row.result.tone(), cells);
        }
        let count = |verdict| self.items.iter().filter(|row| row.result == verdict).count();
        let [ok, failed, skipped] = [Verdict::Ok, Verdict::Failed, Verdict::Skipped].map(count);
        table.note(format!("{ok} ok, {failed} failed, {skipped} skipped"));
        table
    }
}
