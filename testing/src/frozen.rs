//! Frozen bytes: files of hexadecimal digits that no later release may change.

use std::fs;
use std::path::Path;

/// Bytes as lines of hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

/// Reads [`hex`].
///
/// # Panics
/// The text has something else.
#[must_use]
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The bytes that are frozen in a file. With `UPDATE` in the environment, a file that is not there is written with
/// `bytes`; an existing one never changes.
///
/// # Panics
/// There is no such file.
#[must_use]
pub fn frozen(file: &Path, bytes: &[u8]) -> Vec<u8> {
    if !file.exists() && std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder");
        fs::write(file, hex(bytes)).expect("write the file");
    }
    let text = fs::read_to_string(file);
    unhex(&text.unwrap_or_else(|_| panic!("{} is not frozen", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes: Vec<u8> = (0..=255).cycle().take(600).collect();
        assert_eq!(hex(&bytes).lines().count(), 19);
        assert_eq!(unhex(&hex(&bytes)), bytes);
    }
}
