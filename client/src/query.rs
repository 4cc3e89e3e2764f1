//! Request paths: percent-encoded segments and parameters.

use std::fmt::{Display, Write};

/// A path with parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    text: String,
    has_parameters: bool,
}

impl Query {
    /// A fixed path, such as `/v1/hosts`.
    #[must_use]
    pub fn new(path: &'static str) -> Self {
        Self { text: path.into(), has_parameters: false }
    }

    /// Adds a path segment.
    #[must_use]
    pub fn segment(mut self, name: impl Display) -> Self {
        self.text.push('/');
        encode(&mut self.text, &name.to_string());
        self
    }

    /// Adds a parameter, if it has a value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.has_parameters { '&' } else { '?' });
            self.has_parameters = true;
            self.text.push_str(key);
            self.text.push('=');
            encode(&mut self.text, &value.to_string());
        }
        self
    }

    /// The request path.
    #[must_use]
    pub fn build(self) -> String {
        self.text
    }
}

/// Percent-encodes all characters except RFC 3986's unreserved ones and `:`, `@`, `,`, which paths and
/// queries may contain. A segment `.` or `..` would be resolved as a directory and is encoded too.
fn encode(text: &mut String, value: &str) {
    let dots = matches!(value, "." | "..");
    for byte in value.bytes() {
        if (byte.is_ascii_alphanumeric() || b"-_.~:@,".contains(&byte)) && !dots {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        let path = Query::new("/v1/hosts").segment("a/b c%").with("force", Some(true));
        assert_eq!(path.build(), "/v1/hosts/a%2Fb%20c%25?force=true");
        let path = Query::new("/v1/x").with("a", None::<u8>).with("b", Some("10.0.0.0/8&é"));
        assert_eq!(path.with("c", Some(1)).build(), "/v1/x?b=10.0.0.0%2F8%26%C3%A9&c=1");
        assert_eq!(Query::new("/v1/hosts").segment("..").build(), "/v1/hosts/%2E%2E");
    }
}
