//! Checks the dependencies between the modules of a crate, read from its sources: there must be no cycles. A
//! file's dependencies are its `use` lines and the paths that begin with `crate`, `super` or `self`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Modules that may depend on each other (an empty list: all), and why. Only ever shorten this list.
const CYCLES: &[(&str, &[&str], &str)] = &[
    (
        "statemachine",
        &[],
        "the rules of each topic read and change the one State, which holds what each topic keeps",
    ),
    (
        "controlplane/replica/raft",
        &["known", "peer", "proposer"],
        "a replica answers its peers from what it knows and proposes, and learns both from their messages",
    ),
];

/// A module, by its path from the root of its crate.
type Module = Vec<String>;

/// The sources of a crate, except its programs and tests.
struct Sources {
    modules: BTreeMap<Module, String>,
    /// Re-exports: names in a module for items in another.
    other_names: BTreeMap<Module, Module>,
}

impl Sources {
    fn read(krate: &Path) -> Self {
        let src = krate.join("src");
        let mut modules = BTreeMap::new();
        for path in files(&src) {
            let shown = path.strip_prefix(&src).expect("a path in the crate").with_extension("");
            let mut module: Module =
                shown.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module.iter().any(|part| part == "tests" || part == "bin") || module == ["main"] {
                continue;
            }
            if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
                module.pop();
            }
            modules.insert(module, code(&fs::read_to_string(&path).expect("a source file")));
        }
        let mut sources = Self { modules, other_names: BTreeMap::new() };
        let mut other_names = BTreeMap::new();
        for (module, text) in &sources.modules {
            for (_, path) in used(text).filter(|(public, _)| *public) {
                if let (Some(target), Some(name)) = (sources.resolve(module, &path), path.last()) {
                    let named = [&module[..], std::slice::from_ref(name)].concat();
                    if named != target {
                        other_names.insert(named, target);
                    }
                }
            }
        }
        sources.other_names = other_names;
        sources
    }

    /// Whether a module exists: a file, or a folder of modules.
    fn has(&self, module: &[String]) -> bool {
        self.modules.keys().any(|other| other.starts_with(module))
    }

    /// Resolves a path in a module to one from the crate's root; `None`: an item of another crate.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<Module> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let rest = |from: usize| path.get(from..).unwrap_or_default();
        match path.first()?.as_str() {
            "crate" => Some(rest(1).to_vec()),
            "self" => Some([module, rest(1)].concat()),
            "super" => {
                let above = module.get(..module.len().checked_sub(ups)?)?;
                Some([above, rest(ups)].concat())
            }
            first => {
                let child = [module, &[first.to_owned()]].concat();
                self.has(&child).then(|| [module, path].concat())
            }
        }
    }

    /// Resolves re-exports.
    fn follow(&self, mut path: Module) -> Module {
        for _ in 0..5 {
            let named = (1..=path.len()).find_map(|end| {
                let module = &path[..end];
                if self.has(module) { None } else { self.other_names.get(module) }
            });
            match named {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        path
    }

    /// Dependencies between the modules in a folder, and the paths that cause them.
    fn arrows(&self, folder: &[String]) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut arrows: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let member = |path: &[String]| {
            let inside = path.starts_with(folder).then(|| path.get(folder.len()))??;
            self.has(&[folder, std::slice::from_ref(inside)].concat()).then(|| inside.clone())
        };
        for (module, text) in &self.modules {
            let Some(from) = member(module) else { continue };
            let paths = used(text).map(|(_, path)| path).chain(inline(text));
            for path in paths {
                let target = self.resolve(module, &path).map(|target| self.follow(target));
                let Some(to) = target.and_then(|target| member(&target)) else { continue };
                if to != from {
                    let by = format!("{}: {}", module.join("/"), path.join("::"));
                    arrows.entry(from.clone()).or_default().entry(to).or_insert(by);
                }
            }
        }
        arrows
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// All crates of the workspace with their modules, and each folder in which modules can depend on each other; the
/// empty path is the crate's root.
fn places() -> impl Iterator<Item = (String, Rc<Sources>, Module)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace's manifest");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    let members = members.expect("members of the workspace").split(',');
    let members: Vec<String> = members.map(|name| name.trim().trim_matches('"').into()).collect();
    members.into_iter().flat_map(move |krate| {
        let sources = Rc::new(Sources::read(&root.join(&krate)));
        assert!(!sources.modules.is_empty(), "{krate} has no sources");
        let above = |module: &Module| (0..module.len()).map(|end| module[..end].to_vec()).collect();
        let folders: BTreeSet<Module> =
            sources.modules.keys().flat_map(above as fn(&_) -> Vec<_>).collect();
        folders.into_iter().map(move |folder| (krate.clone(), Rc::clone(&sources), folder))
    })
}

/// A source file without its inline tests, comments, and string literals.
fn code(text: &str) -> String {
    let inline_tests = ["#[cfg(test)]\nmod ", "#[cfg(all(test"];
    let end = inline_tests.iter().filter_map(|mark| {
        let at = text.find(mark)?;
        text[at..].lines().nth(1)?.ends_with('{').then_some(at)
    });
    let text = end.min().map_or(text, |end| &text[..end]);
    let line = |line: &str| {
        let line = line.split("//").next().unwrap_or_default();
        line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The paths of all `use` lines, and whether they are re-exports.
fn used(text: &str) -> impl Iterator<Item = (bool, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let before = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        let public = before.starts_with("pub");
        if !before.is_empty() && !public {
            continue;
        }
        let Some(tree) = text[at + 4..].split(';').next() else { continue };
        let mut paths = Vec::new();
        expand(&[], tree, &mut paths);
        found.extend(paths.into_iter().map(|path| (public, path)));
    }
    found.into_iter()
}

/// Expands a tree such as `a::{b, c::{d, self}}`.
fn expand(before: &[String], tree: &str, into: &mut Vec<Vec<String>>) {
    let mut depth = 0;
    let branches = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = |path: &str| -> Vec<String> {
        let path = path.split(" as ").next().unwrap_or_default();
        let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    for branch in branches.map(str::trim).filter(|branch| !branch.is_empty()) {
        match branch.split_once('{') {
            Some((stem, inner)) => {
                let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
                expand(&[before, &parts(stem)].concat(), inner, into);
            }
            None => {
                let last = parts(branch);
                let own = last == ["self"];
                into.push(if own { before.to_vec() } else { [before, &last].concat() });
            }
        }
    }
}

/// Qualified paths in the code or in a `use` line.
fn inline(text: &str) -> impl Iterator<Item = Vec<String>> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = text.split(move |c: char| !part(c)).filter(|word| word.contains("::"));
    let paths = words.map(|word| word.split("::").map(str::to_owned).collect::<Vec<_>>());
    let own = |path: &Vec<String>| matches!(path[0].as_str(), "crate" | "super" | "self");
    paths.filter(move |path| own(path) && !path.iter().any(String::is_empty))
}

/// A cycle, if there is one.
fn cycle(arrows: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    for start in arrows.keys() {
        let mut way = vec![start.clone()];
        let mut left = vec![next(arrows, start)];
        while let Some(choices) = left.last_mut() {
            let Some(choice) = choices.pop() else {
                left.pop();
                done.extend(way.pop());
                continue;
            };
            if let Some(at) = way.iter().position(|module| *module == choice) {
                return Some(way.split_off(at));
            }
            if !done.contains(&choice) {
                left.push(next(arrows, &choice));
                way.push(choice);
            }
        }
    }
    None
}

fn next(arrows: &BTreeMap<String, BTreeMap<String, String>>, from: &str) -> Vec<String> {
    arrows.get(from).map(|to| to.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn no_module_knows_one_that_knows_it() {
    let mut wrong = String::new();
    for (krate, sources, folder) in places() {
        let place = [&[krate], &folder[..]].concat().join("/");
        let mut arrows = sources.arrows(&folder);
        for (_, together, _) in CYCLES.iter().filter(|(at, ..)| *at == place) {
            // Merge all of them into one.
            let one = |name: &String| together.is_empty() || together.contains(&name.as_str());
            for (_, to) in arrows.iter_mut().filter(|(from, _)| one(from)) {
                to.retain(|to, _| !one(to));
            }
        }
        if let Some(way) = cycle(&arrows) {
            wrong += &format!("\nmodules of {place} know each other:\n");
            for (at, from) in way.iter().enumerate() {
                let to = &way[(at + 1) % way.len()];
                let by = &arrows[from][to];
                wrong += &format!("    {from} knows {to} ({by})\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn exceptions_have_reasons() {
    for (place, together, reason) in CYCLES {
        assert!(reason.len() > 40, "{place}: {together:?}");
        let is_place = |(krate, _, folder): (String, _, Module)| {
            [&[krate], &folder[..]].concat().join("/") == *place
        };
        assert!(places().any(is_place), "{place} is no folder of modules");
    }
}

#[test]
fn paths_are_found_where_they_stand() {
    let words = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let text = code(
        "use std::io;\npub use self::a::B;\nuse crate::{\n    c::{self, D as E},\n    f,\n};\n\
         // use crate::comment;\nfn g() -> super::h::I { crate::j(\"crate::text\") }\n\
         #[cfg(test)]\nmod tests {\n    use crate::test;\n}\n",
    );
    let paths: Vec<(bool, Vec<String>)> = used(&text).collect();
    let expected = [
        (false, "std::io"),
        (true, "self::a::B"),
        (false, "crate::c"),
        (false, "crate::c::D"),
        (false, "crate::f"),
    ];
    assert_eq!(paths, expected.map(|(public, path)| (public, words(path))));
    let paths: Vec<Vec<String>> = inline(&text).collect();
    assert_eq!(paths, ["self::a::B", "super::h::I", "crate::j"].map(words));
}

#[test]
fn a_cycle_is_found_by_way_of_others() {
    let arrows = |list: &[(&str, &str)]| {
        let mut arrows: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (from, to) in list {
            arrows.entry((*from).into()).or_default().insert((*to).into(), String::new());
        }
        arrows
    };
    assert_eq!(cycle(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let round =
        cycle(&arrows(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")])).unwrap_or_default();
    assert_eq!(round, ["b", "c", "d"]);
}
