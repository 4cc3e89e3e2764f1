//! Versions of the specification.

use serde_json::{Value, json};

use super::CniError;

/// Supported versions, oldest first.
const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Version of a configuration that does not name one.
pub(super) const UNNAMED: &str = "0.1.0";

/// A supported version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// 0.4.0, the first with CHECK.
    pub const V0_4_0: Self = Self(1);
    /// 1.0.0, the first without address families in results.
    pub const V1_0_0: Self = Self(2);
    /// 1.1.0, the first with GC and STATUS.
    pub const V1_1_0: Self = Self(3);

    /// Parses a version.
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        if let Some(at) = SUPPORTED.iter().position(|known| *known == text) {
            return Ok(Self(at));
        }
        let numbers: Vec<&str> = text.split('.').collect();
        if numbers.len() != 3 || numbers.iter().any(|part| part.parse::<u32>().is_err()) {
            return Err(CniError::new(6, format!("cniVersion {text:?} is no version"), ""));
        }
        let known = SUPPORTED.map(|version| format!("{version:?}")).join(" ");
        let details = format!("config is {text:?}, plugin supports [{known}]");
        Err(CniError::new(1, "incompatible CNI versions", details))
    }

    /// The version as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        SUPPORTED.get(self.0).copied().unwrap_or_default()
    }
}

/// The version in a configuration, as far as it can be parsed.
pub(super) fn claimed(stdin: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(stdin).ok()?;
    let text = config.get("cniVersion")?.as_str()?;
    // Limited, as it is repeated in the answer.
    (text.len() <= 64).then(|| text.to_owned())
}

/// The newest supported version.
pub(super) fn newest() -> &'static str {
    SUPPORTED.last().copied().unwrap_or_default()
}

/// The answer to VERSION.
pub(super) fn supported(stdin: &[u8]) -> String {
    let version = claimed(stdin).unwrap_or_else(|| newest().into());
    json!({"cniVersion": version, "supportedVersions": SUPPORTED}).to_string()
}
