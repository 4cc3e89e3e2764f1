//! Lying disks, by their names on the command line.

use clap::ValueEnum;
use romana_storage::platform::disk;

/// What disks claim and do not do: a run must notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lie {
    /// Nothing: good disks.
    #[default]
    None,
    /// A sync of a file does nothing.
    Sync,
    /// A sync returns before what it is for is on the disk.
    LateSync,
    /// A sync of a directory does nothing.
    Directory,
}

impl Lie {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |lie| lie.get_name().to_owned())
    }
}

impl From<Lie> for disk::Lie {
    fn from(lie: Lie) -> Self {
        match lie {
            Lie::None => Self::None,
            Lie::Sync => Self::Sync,
            Lie::LateSync => Self::LateSync,
            Lie::Directory => Self::Directory,
        }
    }
}
