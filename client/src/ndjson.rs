//! Splits a stream with arbitrary chunk boundaries into lines of bounded length.

use bytes::{Buf, Bytes, BytesMut};

/// Size limit of a line, bytes: a record with the largest possible topology.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 20;

/// Splits chunks into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// Length of the buffer's prefix that contains no line feed.
    searched: usize,
}

impl Lines {
    /// Adds a chunk. `false` if the line would exceed the limit.
    #[must_use]
    pub(crate) fn push(&mut self, piece: &[u8]) -> bool {
        self.buffer.extend_from_slice(piece);
        self.buffer.len() <= LINE_BYTES_MAX
    }

    /// The next complete line that is not blank, without its line end.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        loop {
            let unsearched = self.buffer.get(self.searched..)?;
            let Some(at) = unsearched.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let line = self.buffer.split_to(self.searched + at);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(line.freeze());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[ab\n ]{0,40}", cut in 0usize..40) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for piece in [head, tail] {
                prop_assert!(lines.push(piece));
                while let Some(line) = lines.next() {
                    read.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let wanted: Vec<&str> = whole.split('\n').filter(|l| !l.trim().is_empty()).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
