//! How the sources read, as far as a program can tell: public items have docs, docs say something, words that hide who
//! does what are not used, lines fit a screen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest line of a comment, characters: rustfmt leaves them as they are.
const LINE_CHARS_MAX: usize = 135;

/// Words that make a reader ask who or what is meant. They are looked for in comments.
const BANNED: [&str; 3] = ["anew", "whoever", "meanwhile"];

/// Words that say nothing about a field.
const EMPTY: [&str; 40] = [
    "a", "an", "the", "its", "it", "is", "was", "be", "of", "in", "on", "at", "to", "for", "from",
    "by", "with", "and", "or", "not", "no", "what", "which", "why", "who", "whom", "how", "when",
    "where", "that", "this", "those", "there", "one", "has", "have", "them", "so", "all", "any",
];

/// A line of a source, and where it is.
struct Source {
    path: PathBuf,
    text: String,
}

/// Every source of the workspace.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut left = vec![root];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                let skipped = name == "target" || name.to_string_lossy().starts_with('.');
                left.extend((!skipped).then_some(path));
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(Source { text: fs::read_to_string(&path).unwrap(), path });
            }
        }
    }
    assert!(found.len() > 300, "{} sources", found.len());
    found
}

/// Whether a source is part of a program, rather than of its tests.
fn is_product(path: &Path) -> bool {
    let part = |name: &str| path.components().any(|part| part.as_os_str() == name);
    // What stands in for std under simulation is documented there.
    let stands_in = part("simulated") || path.ends_with("simulated.rs");
    part("src")
        && !part("tests")
        && !stands_in
        && !path.ends_with("tests.rs")
        && !path.ends_with("testing.rs")
}

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{}: {what}", source.path.display(), line + 1)
}

#[test]
fn lines_fit_a_screen() {
    let long = |source: &Source| {
        let lines = source.text.lines().enumerate();
        let long = lines.filter(|(_, line)| {
            line.trim_start().starts_with("//") && line.chars().count() > LINE_CHARS_MAX
        });
        long.map(|(line, _)| at(source, line, "too long")).collect::<Vec<_>>()
    };
    report(sources().iter().flat_map(long).collect());
}

#[test]
fn comments_say_who_does_what() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (line, text) in source.text.lines().enumerate() {
            let Some((_, comment)) = text.split_once("//") else { continue };
            let words = comment.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
            for word in words.filter(|word| BANNED.contains(&&**word)) {
                wrong.push(at(&source, line, &format!("{word:?}")));
            }
        }
    }
    report(wrong);
}

/// The item that a line declares for everybody, if it declares one that must have docs.
fn declared(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let rest = ["async ", "const ", "unsafe "].iter().fold(rest, |rest, word| {
        let without = rest.strip_prefix(word);
        // `const NAME` is an item, `const fn` says how a function is.
        without.filter(|rest| *word != "const " || rest.starts_with("fn ")).unwrap_or(rest)
    });
    let (kind, name) = rest.split_once(' ')?;
    let kinds = ["fn", "struct", "enum", "trait", "type", "const", "static"];
    (kinds.contains(&kind) && !name.starts_with("$")).then_some(name)
}

/// Whether docs stand before a line; attributes may be between.
fn has_docs(before: &[&str]) -> bool {
    let mut lines = before.iter().rev().map(|line| line.trim());
    lines
        .find(|line| {
            !(line.starts_with("#[")
                || line.ends_with(")]")
                || line.ends_with(',') && !line.starts_with("//"))
        })
        .is_some_and(|line| line.starts_with("///"))
}

#[test]
fn public_items_have_docs() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| is_product(&source.path)) {
        let product = source.text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines: Vec<&str> = product.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if let Some(name) = declared(line).filter(|_| !has_docs(&lines[..number])) {
                wrong.push(at(source, number, &format!("{name} has no docs")));
            }
        }
    }
    report(wrong);
}

/// The words of a comment that its field's declaration does not have already.
fn news<'a>(comment: &'a str, declaration: &str) -> Vec<&'a str> {
    let declaration = declaration.to_lowercase();
    let words = comment.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words
        .filter(|word| {
            let word = word.to_lowercase();
            !EMPTY.contains(&&*word) && !declaration.contains(word.trim_end_matches('s'))
        })
        .collect()
}

/// The name of a field or variant that a line declares.
fn is_member(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("pub ");
    let name: String = line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let rest = &line[name.len()..];
    let field =
        rest.starts_with(": ") && line.ends_with(',') && name.starts_with(char::is_lowercase);
    let variant = name.starts_with(char::is_uppercase) && matches!(rest, "," | " {");
    !name.is_empty() && (field || variant)
}

#[test]
fn docs_of_members_say_something() {
    let mut wrong = Vec::new();
    for source in sources() {
        // Help texts of a command line are read without the source.
        if ["Subcommand", "Args)", "Parser", "ValueEnum"]
            .iter()
            .any(|derive| source.text.contains(derive))
        {
            continue;
        }
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for (number, three) in lines.windows(3).enumerate() {
            let is_doc = |line: &str| line.starts_with("///");
            let Some(comment) = three[1].strip_prefix("///") else { continue };
            if !is_doc(three[0]) && is_member(three[2]) && news(comment, three[2]).is_empty() {
                wrong.push(at(&source, number + 1, three[1]));
            }
        }
    }
    report(wrong);
}

#[test]
fn the_reader_is_not_blind() {
    assert_eq!(declared("    pub const fn one(self) -> u8 {"), Some("one(self) -> u8 {"));
    assert_eq!(declared("pub const NAME: u8 = 1;"), Some("NAME: u8 = 1;"));
    assert_eq!(declared("    pub name: String,"), None);
    assert!(has_docs(&["/// Docs.", "#[must_use]"]) && !has_docs(&["}", "#[must_use]"]));
    assert!(
        is_member("    pub name: String,")
            && is_member("    Variant {")
            && !is_member("    let a = 1;")
    );
    assert!(news(" Its name.", "pub name: HostName,").is_empty());
    assert_eq!(
        news(" Its address, `HOST:PORT`.", "pub peer: String,"),
        ["address", "HOST", "PORT"]
    );
}
