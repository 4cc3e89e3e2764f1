//! Makes untrusted text safe for a log line or a terminal.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt::{self, Display, Write};

/// Maximum number of characters of a text that are displayed.
const SHOWN_CHARS_MAX: usize = 512;

/// Displays a value without characters that move the cursor, end the line, or reorder or hide text, and at most
/// [`SHOWN_CHARS_MAX`] characters of it.
///
/// The sender of the text controls every byte of it. Other characters are displayed as escapes (`\u{1b}`), and
/// characters beyond the limit are counted.
///
/// ```
/// use romana_statemachine::Printable;
/// assert_eq!(Printable("a\n\u{1b}[31mb").to_string(), "a\\n\\u{1b}[31mb");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Escaping { out: f, left: SHOWN_CHARS_MAX, cut: 0 };
        write!(out, "{}", self.0)?;
        match out.cut {
            0 => Ok(()),
            cut => write!(f, "… ({cut} bytes more)"),
        }
    }
}

/// Writes through and escapes non-printable characters.
struct Escaping<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    left: usize,
    cut: usize,
}

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (at, c) in text.char_indices() {
            if self.left == 0 {
                self.cut += text.len() - at;
                return Ok(());
            }
            self.left -= 1;
            if is_printable(c) {
                self.out.write_char(c)?;
            } else {
                write!(self.out, "{}", c.escape_default())?;
            }
        }
        Ok(())
    }
}

/// The whole of a single-line text, with terminal control characters escaped: [`Printable`] without its limit.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, |_| false)
}

/// The same for text of several lines.
#[must_use]
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_but(text, |c| c == '\n')
}

fn escaped_but(text: &str, may: impl Fn(char) -> bool) -> Cow<'_, str> {
    let shown = |c: char| is_printable(c) || may(c);
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if shown(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    Cow::Owned(out)
}

/// Equivalent JSON in printable characters: serializers escape fewer characters than terminals interpret. Line feeds
/// occur only between tokens, and are kept.
#[must_use]
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    let shown = |c: char| is_printable(c) || c == '\n';
    if json.chars().all(shown) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if shown(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    Cow::Owned(out)
}

/// Whether a character is printable: neither a control character nor one of Unicode's format characters for
/// direction, joining and ordering.
#[must_use]
pub fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString};

    use super::*;

    #[test]
    fn what_is_shown_is_one_short_line() {
        for (text, shown) in [
            ("", ""),
            ("Zürich, 東京, a\\b", "Zürich, 東京, a\\b"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{1b}]0;x\u{7}\u{9b}", "\\u{1b}]0;x\\u{7}\\u{9b}"),
            ("\u{202e}\u{2066}\u{200b}\u{2028}", "\\u{202e}\\u{2066}\\u{200b}\\u{2028}"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
        assert_eq!(escaped("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(escaped_lines("a\nb\u{1b}\r"), "a\nb\\u{1b}\\r");
        assert_eq!(
            escaped_json("\"\u{7f}\u{9b}\u{202e}\u{e0001}\"\n"),
            "\"\\u007f\\u009b\\u202e\\udb40\\udc01\"\n"
        );
        let long: String = "é".repeat(SHOWN_CHARS_MAX + 10);
        let shown = Printable(&long).to_string();
        assert_eq!(shown, format!("{}… (20 bytes more)", "é".repeat(SHOWN_CHARS_MAX)));
        let exact: String = "x".repeat(SHOWN_CHARS_MAX);
        assert_eq!(Printable(&exact).to_string(), exact);
    }
}
