//! A self-contained HTML page without scripts or external resources.

use romana_statemachine::plural;
use std::fmt::Write;

use super::{Part, Story, millis, seconds};
use crate::evidence::Nanos;

const STYLE: &str = include_str!("style.css");
/// Size of the plots, and margins for their axes.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 22.0;
/// Top margin, for the names of faults.
const TOP: f64 = 12.0;

/// A line of a plot: its class, its label, and its value in each interval; `None`: no value.
type Line<'a> = (&'a str, &'a str, Vec<Option<f64>>);

/// Renders the page.
#[must_use]
pub fn html(story: &Story) -> String {
    let broken = story.violations.len();
    let verdict = match broken {
        0 => String::from("every law held"),
        many => plural(many, "violation").to_string(),
    };
    let class = if broken == 0 { "good" } else { "bad" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>chaos: {verdict}</title>\n\
         <style>\n{STYLE}</style></head>\n<body>\n<h1>A run of chaos: <em class=\"{class}\">{verdict}</em></h1>\n\
         <pre>{}</pre>\n",
        escape(&story.command)
    );
    let (gap, at) = story.gap;
    let mut facts = story.facts.clone();
    let longest = format!("{} ms, from {} s on", millis(gap), seconds(at));
    facts.push((String::from("longest without an acknowledged write"), longest));
    page.push_str("<dl>\n");
    for (name, value) in &facts {
        // Writing to a String cannot fail.
        _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    page.push_str("</dl>\n");
    page.push_str(&throughput(story));
    page.push_str(&latency(story));
    page.push_str(&tables(story));
    page.push_str("</body></html>\n");
    page
}

fn throughput(story: &Story) -> String {
    let per_second = 1e9 / story.part.max(1) as f64;
    let rate = |of: fn(&Part) -> u64| -> Vec<Option<f64>> {
        story.parts.iter().map(|part| Some(of(part) as f64 * per_second)).collect()
    };
    let lines: [Line<'_>; 3] = [
        ("acked", "acknowledged", rate(|part| part.acked)),
        ("refused", "refused", rate(|part| part.refused)),
        ("failed", "unavailable or unknown", rate(|part| part.failed)),
    ];
    let values = lines.iter().flat_map(|(.., values)| values.iter().flatten());
    let most = values.copied().fold(1.0, f64::max);
    let ticks: Vec<(f64, String)> =
        [0.0, 0.5, 1.0].map(|part| (part, format!("{:.0}", part * most))).to_vec();
    plot(story, "Calls per second", &lines, &ticks, &|value| value / most)
}

/// Logarithmic scale, from a tenth of a millisecond to a hundred seconds.
fn latency(story: &Story) -> String {
    const DECADES: f64 = 6.0;
    let of = |at: usize| -> Vec<Option<f64>> {
        let value = |part: &Part| Some(part.latency[at] as f64 / 1e6).filter(|ms| *ms > 0.0);
        story.parts.iter().map(value).collect()
    };
    let lines: [Line<'_>; 3] =
        [("p50", "median", of(0)), ("p99", "p99", of(1)), ("max", "longest", of(2))];
    let names = ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"];
    let ticks: Vec<(f64, String)> =
        (0_u8..).zip(names).map(|(n, name)| (f64::from(n) / DECADES, name.to_owned())).collect();
    plot(story, "Latency of what was acknowledged", &lines, &ticks, &|ms| {
        ((ms.log10() + 1.0) / DECADES).clamp(0.0, 1.0)
    })
}

fn plot(
    story: &Story,
    title: &str,
    lines: &[Line<'_>],
    ticks: &[(f64, String)],
    scale: &dyn Fn(f64) -> f64,
) -> String {
    let end = story.end().max(1) as f64;
    let x = |at: Nanos| LEFT + (at as f64 / end).min(1.0) * (WIDTH - LEFT);
    let y = |part: f64| TOP + (1.0 - part) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<figure><figcaption>{title}{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n",
        lines
            .iter()
            .map(|(class, name, _)| format!(" <b class=\"{class}\">{name}</b>"))
            .collect::<String>()
    );
    for fault in &story.faults {
        let (from, until) = (x(fault.from), x(fault.until));
        let told = escape(&format!("{} ({})", fault.fault, fault.hit));
        _ = writeln!(
            svg,
            "<rect class=\"fault {}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{told}, {} s to {} s</title></rect>",
            fault.fault.kind().sort.as_str(),
            (until - from).max(1.5),
            HEIGHT - TOP - BOTTOM,
            seconds(fault.from),
            seconds(fault.until)
        );
    }
    for (at, name) in ticks {
        let at = y(*at);
        _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{WIDTH}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for part in 0_u8..=8 {
        let at = end * f64::from(part) / 8.0;
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} s</text>",
            LEFT + (WIDTH - LEFT - 12.0) * f64::from(part) / 8.0,
            HEIGHT - 6.0,
            at / 1e9
        );
    }
    for (class, _, values) in lines {
        let mut path = String::new();
        let mut drawn = false;
        for (part, value) in story.parts.iter().zip(values) {
            let Some(value) = value else {
                drawn = false;
                continue;
            };
            let step = if drawn { 'L' } else { 'M' };
            _ = write!(path, "{step}{:.1} {:.1}", x(part.from + story.part / 2), y(scale(*value)));
            drawn = true;
        }
        _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
    }
    svg.push_str("</svg></figure>\n");
    svg
}

fn tables(story: &Story) -> String {
    let mut page = String::from("<h2>Laws</h2>\n<table>\n");
    for (name, says, broken) in &story.laws {
        let (class, verdict) = match broken {
            0 => ("good", String::from("held")),
            times => ("bad", format!("broken {times} ×")),
        };
        _ = writeln!(
            page,
            "<tr><th>{}</th><td>{}</td><td class=\"{class}\">{verdict}</td></tr>",
            escape(name),
            escape(says)
        );
    }
    page.push_str("</table>\n");
    if !story.violations.is_empty() {
        page.push_str("<h2>Violations</h2>\n<ul>\n");
        for violation in &story.violations {
            _ = writeln!(page, "<li>{}</li>", escape(&violation.to_string()));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("<h2>Faults</h2>\n<table>\n<tr><th>from</th><th>until</th><th>what</th><th>whom</th></tr>\n");
    for fault in &story.faults {
        _ = writeln!(
            page,
            "<tr><td>{} s</td><td>{} s</td><td>{}</td><td>{}</td></tr>",
            seconds(fault.from),
            seconds(fault.until),
            fault.fault,
            escape(&fault.hit)
        );
    }
    page.push_str("</table>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    /// All elements are closed in order, and nothing is loaded.
    #[test]
    fn the_page_is_whole_and_alone() {
        let story = super::super::tests::story();
        let page = super::html(&story);
        let mut open = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or_default()) {
            let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
            if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
                continue;
            }
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
        for word in ["http", "<script", "url(", "src=", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
        for fault in &story.faults {
            assert!(page.contains(&fault.fault.to_string()));
        }
        for law in crate::oracle::LAWS {
            assert!(page.contains(&format!("<th>{}</th>", law.name)));
        }
        assert!(page.contains("replica &lt;2&gt;") && page.contains("a &amp; b"));
    }
}
