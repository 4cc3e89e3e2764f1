//! Tables for people, and what machine it was.

use serde::Serialize;

use super::load::Figures;

/// The machine and the moment: figures mean nothing without.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_mb: u64,
    kernel: String,
    load_1m: String,
    build: &'static str,
}

impl Machine {
    pub(super) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            text.lines()
                .find(|line| line.starts_with(key))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mb: memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0)
                / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_1m: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            build: if cfg!(debug_assertions) { "debug (figures mean nothing)" } else { "release" },
        }
    }

    pub(super) fn print(&self) {
        println!(
            "machine: {} cores of {}, {} MB, Linux {}, load {} at the start, {} build",
            self.cores, self.cpu, self.memory_mb, self.kernel, self.load_1m, self.build
        );
    }
}

/// A row of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// What was measured.
    pub(super) what: String,
    /// Concurrent callers.
    pub(super) callers: usize,
    /// Median of the rounds.
    pub(super) figures: Figures,
    /// Rate relative to etcd's with as many callers.
    pub(super) rate_ratio: f64,
    /// p50 relative to etcd's.
    pub(super) p50_ratio: f64,
    /// p99 relative to etcd's.
    pub(super) p99_ratio: f64,
}

impl Row {
    pub(super) fn new(what: &str, callers: usize, figures: Figures, etcd: Figures) -> Self {
        let ratio = |ours: u64, theirs: u64| ours as f64 / theirs.max(1) as f64;
        Self {
            what: what.to_owned(),
            callers,
            figures,
            rate_ratio: figures.rate / etcd.rate.max(1.0),
            p50_ratio: ratio(figures.p50_us, etcd.p50_us),
            p99_ratio: ratio(figures.p99_us, etcd.p99_us),
        }
    }
}

pub(super) fn print_rows(rows: &[Row]) {
    println!(
        "{:<34} {:>7} {:>10} {:>9} {:>9} {:>9}   {:>6} {:>6} {:>6}",
        "", "callers", "rate/s", "p50 µs", "p99 µs", "max µs", "rate ×", "p50 ×", "p99 ×"
    );
    for row in rows {
        let Figures { rate, p50_us, p99_us, max_us } = row.figures;
        println!(
            "{:<34} {:>7} {:>10.0} {:>9} {:>9} {:>9}   {:>6.2} {:>6.2} {:>6.2}",
            row.what,
            row.callers,
            rate,
            p50_us,
            p99_us,
            max_us,
            row.rate_ratio,
            row.p50_ratio,
            row.p99_ratio
        );
    }
}
