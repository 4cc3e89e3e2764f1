//! Tests one component on one disk over a few lives: situations that a whole cluster meets once
//! in thousands of seeds (a segment that cannot be packed, later ones that can, then a
//! power failure) are frequent here.

mod history;
mod log;

use std::time::Duration;

use romana_storage::platform::{begin, below, disk, random};

/// Lives of a story.
const LIVES: u64 = 5;

/// A component that stores data on a machine's disk.
trait Part {
    fn new(machine: String) -> Self;

    /// Runs from the start of a process to its end; the error is a broken law.
    fn live(&mut self) -> Result<(), String>;
}

/// Runs stories of each component, optionally on lying disks. Returns the first failure of each component.
pub(crate) fn tell(mut seeds: std::ops::Range<u64>, lie: disk::Lie) -> Vec<(u64, String)> {
    let history = seeds.clone().find_map(|seed| one::<history::Kept>(seed, "history", lie));
    let log = seeds.find_map(|seed| one::<log::Log>(seed, "log", lie));
    history.into_iter().chain(log).collect()
}

fn one<P: Part>(seed: u64, what: &str, lie: disk::Lie) -> Option<(u64, String)> {
    begin(seed, Duration::ZERO);
    let machine = format!("{what}{seed}");
    disk::lie(&machine, lie);
    let mut part = P::new(machine.clone());
    for _ in 0..LIVES {
        disk::power_on(&machine);
        if below(8) == 0 {
            disk::cut_power_after(&machine, 1 + below(12));
        }
        if let Err(why) = part.live() {
            return Some((seed, format!("the {what} {why}")));
        }
        if random() {
            disk::cut_power(&machine);
        }
        disk::kill(&machine);
    }
    None
}

/// Returns a check whether the machine's disk has failed since this call: then the data need not be readable.
fn excuse(machine: &str) -> impl Fn() -> bool + use<> {
    let (machine, failed) = (machine.to_owned(), disk::failed_syncs(machine));
    move || disk::is_dark(&machine) || disk::failed_syncs(&machine) > failed
}
