//! Formats result tables, and describes the machine.

use serde::Serialize;

use super::load::Figures;

/// Machine and date, without which results are meaningless.
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
    pub(super) what: String,
    /// Number of concurrent callers.
    pub(super) callers: usize,
    /// Median of the rounds.
    pub(super) figures: Figures,
    /// Rate relative to etcd's with the same number of callers.
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

/// A value compared with its budget.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Budget {
    what: String,
    measured: f64,
    /// The budget, and whether larger values are better.
    allowed: Option<(f64, bool)>,
}

impl Budget {
    /// A budget that is a minimum.
    pub(super) fn at_least(what: &str, measured: f64, allowed: f64) -> Self {
        Self { what: what.to_owned(), measured, allowed: Some((allowed, true)) }
    }

    /// A budget that is a maximum.
    pub(super) fn at_most(what: &str, measured: f64, allowed: f64) -> Self {
        Self { what: what.to_owned(), measured, allowed: Some((allowed, false)) }
    }

    /// A value without a budget.
    pub(super) fn note(what: &str, measured: f64) -> Self {
        Self { what: what.to_owned(), measured, allowed: None }
    }

    fn line(&self) -> String {
        let digits = if self.measured.abs() < 10.0 { 2 } else { 0 };
        let measured = format!("{:.digits$}", self.measured);
        let allowed = match self.allowed {
            None => String::new(),
            Some((allowed, more)) => {
                let met = if more { self.measured >= allowed } else { self.measured <= allowed };
                let (sign, verdict) =
                    (if more { "≥" } else { "≤" }, if met { "met" } else { "missed" });
                let part = match allowed {
                    0.0 => String::new(),
                    _ => format!(", {:.2} of it", self.measured / allowed),
                };
                format!("{sign} {allowed:.0}{part}: {verdict}")
            }
        };
        format!("{:<58} {measured:>10}  {allowed}", self.what)
    }
}

/// Prints values with their budgets. Nothing is asserted, as machines differ.
pub(super) fn print_budgets(budgets: &[Budget]) {
    println!("{:<58} {:>10}  budget", "", "measured");
    for budget in budgets {
        println!("{}", budget.line().trim_end());
    }
}

/// The median by a key (of an even number, the lower one).
pub(super) fn median_by<T>(mut all: Vec<T>, figure: impl Fn(&T) -> f64) -> Option<T> {
    all.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
    let middle = all.len().saturating_sub(1) / 2;
    all.into_iter().nth(middle)
}

/// Resident memory of a process (by default this one), bytes.
pub(crate) fn resident_bytes(process: Option<u32>) -> u64 {
    let process = process.map_or_else(|| "self".to_owned(), |id| id.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_say_whether_they_are_met() {
        let met = Budget::at_least("speed", 600.0, 500.0).line();
        assert!(met.ends_with("600  ≥ 500, 1.20 of it: met"), "{met}");
        let missed = Budget::at_most("stall, ms", 75.4, 50.0).line();
        assert!(missed.ends_with("75  ≤ 50, 1.51 of it: missed"), "{missed}");
        assert_eq!(Budget::note("flat", 0.914).line().split_whitespace().last(), Some("0.91"));
    }

    #[test]
    fn the_lower_of_two_is_the_median() {
        assert_eq!(median_by(vec![3, 1], |n| f64::from(*n)), Some(1));
        assert_eq!(median_by(vec![3, 1, 2], |n| f64::from(*n)), Some(2));
        assert_eq!(median_by(Vec::<i32>::new(), |n| f64::from(*n)), None);
    }
}
