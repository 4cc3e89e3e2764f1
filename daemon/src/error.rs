//! Formats errors with their causes, on one line.

use std::error::Error;
use std::fmt;
use std::io;

/// An error of any kind.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Displays an error and its causes: `operation failed: cause: cause of that`. A cause that the text already
/// contains is skipped, as many libraries include the cause in the error's own text.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.0))
    }
}

/// The same as a `String`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Whether a predicate holds for an error or one of its causes, including errors wrapped in I/O errors.
pub fn any_cause(
    error: &(dyn Error + 'static),
    is_so: &dyn Fn(&(dyn Error + 'static)) -> bool,
) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (**error).source());
    causes.any(|cause| {
        let inside = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        is_so(cause) || inside.is_some_and(|inside| any_cause(inside, is_so))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_each_once() {
        let layers = ["no such file", "open: no such file", "cannot read the key", "cannot start"];
        let over = |source, text| Some(Box::new(Layer { text, source }));
        let error = layers.into_iter().fold(None, over);
        assert_eq!(chain(&error.unwrap()), "cannot start: cannot read the key: open: no such file");
    }
}
