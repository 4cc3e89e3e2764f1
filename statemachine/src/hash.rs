//! Hashes stored next to names in indexes, so that most comparisons compare two numbers in the same cache line. Never
//! persisted, sent or iterated by: a collision costs only time.

/// A hash in progress. Multiply and fold, eight bytes at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash(u64);

const START: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hash {
    /// The hash of one text.
    pub(crate) fn of(text: &str) -> u64 {
        Self(START).with(text).finish()
    }

    /// The hash of several texts, in order.
    pub(crate) fn of_all<const N: usize>(texts: [&str; N]) -> u64 {
        texts.iter().fold(Self(START), |hash, text| hash.with(text)).finish()
    }

    fn with(self, text: &str) -> Self {
        let mut hash = self.word(text.len() as u64);
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            hash = hash.word(u64::from_le_bytes(*word));
        }
        if rest.is_empty() {
            return hash;
        }
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        hash.word(u64::from_le_bytes(last))
    }

    fn word(self, word: u64) -> Self {
        let wide = u128::from(self.0 ^ word) * u128::from(FACTOR);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
        let folded = (wide as u64) ^ ((wide >> 64) as u64);
        Self(folded.rotate_left(23) ^ START)
    }

    fn finish(self) -> u64 {
        self.word(FACTOR).0
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::format;

    use super::*;

    #[test]
    fn names_that_resemble_each_other_differ() {
        let names = (0..100_000).map(|n| format!("pod-{n}")).chain((0..100_000).map(|n| {
            let (host, pod) = (n % 500, n / 500);
            format!("node{host}.rack{}/{pod}", host % 16)
        }));
        let hashes: BTreeSet<_> = names.map(|name| Hash::of(&name)).collect();
        assert_eq!(hashes.len(), 200_000);
    }

    #[test]
    fn where_one_text_ends_counts() {
        assert_ne!(Hash::of_all(["ab", "c"]), Hash::of_all(["a", "bc"]));
        assert_ne!(Hash::of_all(["", "a"]), Hash::of_all(["a", ""]));
        assert_ne!(Hash::of("a"), Hash::of("a\0"));
    }
}
