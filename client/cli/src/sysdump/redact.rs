//! Removes secrets from what is collected. Everything that goes into the archive passes through here.
//!
//! A document is redacted by the names of its members, a text by the names before `:`, `=` or a space, and both by the
//! form of well-known secrets (keys in PEM, tokens, credentials in URLs) and by the secrets of this process, wherever they
//! occur. In doubt the value goes: a support engineer can ask for one that is missing.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[REDACTED]";
/// Shorter values of secret variables may be ordinary words, and are removed with their names only.
const KNOWN_CHARS_MIN: usize = 6;
/// Nesting of documents in texts of documents: `kubectl apply` keeps one in an annotation.
const DEPTH_MAX: usize = 8;

/// A part of a name that makes its value a secret.
const WORD: &str = "passw|passphrase|\\bpwd\\b|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|\
    client[_-]?key|encryption[_-]?key|auth[_-]?key|signing[_-]?key|ssh[_-]?key|key[_-]?data|[_-]key$|\
    authorization|cookie";

/// A compiled pattern of this file.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// The patterns; `None` if one of them is wrong, which a test rules out.
struct Patterns {
    name: Regex,
    /// A name of a secret at the end of what is before a value.
    named: Regex,
    flag: Regex,
    /// Forms of secrets, and what is put in their place.
    forms: Vec<(Regex, &'static str)>,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    let word = WORD.replace("|[_-]key$", "").replace("\\bpwd\\b", "pwd");
    let forms = [
        (
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\z)",
            REDACTED,
        ),
        (r"(?i)((?:proxy-)?authorization[\x22']?\s*[:=]\s*)[^\r\n]+", "${1}[REDACTED]"),
        (r"(?i)(\b(?:set-)?cookie[\x22']?\s*[:=]\s*)[^\r\n]+", "${1}[REDACTED]"),
        (r"(?i)\b(bearer|basic|negotiate)\s+[A-Za-z0-9._~+/=-]{8,}", "${1} [REDACTED]"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", REDACTED),
        (r"(://)[^\s/@\x22'<>]+@", "${1}[REDACTED]@"),
        (r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", REDACTED),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", REDACTED),
        (r"\bgh[pousr]_[A-Za-z0-9]{20,}", REDACTED),
    ];
    let forms = forms.iter().map(|(form, with)| Some((pattern(form)?, *with)));
    Some(Patterns {
        name: pattern(&format!("(?i){WORD}"))?,
        named: pattern(&format!(
            r#"(?i)([\w.-]*(?:{word}|[_-]key\b)[\w.-]*\\?["']?\s*[:=]\s*)(\\"(?:[^"\\]|\\[^"])*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\r\n]+)?"#
        ))?,
        flag: pattern(&format!(r"(?i)(\s|^)(--?[\w-]*(?:{word}|[_-]key\b)[\w-]*\s+)([^\s-]\S*)"))?,
        forms: forms.collect::<Option<_>>()?,
    })
});

/// Removes secrets, and counts the texts that it changed.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    /// Secrets of this process: they go wherever they occur.
    known: BTreeSet<String>,
}

/// A redacted content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Clean {
    pub(super) bytes: Vec<u8>,
    /// Number of values that were removed.
    pub(super) removed: usize,
}

impl Redactor {
    /// `known`: values that are secret wherever they occur.
    pub(super) fn new(known: impl IntoIterator<Item = String>) -> Self {
        let known = known.into_iter().map(|value| value.trim().to_owned());
        Self { known: known.filter(|value| value.chars().count() >= KNOWN_CHARS_MIN).collect() }
    }

    /// Redacts a content: a JSON document, lines of them, or a text.
    pub(super) fn content(&self, bytes: &[u8]) -> Clean {
        let text = String::from_utf8_lossy(bytes);
        let mut removed = 0;
        let bytes = match serde_json::from_str::<Value>(&text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => {
                let value = self.value(value, 0, &mut removed);
                format!("{value:#}\n").into_bytes()
            }
            _ => self.text(&text, 0, &mut removed).into_bytes(),
        };
        Clean { bytes, removed }
    }

    /// Redacts one line for the index.
    pub(super) fn line(&self, text: &str) -> String {
        self.text(text, 0, &mut 0)
    }

    fn value(&self, value: Value, depth: usize, removed: &mut usize) -> Value {
        match value {
            Value::String(text) => self.string(text, depth, removed).into(),
            Value::Array(items) => self.array(items, depth, removed).into(),
            Value::Object(members) => {
                // What a Secret has; and the value of a variable whose name is that of a secret.
                let is_secret = members.get("kind").is_some_and(|kind| kind == "Secret");
                let named = ["name", "key"].iter().filter_map(|key| members.get(*key)?.as_str());
                let named = named.into_iter().any(is_name_of_secret);
                let mut clean = |(name, value): (String, Value)| {
                    let of_secret = is_secret && (name == "data" || name == "stringData");
                    let hidden = of_secret
                        || is_name_of_secret(&name)
                        || named && (name == "value" || name == "Value");
                    let value = match hidden {
                        true => hide(value, removed),
                        false => self.value(value, depth, removed),
                    };
                    (self.string(name, DEPTH_MAX, removed), value)
                };
                Value::Object(members.into_iter().map(&mut clean).collect())
            }
            other => other,
        }
    }

    /// Redacts the items of a list; in an argument vector also the value after a flag.
    fn array(&self, items: Vec<Value>, depth: usize, removed: &mut usize) -> Vec<Value> {
        let mut after_flag = false;
        let mut clean = |item: Value| {
            let hidden = std::mem::take(&mut after_flag);
            let text = item.as_str().unwrap_or_default();
            after_flag = text.starts_with('-') && !text.contains('=') && is_name_of_secret(text);
            match hidden && !text.starts_with('-') {
                true => hide(item, removed),
                false => self.value(item, depth, removed),
            }
        };
        items.into_iter().map(&mut clean).collect()
    }

    /// Redacts a string of a document, which may be a document itself.
    fn string(&self, text: String, depth: usize, removed: &mut usize) -> String {
        if depth < DEPTH_MAX
            && text.trim_start().starts_with(['{', '['])
            && let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(&text)
        {
            return self.value(value, depth + 1, removed).to_string();
        }
        self.text(&text, depth, removed)
    }

    fn text(&self, text: &str, depth: usize, removed: &mut usize) -> String {
        let Some(patterns) = PATTERNS.as_ref() else { return REDACTED.into() };
        let mut text = text.to_owned();
        for known in &self.known {
            *removed += text.matches(known.as_str()).count();
            text = text.replace(known.as_str(), REDACTED);
        }
        for (form, with) in &patterns.forms {
            *removed +=
                form.find_iter(&text).filter(|found| !found.as_str().contains(REDACTED)).count();
            text = form.replace_all(&text, *with).into_owned();
        }
        let mut lines = Vec::new();
        let mut below: Option<usize> = None;
        for line in text.split('\n') {
            let indent = line.len() - line.trim_start().len();
            if below.is_some_and(|above| indent > above) && !line.trim().is_empty() {
                *removed += 1;
                lines.push(format!("{}{REDACTED}", line.get(..indent).unwrap_or_default()));
                continue;
            }
            if !line.trim().is_empty() {
                below = opens_secret(line).then_some(indent);
            }
            lines.push(self.one_line(line, patterns, depth, removed));
        }
        lines.join("\n")
    }

    fn one_line(
        &self,
        line: &str,
        patterns: &Patterns,
        depth: usize,
        removed: &mut usize,
    ) -> String {
        if depth < DEPTH_MAX
            && line.trim_start().starts_with('{')
            && let Ok(value @ Value::Object(_)) = serde_json::from_str(line.trim())
        {
            return self.value(value, depth + 1, removed).to_string();
        }
        let named = patterns.named.replace_all(line, |found: &regex::Captures<'_>| {
            let part = |at| found.get(at).map_or("", |part| part.as_str());
            let value = part(2);
            if is_harmless(value) || is_done(value) {
                return format!("{}{value}", part(1));
            }
            *removed += 1;
            let quote = if value.starts_with(['"', '\'']) { value.get(..1) } else { None };
            let quote = quote.unwrap_or_default();
            format!("{}{quote}{REDACTED}{quote}", part(1))
        });
        let flags = patterns.flag.replace_all(&named, |found: &regex::Captures<'_>| {
            let part = |at| found.get(at).map_or("", |part| part.as_str());
            *removed += usize::from(!is_done(part(3)));
            format!("{}{}{REDACTED}", part(1), part(2))
        });
        flags.into_owned()
    }
}

/// Whether a member, variable or flag of this name is a secret.
pub(super) fn is_name_of_secret(name: &str) -> bool {
    PATTERNS.as_ref().is_none_or(|patterns| patterns.name.is_match(name))
}

/// The scalars of a YAML document whose names are those of secrets, such as the token in a kubeconfig.
pub(super) fn secrets_of_yaml(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(value) = serde_yaml_ng::from_str::<Value>(text) {
        collect(&value, false, &mut found);
    }
    found
}

fn collect(value: &Value, is_secret: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) if is_secret => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, is_secret, found)),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            collect(value, is_secret || is_name_of_secret(name), found);
        }),
        _ => {}
    }
}

/// Whether what is indented below a line is the value of a secret: `password: |`, `token:`.
fn opens_secret(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    let value = value.trim();
    let opens = value.is_empty() || value.starts_with(['|', '>']) || value.ends_with(['{', '[']);
    opens && is_name_of_secret(name)
}

/// Switches and absent values are no secrets.
fn is_harmless(value: &str) -> bool {
    let value = value.trim().trim_matches(['"', '\'', ',']);
    ["", "true", "false", "null", "|", ">", "|-", ">-", "{", "["].contains(&value)
}

/// Whether a value was removed already, all of it.
fn is_done(value: &str) -> bool {
    value.trim().trim_matches(['"', '\'', ',', '\\']) == REDACTED
}

/// Removes a value with all that is in it.
fn hide(value: Value, removed: &mut usize) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value,
        Value::String(text) if text.is_empty() => text.into(),
        _ => {
            *removed += 1;
            REDACTED.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "s3cr3t-Value-42";

    fn clean(text: &str) -> String {
        String::from_utf8(Redactor::default().content(text.as_bytes()).bytes).unwrap()
    }

    #[test]
    fn patterns_compile() {
        assert!(PATTERNS.is_some());
    }

    #[test]
    fn texts_lose_their_secrets_and_nothing_else() {
        for (text, expected) in [
            ("password: s3cr3t-Value-42", "password: [REDACTED]"),
            ("  DB_PASSWORD=s3cr3t-Value-42 two words", "  DB_PASSWORD=[REDACTED]"),
            ("token = \"s3cr3t-Value-42\" # mine", "token = \"[REDACTED]\" # mine"),
            ("romanad --api-token s3cr3t-Value-42 --id 1", "romanad --api-token [REDACTED] --id 1"),
            ("--token=s3cr3t-Value-42", "--token=[REDACTED]"),
            ("password=s3cr3t-Value-42 Bearer abcdefghijkl", "password=[REDACTED]"),
            ("> Authorization: Basic czNjcjN0", "> Authorization: [REDACTED]"),
            ("curl -H 'Bearer s3cr3t-Value-42'", "curl -H 'Bearer [REDACTED]'"),
            ("http://user:s3cr3t-Value-42@h:1/x", "http://[REDACTED]@h:1/x"),
            ("join abcdef.0123456789abcdef now", "join [REDACTED] now"),
            ("id AKIAABCDEFGHIJKLMNOP end", "id [REDACTED] end"),
            (
                "a\npassword: |\n  s3cr3t-Value-42\n  more\nnext: 1",
                "a\npassword: |\n  [REDACTED]\n  [REDACTED]\nnext: 1",
            ),
            (
                "{\"token\":\"s3cr3t-Value-42\",\"ip\":\"10.0.0.1\"",
                "{\"token\":\"[REDACTED]\",\"ip\":\"10.0.0.1\"",
            ),
            (
                "10.112.0.0/29 via 10.77.0.2 dev eth0 proto 57",
                "10.112.0.0/29 via 10.77.0.2 dev eth0 proto 57",
            ),
            ("automountServiceAccountToken: true", "automountServiceAccountToken: true"),
            ("net.ipv4.ip_forward = 1", "net.ipv4.ip_forward = 1"),
            ("romanad_state_addresses 12", "romanad_state_addresses 12"),
        ] {
            assert_eq!(clean(text), expected);
        }
        let pem = format!(
            "x\n-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----\ny"
        );
        assert_eq!(clean(&pem), "x\n[REDACTED]\ny");
        assert_eq!(clean("-----BEGIN PRIVATE KEY-----\nabc"), "[REDACTED]");
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        assert_eq!(clean(&format!("got {jwt} back")), "got [REDACTED] back");
    }

    #[test]
    fn documents_lose_their_secrets_at_any_depth() {
        let applied =
            json!({"spec": {"env": [{"name": "API_TOKEN", "value": SECRET}]}}).to_string();
        let document = json!({
            "env": [{"name": "DB_PASSWORD", "value": SECRET}, {"name": "PLACE", "value": "rack-1"}],
            "command": ["romanad", "--token", SECRET, "--id", "1", format!("--password={SECRET}")],
            "annotations": {"last-applied": applied},
            "client-key-data": SECRET,
            "credentials": {"user": "u", "more": [SECRET]},
            "list": {"kind": "Secret", "data": {"any": SECRET}},
            "log": format!("line\nAuthorization: Bearer {SECRET}\nend"),
            "config": format!("[api]\ntoken = \"{SECRET}\"\nlisten = \"10.0.0.1:9600\"\n"),
        });
        let text = clean(&document.to_string());
        assert!(!text.contains(SECRET), "{text}");
        for kept in ["rack-1", "DB_PASSWORD", "10.0.0.1:9600", "romanad", "\"--id\"", "line\\n"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let lines = format!("{{\"a\":1}}\n{{\"token\":\"{SECRET}\"}}\n");
        assert_eq!(clean(&lines), "{\"a\":1}\n{\"token\":\"[REDACTED]\"}\n");
    }

    #[test]
    fn what_this_process_knows_to_be_secret_goes_everywhere() {
        let redactor = Redactor::new([format!("{SECRET}\n"), String::from("short")]);
        let found = redactor.content(format!("peer said {SECRET} and short").as_bytes());
        assert_eq!(String::from_utf8(found.bytes).unwrap(), "peer said [REDACTED] and short");
        assert_eq!(found.removed, 1);
        let kubeconfig =
            format!("users:\n- name: a\n  user:\n    token: {SECRET}\n    password: p\n");
        let mut found = secrets_of_yaml(&kubeconfig);
        found.sort();
        assert_eq!(found, ["p", SECRET]);
    }

    proptest! {
        #[test]
        fn a_named_secret_never_survives(
            before in "[ -~\n]{0,40}",
            name in "(password|TOKEN|my_secret|apiKey|client-key-data|x_private_key)",
            between in "(=|: |\": \"|=\"|: ')",
            after in "[ -~\n]{0,40}",
        ) {
            let text = format!("{before}\n{name}{between}{SECRET}\n{after}");
            prop_assert!(!clean(&text).contains(SECRET), "{}", clean(&text));
        }

        #[test]
        fn nothing_panics_and_redacting_twice_is_the_same(text in "(?s).{0,200}") {
            let once = clean(&text);
            prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn a_document_stays_a_document(words in proptest::collection::vec("[a-zA-Z_-]{0,12}", 0..8)) {
            let document = json!({"items": words, "token": words});
            let text = clean(&document.to_string());
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}
