//! Output that several verbs share.

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;

use crate::table::text;

/// A time in readable form: the history has milliseconds.
pub(super) fn time(at: Option<&Value>) -> String {
    let ms = at.and_then(Value::as_i64).and_then(|ms| Timestamp::from_millisecond(ms).ok());
    ms.map_or_else(|| at.map_or_else(|| "-".into(), text), |at| format!("{at:.3}"))
}

/// The reason of a release: a word, or a word with a detail.
pub(super) fn why(reason: &Value) -> String {
    match reason {
        Value::Object(map) => {
            let words = map.iter().map(|(word, more)| format!("{} ({})", lower(word), text(more)));
            words.collect::<Vec<_>>().join(", ")
        }
        other => lower(&text(other)),
    }
}

fn lower(word: &str) -> String {
    word.to_lowercase()
}

/// The first digits of a digest, enough to distinguish it from others.
pub(super) fn short(digest: Option<&Value>) -> String {
    let digest = digest.and_then(Value::as_str).unwrap_or("-");
    digest.chars().take(12).collect()
}

/// A progress bar in bytes, up to `length` if it is known. Shown on a terminal only.
pub(super) fn bytes_bar(length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{bar:40} {bytes} of {total_bytes}  {msg}",
        None => "{spinner} {bytes}  {msg}",
    };
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_reasons_and_digests_are_short() {
        assert_eq!(time(Some(&json!(1_700_000_000_000_u64))), "2023-11-14T22:13:20.000Z");
        assert_eq!(time(Some(&json!("2026-11-23T00:00:00Z"))), "2026-11-23T00:00:00Z");
        assert_eq!(time(None), "-");
        assert_eq!(why(&json!("Requested")), "requested");
        assert_eq!(why(&json!({"Reported": 7})), "reported (7)");
        assert_eq!(short(Some(&json!("0123456789abcdef"))), "0123456789ab");
        assert_eq!(short(None), "-");
    }
}
