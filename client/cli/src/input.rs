//! Documents from a file or stdin, of limited size.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use romana_daemon::file;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// Maximum size of a document, bytes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// Reads a JSON (or YAML) document from a file; without one, or from `-`, from stdin.
pub(crate) async fn document(file: Option<PathBuf>) -> Result<Value, Failure> {
    match <[Value; 1]>::try_from(documents(file).await?) {
        Ok([document]) => Ok(document),
        Err(several) => {
            let count = several.len();
            Err(Failure::document(format!("{count} documents are given, and one is wanted")))
        }
    }
}

/// The same for YAML with several documents, separated by `---`; at least one.
pub(crate) async fn documents(file: Option<PathBuf>) -> Result<Vec<Value>, Failure> {
    let read = tokio::task::spawn_blocking(move || {
        let (name, text) = match file.filter(|path| path != Path::new("-")) {
            Some(path) => {
                let name = path.display().to_string();
                let file = open(&path).map_err(|error| Failure::file(&path, &error))?;
                let text = bounded(&name, file)?;
                (name, text)
            }
            None => {
                if io::stdin().is_terminal() {
                    eprintln!("reading the document from the terminal, end it with Ctrl-D");
                }
                (String::from("stdin"), bounded("stdin", io::stdin().lock())?)
            }
        };
        parse(&text).map_err(|why| Failure::document(format!("{name}: {why}")))
    });
    read.await.map_err(|error| Failure::io("reading", io::Error::other(error)))?
}

/// Opens a regular file, or one that the caller opened for this program: `/dev/stdin`, and `/dev/fd/63` from a
/// shell's `<(command)`. Other pipes and devices are refused: reading them may block or never end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if path.starts_with("/dev/fd") || path == Path::new("/dev/stdin") {
        return File::open(path);
    }
    file::open(path).map(|(file, _)| file)
}

fn bounded(name: &str, reader: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let mut reader = reader.take(DOCUMENT_BYTES_MAX + 1);
    reader.read_to_string(&mut text).map_err(|error| Failure::io(name, error))?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Failure::usage(format!("{name} is longer than 16 MiB")));
    }
    Ok(text)
}

/// Parses JSON, and anything else as YAML: so documents that look like JSON may have comments (`# …`) and trailing
/// commas, as in Romana 2.0. Skips empty YAML documents.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    let begins_json = matches!(text.trim_start().chars().next(), Some('{' | '[' | '"'));
    let not_json = match begins_json.then(|| serde_json::from_str(text)) {
        Some(Ok(document)) => return Ok(vec![document]),
        Some(Err(error)) => Some(error),
        None => None,
    };
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Result<Vec<Value>, _> = documents.collect();
    let mut documents = documents.map_err(|not_yaml| match not_json {
        Some(not_json) => format!("it is neither JSON ({not_json}) nor YAML ({not_yaml})"),
        None => not_yaml.to_string(),
    })?;
    documents.retain(|document| !document.is_null());
    if documents.is_empty() { Err(String::from("it is empty")) } else { Ok(documents) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_and_yaml_are_read() {
        let wanted = serde_json::json!({"networks": [{"name": "a", "block_mask": 29}]});
        let json = " {\"networks\":[{\"name\":\"a\",\"block_mask\":29}]}";
        assert_eq!(parse(json).unwrap()[..], vec![wanted.clone()]);
        let yaml = "networks:\n- name: a\n  block_mask: 29\n";
        assert_eq!(parse(yaml).unwrap()[..], vec![wanted.clone()]);
        let several = format!("---\n{yaml}---\n# nothing\n---\n{yaml}---\n");
        assert_eq!(parse(&several).unwrap(), [wanted.clone(), wanted]);
        for bad in ["", "  \n", "{", "[1", "a: b: c", "---\n", "a: 1\n---\nb: c: d"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    /// Documents as operators write them: comments, trailing commas, and tabs.
    #[test]
    fn json_with_comments_is_read() {
        let wanted = serde_json::json!({"networks": [{"name": "a", "block_mask": 29}], "b": true});
        for text in [
            "{ # the networks\n  \"networks\": [\n# one\n {\"name\" : \"a\", # its name\n \"block_mask\": 29,\n},\n],\n\"b\": true,\n}\n",
            "# first\n{\"networks\": [{\"name\": \"a\", \"block_mask\": 29}], \"b\": true}",
            "{\n\t\"networks\": [ # tabs\n\t\t{\"name\": \"a\",\t\"block_mask\": 29}\n\t],\n\t\"b\": true\n}",
        ] {
            assert_eq!(parse(text).unwrap()[..], vec![wanted.clone()], "{text}");
        }
        assert_eq!(parse("[1,]").unwrap(), [serde_json::json!([1])]);
        let why = parse("{\"a\": # here\n [1}").unwrap_err();
        assert!(why.contains("neither JSON") && why.contains("line 2"), "{why}");
    }

    #[test]
    fn length_is_bounded() {
        assert!(bounded("test", io::repeat(b' ')).is_err());
        assert!(bounded("test", &b"\xff"[..]).is_err());
        assert_eq!(bounded("test", &b"{}"[..]).unwrap(), "{}");
    }

    proptest! {
        #[test]
        fn no_document_panics(text in ".*") {
            _ = parse(&text);
        }
    }
}
