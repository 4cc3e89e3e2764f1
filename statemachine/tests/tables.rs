//! The tables of commands and events, compared with the properties before the tables existed: the version checks of
//! each rule, the client's list of retryable commands, the API's list of commands that batches exclude. A new command
//! or event gets a new line; existing lines never change.

use std::fmt::Write;

use romana_statemachine::command::CommandMeta;
use romana_statemachine::event::EventMeta;
use romana_statemachine::{Command, Event, VERSION_MAX};

#[test]
fn commands_are_as_they_were() {
    let mut lines = String::new();
    for meta in Command::TABLE {
        let CommandMeta { name, since, idempotent, batchable, access, topic } = meta;
        let twice = if *idempotent { "idempotent" } else { "once" };
        let batch = if *batchable { "batch" } else { "own" };
        _ = writeln!(lines, "{name} {since} {twice} {batch} {access:?} {topic:?}");
        assert!((1..=VERSION_MAX).contains(since), "{name}");
    }
    assert_eq!(lines, include_str!("tables/commands.txt"));
}

#[test]
fn events_are_as_they_were() {
    let mut lines = String::new();
    for meta in Event::TABLE {
        let EventMeta { name, since, optional, topic } = meta;
        let needed = if *optional { "optional" } else { "needed" };
        _ = writeln!(lines, "{name} {since} {needed} {topic:?}");
        assert!((1..=VERSION_MAX).contains(since), "{name}");
    }
    assert_eq!(lines, include_str!("tables/events.txt"));
}
