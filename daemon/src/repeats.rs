//! Suppresses repeated warnings: the first is written, later ones are counted, and summary lines
//! report the count so far and the end.
//!
//! Failed operations are retried by us and by libraries, sometimes ten times a second for as long as a disk
//! is full or a replica is down. Warnings are the same if they come from the same place in the code and have
//! the same values, such as host or file. Numbers are not compared, nor are causes that differ only in
//! numbers. A place with very many different warnings, for example about many hosts, gets [`LINES_MAX`] lines
//! per [`ENDED_AFTER`]; the rest is counted together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use romana_statemachine::Printable;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// A warning that was not repeated for this time has ended.
pub const ENDED_AFTER: Duration = Duration::from_secs(30);
/// Delay of the first summary while a warning lasts; later ones are increasingly rare.
const FIRST_COUNT: Duration = Duration::from_secs(60);
const COUNT_EVERY_MAX: Duration = Duration::from_secs(3600);
/// Limit of different warnings from one place that are written while the first of them lasts.
pub const LINES_MAX: usize = 20;
/// How often summaries are checked while warnings are counted.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Log target of the summary lines.
const TARGET: &str = "romana_daemon::repeats";

/// A place in the code, and the text of its warning without numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    place: Identifier,
    /// `None`: all other warnings of the place.
    words: Option<String>,
}

/// A warning that was written and may be repeated.
#[derive(Clone, Debug)]
struct Repeated {
    level: Level,
    line: String,
    began: Instant,
    last: Instant,
    /// Number of repetitions.
    count: u64,
    /// When the next summary is due, and the delay after that.
    next: Instant,
    wait: Duration,
}

/// A summary of suppressed warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Level of the warnings.
    pub level: Level,
    /// The first warning.
    pub line: String,
    /// Number of repetitions.
    pub count: u64,
    /// From the first to the last.
    pub during: Duration,
    /// Whether the warning has ended.
    pub ended: bool,
}

/// The warnings that last.
#[derive(Debug, Default)]
struct Lasting {
    warnings: HashMap<Key, Repeated>,
    /// Number of lines written for each place.
    lines: HashMap<Identifier, usize>,
}

impl Lasting {
    /// Whether a warning is to be written.
    fn is_news(&mut self, place: Identifier, level: Level, said: EventText, now: Instant) -> bool {
        let mut key = Key { place: place.clone(), words: Some(said.words) };
        if !self.warnings.contains_key(&key) {
            let lines = self.lines.entry(place).or_default();
            if *lines >= LINES_MAX {
                key.words = None;
            } else {
                *lines += 1;
            }
        }
        let rest = key.words.is_none();
        let line = || if rest { format!("others like: {}", said.line) } else { said.line };
        let mut known = true;
        let warning = self.warnings.entry(key).or_insert_with(|| {
            known = false;
            let next = now + FIRST_COUNT;
            let wait = FIRST_COUNT;
            Repeated { level, line: line(), began: now, last: now, count: 0, next, wait }
        });
        warning.last = now;
        if known || rest {
            warning.count += 1;
        }
        !known && !rest
    }

    /// The summaries that are due.
    fn look(&mut self, now: Instant) -> Vec<Counted> {
        let mut counted = Vec::new();
        let lines = &mut self.lines;
        self.warnings.retain(|key, one| {
            let ended = now.duration_since(one.last) >= ENDED_AFTER;
            if one.count > 0 && (ended || now >= one.next) {
                one.wait = (one.wait * 2).min(COUNT_EVERY_MAX);
                one.next = now + one.wait;
                counted.push(Counted {
                    level: one.level,
                    line: one.line.clone(),
                    count: one.count,
                    during: one.last.duration_since(one.began),
                    ended,
                });
            }
            if ended && key.words.is_some() {
                lines.entry(key.place.clone()).and_modify(|lines| *lines -= 1);
            }
            !ended
        });
        lines.retain(|_, lines| *lines > 0);
        counted
    }
}

/// A log filter that suppresses repeated warnings.
#[derive(Clone, Debug, Default)]
pub struct Repeats(Arc<(Mutex<Lasting>, Condvar)>);

impl Repeats {
    /// Starts the thread that writes summaries; it ends with the process.
    pub fn count(&self) {
        let counting = self.clone();
        let thread = thread::Builder::new().name("log".into());
        let started = thread.spawn(move || {
            loop {
                counting.wait().into_iter().for_each(|one| one.log());
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "starting the summary thread of repeated warnings failed");
        }
    }

    /// Waits until there are warnings, then a little longer, and returns the summaries that are due.
    fn wait(&self) -> Vec<Counted> {
        let (_, news) = &*self.0;
        let lasting = self.lasting();
        let some = news.wait_while(lasting, |lasting| lasting.warnings.is_empty());
        drop(some);
        thread::sleep(LOOK_EVERY);
        self.lasting().look(Instant::now())
    }

    fn lasting(&self) -> MutexGuard<'_, Lasting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let said = EventText::of(event);
        let now = Instant::now();
        let news = self.lasting().is_news(metadata.callsite(), *metadata.level(), said, now);
        if news {
            self.0.1.notify_all();
        }
        news
    }
}

impl Counted {
    fn log(&self) {
        let Self { level, line, count, during, ended } = self;
        let during = Seconds(*during);
        match (*ended, *level) {
            (true, _) => {
                tracing::info!(target: TARGET, count, %during, line, "repeated warning ended")
            }
            (false, Level::ERROR) => {
                tracing::error!(target: TARGET, count, %during, line, "repeated warning continues");
            }
            (false, _) => {
                tracing::warn!(target: TARGET, count, %during, line, "repeated warning continues")
            }
        }
    }
}

/// Formats a duration in seconds.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "0.{}s", self.0.subsec_millis() / 100),
            seconds @ 1..60 => write!(f, "{seconds}s"),
            seconds @ 60..3600 => write!(f, "{}m{}s", seconds / 60, seconds % 60),
            seconds => write!(f, "{}h{}m", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

/// The content of an event.
#[derive(Clone, Debug, Default)]
struct EventText {
    /// The part that identifies the warning.
    words: String,
    /// Message and values, for the summary.
    line: String,
}

impl EventText {
    fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        // Libraries put values into the message text, where they cannot be told apart.
        let ours = metadata.target().starts_with("romana");
        let mut visitor = Visitor { ours, said: Self::default() };
        visitor.said.words.push_str(metadata.target());
        event.record(&mut visitor);
        visitor.said
    }
}

struct Visitor {
    ours: bool,
    said: EventText,
}

impl Visitor {
    fn put(&mut self, field: &Field, value: &dyn fmt::Display, number: bool) {
        let (name, text) = (field.name(), Printable(value).to_string());
        let shown = match name {
            "message" => text.clone(),
            name => format!("{name}={text}"),
        };
        self.said.line.push_str(if self.said.line.is_empty() { "" } else { " " });
        self.said.line.push_str(&shown);
        // Numbers that identify the subject; other numbers change between repetitions.
        let about = matches!(name, "replica" | "peer" | "id" | "member" | "from" | "to");
        if number && !about {
            return;
        }
        let varies = !self.ours || matches!(name, "message" | "error" | "why" | "problem");
        let words = &mut self.said.words;
        words.push('\0');
        match varies && !about {
            true => words.extend(text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c })),
            false => words.push_str(&text),
        }
        while let Some(at) = words.find("##") {
            words.remove(at);
        }
    }
}

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format_args!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &value, false);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, &crate::error::Chain(value), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value, true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value, true);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value, true);
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry};

    use super::*;

    /// The lines that are written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Layer<Registry> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
            self.0.lock().unwrap().push(EventText::of(event).line);
        }
    }

    fn logged(log: impl FnOnce()) -> (Vec<String>, Repeats) {
        let (lines, repeats) = (Lines::default(), Repeats::default());
        let layer = lines.clone().with_filter(repeats.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let lines = lines.0.lock().unwrap().clone();
        (lines, repeats)
    }

    #[test]
    fn a_warning_is_written_once_for_each_that_it_is_about() {
        let (lines, repeats) = logged(|| {
            for n in 0..1000_u64 {
                let error = format!("no answer within {n}ms");
                tracing::warn!(replica = n % 2, attempt = n, %error, "not reached");
                tracing::info!(n, "news");
            }
            tracing::warn!(host = "h1", "silent");
            tracing::warn!(host = "h2", "silent");
        });
        let is = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        assert_eq!((is("not reached"), is("news"), is("silent")), (2, 1000, 3 - 1));
        let mut lasting = repeats.lasting();
        let now = Instant::now();
        assert_eq!(lasting.look(now), []);
        let mut counted = lasting.look(now + FIRST_COUNT - Duration::from_secs(35));
        assert_eq!(counted, [], "it lasts");
        counted = lasting.look(now + ENDED_AFTER);
        let counts: Vec<_> = counted.iter().map(|one| (one.count, one.ended)).collect();
        assert_eq!(counts, [(499, true), (499, true)], "what came once is not counted");
        assert!(lasting.warnings.is_empty() && lasting.lines.is_empty());
    }

    #[test]
    fn what_lasts_is_counted_more_and_more_rarely() {
        let mut lasting = Lasting::default();
        let place =
            tracing::callsite!(name: "here", kind: tracing::metadata::Kind::EVENT, fields: );
        let (start, mut said) = (Instant::now(), Vec::new());
        for second in 0..7200 {
            let now = start + Duration::from_secs(second);
            let what = EventText { words: "disk full".into(), line: "the disk is full".into() };
            let news = lasting.is_news(place.metadata().callsite(), Level::ERROR, what, now);
            assert_eq!(news, second == 0, "{second}");
            said.extend(lasting.look(now).into_iter().map(|one| (second, one.count, one.ended)));
        }
        let expected = [(60, 60, false), (180, 180, false), (420, 420, false), (900, 900, false)];
        assert_eq!(said[..4], expected);
        assert_eq!(said.len(), 6, "{said:?}");
        let ended = lasting.look(start + Duration::from_secs(7200) + ENDED_AFTER);
        assert_eq!((ended[0].count, ended[0].ended), (7199, true));
        assert_eq!(Seconds(ended[0].during).to_string(), "1h59m");
    }

    #[test]
    fn a_place_that_says_very_much_gets_so_many_lines() {
        let (lines, repeats) = logged(|| {
            for n in 0..1000 {
                tracing::warn!(host = format!("h{n}"), "down");
            }
        });
        assert_eq!(lines.len(), LINES_MAX);
        let counted = repeats.lasting().look(Instant::now() + ENDED_AFTER);
        let counts: Vec<_> = counted.iter().map(|one| one.count).collect();
        assert_eq!(counts, [1000 - LINES_MAX as u64]);
        assert!(counted[0].line.starts_with("others like: down"), "{counted:?}");
    }

    /// Libraries put their values into the message.
    #[test]
    fn numbers_in_a_message_make_no_other_warning() {
        let (lines, _) = logged(|| {
            for n in 0..100 {
                tracing::warn!(target: "openraft::core", "while at {n}: T{n}-N1.{n} failed");
            }
        });
        assert_eq!(lines, ["while at 0: T0-N1.0 failed"]);
    }
}
