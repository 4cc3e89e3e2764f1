//! Golden files: what went in, `---`, what came out. `UPDATE=1 cargo test` writes what came out instead of comparing it:
//! read the diff before keeping it.

use std::fs;
use std::path::{Path, PathBuf};

/// Collects what differs from golden files, so that one run shows all of it.
#[derive(Debug)]
pub struct Goldens {
    update: bool,
    wrong: Vec<String>,
}

impl Default for Goldens {
    fn default() -> Self {
        Self { update: std::env::var_os("UPDATE").is_some(), wrong: Vec::new() }
    }
}

impl Goldens {
    /// Compares a whole file with what it should be, or writes that.
    ///
    /// # Panics
    /// The file cannot be read or written.
    pub fn compare(&mut self, file: &Path, fresh: &str) {
        let text = read(file);
        if text == fresh {
            return;
        }
        if self.update {
            fs::write(file, fresh).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        } else {
            self.fail(file, &difference(&text, fresh));
        }
    }

    /// Records that a file cannot be compared.
    pub fn fail(&mut self, file: &Path, why: &str) {
        self.wrong.push(format!("{}: {why}", file.display()));
    }

    /// Ends the comparison.
    ///
    /// # Panics
    /// Something differs.
    pub fn assert(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n\n"));
    }
}

/// Every file under a folder, sorted.
///
/// # Panics
/// The folder cannot be read, or there are fewer than `least`.
#[must_use]
pub fn files(folder: &Path, least: usize) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    assert!(found.len() >= least, "{}: {} files, not {least}", folder.display(), found.len());
    found.sort();
    found
}

/// The text of a file.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What went in: all before the line `---`.
#[must_use]
pub fn input(text: &str) -> &str {
    text.split_once("---\n").map_or(text, |(input, _)| input)
}

/// Checks every file of a folder that has one input and what comes of it.
///
/// # Panics
/// Something else comes, or there are fewer than `least` files.
pub fn check(folder: &Path, least: usize, run: impl Fn(&str) -> String) {
    let mut goldens = Goldens::default();
    for file in files(folder, least) {
        let text = read(&file);
        let input = input(&text);
        goldens.compare(&file, &format!("{input}---\n{}", run(input)));
    }
    goldens.assert();
}

/// Checks every file of a folder whose steps, separated by empty lines, each have an input and what comes of it. A file
/// is about one thing, which `begin` makes; `step` carries out an input and appends what comes.
///
/// # Panics
/// Something else comes, or there are fewer than `least` files.
pub fn check_steps<T>(
    folder: &Path,
    least: usize,
    begin: impl Fn() -> T,
    step: impl Fn(&mut T, &str, &mut String),
) {
    let mut goldens = Goldens::default();
    for file in files(folder, least) {
        let mut thing = begin();
        let fresh = fresh_steps(&read(&file), |given, out| step(&mut thing, given, out));
        goldens.compare(&file, &fresh);
    }
    goldens.assert();
}

fn fresh_steps(text: &str, mut step: impl FnMut(&str, &mut String)) -> String {
    let mut fresh = String::new();
    for part in text.split("\n\n").map(|part| part.trim_matches('\n')) {
        let given = part.split_once("\n---").map_or(part, |(given, _)| given);
        if !fresh.is_empty() {
            fresh.push('\n');
        }
        fresh.push_str(given);
        fresh.push_str("\n---\n");
        step(given, &mut fresh);
    }
    fresh
}

/// The first lines that differ.
fn difference(text: &str, fresh: &str) -> String {
    let (mut old, mut new) = (text.lines(), fresh.lines());
    for line in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (old, new) if old == new => {}
            (old, new) => {
                let shown = |side: Option<&str>| side.unwrap_or("(end)").to_string();
                return format!("line {line}\n- {}\n+ {}", shown(old), shown(new));
            }
        }
    }
    String::from("they differ in the last newline")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "one\ntwo\n---\nONE\nTWO\n\nthree\n---\nTHREE\n";

    fn shout(given: &str, out: &mut String) {
        out.push_str(&given.to_uppercase());
        out.push('\n');
    }

    #[test]
    fn steps_are_run_again() {
        assert_eq!(fresh_steps(TEXT, shout), TEXT);
        assert_eq!(fresh_steps("one\ntwo\n\nthree\n", shout), TEXT);
        assert_eq!(input("a\n---\nb\n"), "a\n");
        assert_eq!(input("a\n"), "a\n");
    }

    #[test]
    fn what_differs_is_said_or_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("case.txt");
        fs::write(&file, TEXT).expect("written");
        let mut goldens = Goldens { update: false, wrong: Vec::new() };
        goldens.compare(&file, TEXT);
        assert_eq!(goldens.wrong, [""; 0]);
        goldens.compare(&file, &TEXT.replace("THREE", "3"));
        goldens.compare(&file, TEXT.trim_end());
        let name = file.display();
        let wrong = [
            format!("{name}: line 9\n- THREE\n+ 3"),
            format!("{name}: they differ in the last newline"),
        ];
        assert_eq!(goldens.wrong, wrong);
        assert!(std::panic::catch_unwind(|| goldens.assert()).is_err());
        let mut goldens = Goldens { update: true, wrong: Vec::new() };
        goldens.compare(&file, "fresh");
        goldens.assert();
        assert_eq!(read(&file), "fresh");
        assert_eq!(files(dir.path(), 1), [file]);
    }
}
