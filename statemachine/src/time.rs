//! Times, durations and sizes in human-readable form.

use core::fmt;

use crate::entry::Millis;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// After the year 9999, which RFC 3339 cannot write.
const END: u64 = 253_402_300_800 * SECOND;

/// RFC 3339, in UTC, to the millisecond: `2026-11-29T13:05:59.000Z`.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ms) = *self;
        if ms >= END {
            return f.write_str("after the year 9999");
        }
        let (days, rest) = (ms / DAY, ms % DAY);
        let (year, month, day) = date(days);
        let (hour, minute) = (rest / HOUR, rest % HOUR / MINUTE);
        let (second, milli) = (rest % MINUTE / SECOND, rest % SECOND);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// Year, month and day from the number of days since 1970-01-01, in the Gregorian calendar. Counts eras of 400 years,
/// and years from March on, so that a leap day is the last day of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// A duration in milliseconds: `500ms`, `30s`, `1h30m`, `90d`. Exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        if left == 0 {
            return f.write_str("0s");
        }
        let units = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];
        units.into_iter().try_for_each(|(name, unit)| {
            let count = left / unit;
            left %= unit;
            if count > 0 { write!(f, "{count}{name}") } else { Ok(()) }
        })
    }
}

/// A number of bytes: exact in the largest unit that divides it, else to a tenth: `10GiB`, `1.5MiB`, `17 bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((name, bits)) = units.into_iter().find(|(_, bits)| self.0 >> bits > 0) else {
            return write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" });
        };
        let whole = self.0 >> bits;
        let tenths = ((u128::from(self.0) * 10) >> bits) % 10;
        match tenths {
            0 => write!(f, "{whole}{name}"),
            tenths => write!(f, "{whole}.{tenths}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_583_020_799_999, "2020-02-29T23:59:59.999Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (END - 1, "9999-12-31T23:59:59.999Z"),
            (END, "after the year 9999"),
            (u64::MAX, "after the year 9999"),
        ] {
            assert_eq!(Millis(ms).to_string(), text);
        }
        // Each day follows the one before it.
        let mut before = date(0);
        for days in 1..200_000 {
            let now = date(days);
            let next = (before.0, before.1, before.2 + 1);
            let turns = now.2 == 1 && before.2 >= 28 && (now.1 == before.1 % 12 + 1);
            assert!(now == next || turns, "{before:?} {now:?}");
            before = now;
        }
    }

    #[test]
    fn durations_and_sizes_are_short() {
        for (ms, text) in [
            (0, "0s"),
            (500, "500ms"),
            (30_000, "30s"),
            (5_400_000, "1h30m"),
            (90 * DAY, "90d"),
            (61_001, "1m1s1ms"),
        ] {
            assert_eq!(Span(ms).to_string(), text);
        }
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (10 << 30, "10GiB"),
            (3 << 19, "1.5MiB"),
            (u64::MAX, "16777215.9TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
