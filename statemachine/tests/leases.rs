//! Leases of VIPs in a small world: hosts, leaders and a log, with messages in any order, lost and repeated, pauses of
//! any length, leaders that do not know they were deposed, agents that are killed or hang, and clocks that drift by the
//! bound. No address is ever on two hosts (P6). Bugs planted in the world must be found.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "leases/world.rs"]
mod world;

use world::{Bug, World};

/// Random histories per check, and steps of each.
const SEEDS: u64 = 500;
const STEPS: usize = 2_000;

/// How many times as many histories to try: for a long search, in the environment as `LEASE_EFFORT`.
fn effort() -> u64 {
    std::env::var("LEASE_EFFORT").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// The first violation that the seeds find.
fn search(bug: Option<Bug>, seeds: u64) -> Option<String> {
    (0..seeds).find_map(|seed| {
        let mut world = World::new(seed, bug);
        let found = (0..STEPS).find_map(|_| world.step().err());
        found.map(|why| format!("seed {seed}: {why}\n{}", world.story.join("\n")))
    })
}

#[test]
fn no_address_is_on_two_hosts() {
    if let Some(found) = search(None, effort() * SEEDS) {
        panic!("{found}");
    }
}

/// A world in which nothing moves would prove nothing.
#[test]
fn vips_move_in_the_random_histories() {
    let (mut moves, mut grants) = (0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed, None);
        (0..STEPS).for_each(|_| world.step().unwrap());
        moves += world.moves;
        grants += world.grants;
    }
    assert!(moves > 300, "{moves} moves");
    assert!(grants > 1_500, "{grants} grants");
}

/// Once the faults end, each VIP is on exactly one host, the one that the log names.
#[test]
fn vips_are_served_once_faults_end() {
    for seed in 0..300 * effort() {
        let mut world = World::new(seed, None);
        (0..STEPS).for_each(|_| world.step().unwrap());
        if let Err(why) = world.heal() {
            panic!("seed {seed}: {why}\n{}", world.story.join("\n"));
        }
    }
}

/// A move that is committed late, when its VIP has been elsewhere in between, is refused.
#[test]
fn a_late_move_is_refused() {
    World::commit_late(None).unwrap();
    World::commit_late(Some(Bug::IgnoresSince)).unwrap_err();
}

/// A move whose outcome is unknown bars its old host until the outcome is known.
#[test]
fn an_unknown_outcome_is_no_refusal() {
    World::commit_unwanted(None).unwrap();
    World::commit_unwanted(Some(Bug::UnknownIsRefused)).unwrap_err();
}

/// A host that is killed: how long until another one has its VIP, at most.
#[test]
fn another_host_takes_over_within_two_seconds() {
    let mut longest = 0;
    for seed in 0..200 {
        longest = longest.max(World::calm(seed).kill_holder());
    }
    assert!(longest <= 2_000, "{longest} ms");
}

/// Draining: the address is without host only between the release and the next grant.
#[test]
fn a_planned_move_takes_a_moment() {
    let mut longest = 0;
    for seed in 0..200 {
        longest = longest.max(World::calm(seed).drain_holder());
    }
    assert!(longest <= 100, "{longest} ms");
}

macro_rules! planted {
    ($($name:ident $bug:ident;)*) => {$(
        #[test]
        fn $name() {
            assert!(search(Some(Bug::$bug), 40 * SEEDS).is_some(), "not found");
        }
    )*};
}

planted! {
    finds_a_leader_that_is_not_confirmed Unconfirmed;
    finds_a_new_leader_that_does_not_wait NoWait;
    finds_a_host_that_counts_from_the_answer CountsFromAnswer;
    finds_a_host_that_takes_old_answers TakesOldAnswers;
    finds_a_host_that_removes_late RemovesLate;
    finds_clocks_that_drift_too_much DriftsMore;
    finds_a_move_before_the_grant_is_over MovesEarly;
}
