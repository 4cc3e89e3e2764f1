//! Points of the history as entered by users: a revision, a time, or how long ago.

use jiff::{SignedDuration, Timestamp};
use romana_statemachine::{Millis, Revision};

/// A point of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Revision(Revision),
    Time(Timestamp),
}

impl Moment {
    /// The form that the server accepts.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Revision(revision) => revision.to_string(),
            Self::Time(at) => at.to_string(),
        }
    }

    /// A time in the history's unit.
    pub(crate) fn millis(at: Timestamp) -> Millis {
        Millis(u64::try_from(at.as_millisecond()).unwrap_or(0))
    }
}

/// The value parser for clap.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    parse(text, Timestamp::now())
}

/// Parses `12345`, `2026-11-23T10:00:00Z`, `2026-11-23`, `-2h`, `-1d12h` or `now`.
fn parse(text: &str, now: Timestamp) -> Result<Moment, String> {
    let bad = || {
        format!(
            "{text:?} is neither a revision (12345), nor a time (2026-11-23T10:00:00Z, \
             2026-11-23), nor how long ago (-2h, -1d12h, now)"
        )
    };
    if text == "now" {
        return Ok(Moment::Time(now));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Moment::Revision).map_err(|_| bad());
    }
    if let Some(ago) = text.strip_prefix('-') {
        let at = span(ago).and_then(|ago| now.checked_sub(ago).ok());
        return at.map(Moment::Time).ok_or_else(bad);
    }
    let time = text.parse::<Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse());
    time.map(Moment::Time).map_err(|_| bad())
}

/// Numbers with units, such as `1d12h`.
pub(crate) fn span(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, more) = rest.split_at(digits);
        let letters = more.find(|c: char| c.is_ascii_digit()).unwrap_or(more.len());
        let (unit, after) = more.split_at(letters);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        let number = number.parse::<i64>().ok()?.checked_mul(seconds)?;
        sum = sum.checked_add(SignedDuration::from_secs(number))?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_are_read() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("0", "0"),
            ("12345", "12345"),
            ("now", "2026-11-23T12:00:00Z"),
            ("-90s", "2026-11-23T11:58:30Z"),
            ("-2h", "2026-11-23T10:00:00Z"),
            ("-1d12h", "2026-11-22T00:00:00Z"),
            ("-2w", "2026-11-09T12:00:00Z"),
            ("2026-11-22", "2026-11-22T00:00:00Z"),
            ("2026-11-22T01:02:03.5Z", "2026-11-22T01:02:03.5Z"),
            ("2026-11-22T03:00:00+02:00", "2026-11-22T01:00:00Z"),
        ] {
            assert_eq!(parse(text, now).map(Moment::text).as_deref(), Ok(wanted), "{text}");
        }
        for bad in [
            "",
            "-",
            "-2",
            "-2x",
            "-h",
            "2h",
            "yesterday",
            "1.5",
            "-99999999999999d",
            "99999999999999999999",
        ] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*", number: u64, unit in "[smhdwx]{0,2}") {
            let now = Timestamp::now();
            _ = parse(&text, now);
            _ = parse(&format!("-{number}{unit}"), now);
        }
    }
}
