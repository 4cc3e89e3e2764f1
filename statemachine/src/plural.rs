//! Counts in text, with the noun in singular or plural.

use core::fmt;

/// A number and its noun in a sentence: `1 host`, `2 hosts`, `0 policies`. Takes the noun in the singular.
///
/// ```
/// use romana_statemachine::plural;
/// assert_eq!(plural(1_usize, "address").to_string(), "1 address");
/// assert_eq!(plural(2_usize, "address").to_string(), "2 addresses");
/// ```
pub fn plural<N: fmt::Display + PartialEq + From<u8>>(count: N, noun: &str) -> Plural<'_, N> {
    Plural { count, noun }
}

/// See [`plural`].
#[derive(Clone, Copy, Debug)]
pub struct Plural<'a, N> {
    count: N,
    noun: &'a str,
}

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Plural<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, noun } = self;
        if *count == N::from(1) {
            return write!(f, "{count} {noun}");
        }
        let vowel = |c: char| "aeiou".contains(c);
        match noun.strip_suffix('y').filter(|stem| !stem.ends_with(vowel)) {
            Some(stem) => write!(f, "{count} {stem}ies"),
            None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => {
                write!(f, "{count} {noun}es")
            }
            None => write!(f, "{count} {noun}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn one_is_not_many() {
        for (noun, many) in [
            ("host", "hosts"),
            ("more host", "more hosts"),
            ("address", "addresses"),
            ("policy", "policies"),
            ("entry", "entries"),
            ("key", "keys"),
            ("index", "indexes"),
            ("batch", "batches"),
        ] {
            assert_eq!(plural(1_u64, noun).to_string(), "1 ".to_string() + noun);
            for count in [0_usize, 2, 11, 101] {
                let said = plural(count, noun).to_string();
                assert_eq!(said, count.to_string() + " " + many);
            }
        }
    }
}
