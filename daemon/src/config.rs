//! Layered configuration: a flag takes precedence over its environment variable, that over the configuration
//! file, and that over the default.
//!
//! ```text
//!   #[derive(clap::Args, serde::Deserialize)]
//!   struct Given { key: Option<T>, … }            each option once: flag, variable and key of the file
//!
//!   defaults ◄── Given, with the file's keys ◄── flags and variables: Layers<Given> in the program's clap::Parser
//! ```
//! All fields are `Option`s, and clap has no defaults: `None` means that no layer sets the option. The
//! program adds defaults and validates the result.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches, Id};
use serde::de::DeserializeOwned;

use crate::file::{self, CONFIG_BYTES_MAX};

/// The layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a valid configuration", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the arguments are not valid")]
    Arguments(#[from] clap::Error),
}

/// The configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error("{key}: {why}")]
    Value {
        key: &'static str,
        /// What is wrong, and the remedy.
        why: String,
    },
}

/// The options in `T` as set by flags and environment variables, to be merged over a configuration file.
/// Flatten it into the program's arguments. The default sets no option.
#[derive(Clone, Debug)]
pub struct Layers<T> {
    given: Option<ArgMatches>,
    options: PhantomData<fn() -> T>,
}

impl<T: FromArgMatches> Layers<T> {
    /// Merges flags and environment over a lower layer.
    ///
    /// # Errors
    /// [`LayersError::Arguments`].
    pub fn over(&self, mut lower: T) -> Result<T, LayersError> {
        if let Some(given) = &self.given {
            lower.update_from_arg_matches(given)?;
        }
        Ok(lower)
    }

    /// Merges flags and environment over the file, if there is one.
    ///
    /// # Errors
    /// [`LayersError`].
    pub fn over_file(&self, path: Option<&Path>) -> Result<T, LayersError>
    where
        T: Default + DeserializeOwned,
    {
        self.over(path.map(read).transpose()?.unwrap_or_default())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, LayersError> {
    let text = file::read_text(path, CONFIG_BYTES_MAX)
        .map_err(|source| LayersError::Read { path: path.into(), source })?;
    toml::from_str(&text)
        .map_err(|source| LayersError::Parse { path: path.into(), source: Box::new(source) })
}

impl<T> Default for Layers<T> {
    fn default() -> Self {
        Self { given: None, options: PhantomData }
    }
}

impl<T: FromArgMatches> FromArgMatches for Layers<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // Parse errors must be reported here, not on the merge.
        T::from_arg_matches(matches)?;
        Ok(Self { given: Some(matches.clone()), options: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: Args> Args for Layers<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }

    fn group_id() -> Option<Id> {
        T::group_id()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde::Deserialize;

    use super::*;
    use crate::error::chain;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        given: Layers<Given>,
    }

    #[derive(Debug, Default, PartialEq, Args, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Given {
        #[arg(long)]
        name: Option<String>,
        #[arg(long, value_delimiter = ',')]
        servers: Option<Vec<String>>,
        #[arg(long, num_args = 0..=1, default_missing_value = "true")]
        loud: Option<bool>,
        /// Always set, so that the test needs no variable of its own.
        #[arg(long, env = "CARGO_MANIFEST_DIR")]
        dir: Option<PathBuf>,
    }

    fn put(words: &[&str], file: &str) -> Result<Given, LayersError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program.toml");
        std::fs::write(&path, file).unwrap();
        let words = std::iter::once("program").chain(words.iter().copied());
        Program::parse_from(words).given.over_file(Some(&path))
    }

    #[test]
    fn each_layer_goes_before_the_next() {
        let file = "name = 'f'\nservers = ['f', 'g']\nloud = true\ndir = '/f'\n";
        let set = put(&["--servers", "a,b", "--loud=false"], file).unwrap();
        assert_eq!(set.name.as_deref(), Some("f"), "only the file says it");
        assert_eq!(set.servers, Some(vec!["a".into(), "b".into()]), "lists are replaced whole");
        assert_eq!(set.loud, Some(false));
        assert_eq!(set.dir, Some(env!("CARGO_MANIFEST_DIR").into()), "a variable beats the file");
        assert_eq!(put(&["--dir", "/a"], file).unwrap().dir, Some("/a".into()));
        let set = put(&["--loud"], "").unwrap();
        assert_eq!((set.loud, set.name, set.servers), (Some(true), None, None));
        assert_eq!(Layers::<Given>::default().over_file(None).unwrap(), Given::default());
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let error = chain(&put(&[], "colour = 1").unwrap_err());
        assert!(error.contains("program.toml is not a valid configuration: "), "{error}");
        assert!(error.contains("colour"), "{error}");
        let gone = Program::parse_from(["program"]).given.over_file(Some(Path::new("/none")));
        assert!(chain(&gone.unwrap_err()).starts_with("cannot read /none: "));
    }
}
