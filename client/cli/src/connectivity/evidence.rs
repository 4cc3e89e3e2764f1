//! Why a connection that is allowed does not work: from what this host's kernel and the cluster say.

use std::collections::BTreeMap;

use serde_json::Value;

use super::probe::{Fault, Outcome};

/// A rule or a chain's policy that dropped packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dropper {
    /// Table and rule, as `iptables-save` prints them.
    pub(super) rule: String,
    pub(super) packets: u64,
    /// Whether it is one of Romana's.
    pub(super) ours: bool,
}

/// What drops packets: rules with the target DROP or REJECT, and policies of chains, with their packets.
fn counters(saved: &str) -> BTreeMap<(String, usize), (u64, bool)> {
    let (mut table, mut found) = (String::new(), BTreeMap::new());
    let mut add = |rule: String, packets: u64, ours: bool| {
        // Equal rules are told apart by their order.
        let at = (0..).find(|at| !found.contains_key(&(rule.clone(), *at))).unwrap_or(0);
        found.insert((rule, at), (packets, ours));
    };
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let packets =
            |text: &str| text.trim_matches(['[', ']']).split(':').next()?.parse::<u64>().ok();
        match words.as_slice() {
            [name] if name.starts_with('*') => table = name.trim_start_matches('*').to_owned(),
            [chain, "DROP", count] if chain.starts_with(':') => {
                let chain = chain.trim_start_matches(':');
                add(format!("{table}: policy DROP of {chain}"), packets(count).unwrap_or(0), false);
            }
            [count, "-A", chain, rest @ ..] => {
                let drops = rest.windows(2).any(|two| matches!(two, ["-j", "DROP" | "REJECT"]));
                if drops {
                    let rule = format!("{table}: -A {chain} {}", rest.join(" "));
                    add(rule, packets(count).unwrap_or(0), chain.starts_with("ROMANA-"));
                }
            }
            _ => {}
        }
    }
    found
}

/// What dropped packets between two outputs of `iptables-save -c`; most packets first.
pub(super) fn droppers(before: &str, after: &str) -> Vec<Dropper> {
    let before = counters(before);
    let mut found: Vec<Dropper> = counters(after)
        .into_iter()
        .filter_map(|(key, (packets, ours))| {
            let (then, _) = before.get(&key).copied().unwrap_or_default();
            let packets = packets.checked_sub(then).filter(|packets| *packets > 0)?;
            Some(Dropper { rule: key.0, packets, ours })
        })
        .collect();
    found.sort_by_key(|dropper| (dropper.ours, std::cmp::Reverse(dropper.packets)));
    found
}

/// The way that this host's kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextHop {
    /// There is no route, or one that refuses.
    None(String),
    /// By the default route, to a gateway.
    Default(String),
    /// By a route for the address.
    Known,
}

/// Reads the output of `ip -j route get fibmatch`, or its error.
pub(super) fn next_hop(output: Result<&[u8], &str>) -> Option<NextHop> {
    let text = match output {
        Err(why) if why.contains("unreachable") || why.contains("Invalid argument") => {
            return Some(NextHop::None("no route".into()));
        }
        Err(_) => return None,
        Ok(text) => text,
    };
    let routes: Value = serde_json::from_slice(text).ok()?;
    let route = routes.get(0)?;
    let kind = route["type"].as_str().unwrap_or("unicast");
    if ["unreachable", "blackhole", "prohibit"].contains(&kind) {
        let to = route["dst"].as_str().unwrap_or_default();
        return Some(NextHop::None(format!("an {kind} route for {to}")));
    }
    match (route["dst"].as_str(), route["gateway"].as_str()) {
        (Some("default"), gateway) => Some(NextHop::Default(gateway.unwrap_or("a link").into())),
        _ => Some(NextHop::Known),
    }
}

/// What is known about a connection that does not work.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    pub(super) next_hop: Option<NextHop>,
    pub(super) droppers: Vec<Dropper>,
    /// Whether the policies allow it, and the words of the verdict.
    pub(super) verdict: Option<(bool, String)>,
    /// The destination's host, if it is another one, and how long its agent is silent.
    pub(super) other_host: Option<(String, Option<u64>)>,
    /// Whether this host's kernel was asked.
    pub(super) looked_here: bool,
    /// Whether that host is on a link of this one: then there must be a route of its own.
    pub(super) on_link: bool,
    /// `SRC DST PROTO/PORT`, for commands.
    pub(super) packet: String,
    pub(super) ip: String,
}

/// Time without a heartbeat after which an agent is part of the explanation.
const SILENT_MS_MAX: u64 = 5_000;

/// Why it does not work, and what to do. `None`: nothing here explains it.
pub(super) fn explain(evidence: &Evidence, outcome: &Outcome) -> Option<(String, String)> {
    if outcome.fault == Some(Fault::Unable) || outcome.fault == Some(Fault::TooLong) {
        return None;
    }
    dropped(evidence).or_else(|| astray(evidence)).or_else(|| lost_elsewhere(evidence))
}

/// A rule or a policy that drops it.
fn dropped(evidence: &Evidence) -> Option<(String, String)> {
    let Evidence { droppers, verdict, packet, .. } = evidence;
    if let Some(foreign) = droppers.iter().find(|dropper| !dropper.ours) {
        let Dropper { rule, packets, .. } = foreign;
        let why = format!("a rule on this host drops it ({packets} packets): {rule}");
        return Some((why, "remove or narrow that rule; it is not Romana's".into()));
    }
    if let Some((false, words)) = verdict {
        let why = format!("the policies deny it: {words}");
        return Some((why, format!("romana policy explain {packet}")));
    }
    let own = droppers.first()?;
    let why = format!(
        "Romana's rules on this host drop it, although the policies allow it: {}",
        own.rule
    );
    Some((why, "romana-agent status: has it applied the last revision?".into()))
}

/// No route, or the wrong one.
fn astray(evidence: &Evidence) -> Option<(String, String)> {
    let Evidence { next_hop, on_link, ip, .. } = evidence;
    let why = match next_hop.as_ref()? {
        NextHop::None(what) => format!("this host has no way to {ip}: {what}"),
        NextHop::Default(gateway) if *on_link => format!(
            "this host has no route to {ip}: packets go to the default gateway ({gateway}), although the host is on \
             the same link"
        ),
        NextHop::Default(_) | NextHop::Known => return None,
    };
    let remedy = "romana-agent status; are its routes on (routes = true, ROMANA_AGENT_ROUTES), and is there another \
                  table or rule (ip rule)?";
    Some((why, remedy.into()))
}

/// Nothing here is in the way of a packet to another host.
fn lost_elsewhere(evidence: &Evidence) -> Option<(String, String)> {
    let (host, silent) = evidence.other_host.as_ref()?;
    let about = match silent {
        Some(ms) if *ms >= SILENT_MS_MAX => format!("; its agent is silent for {} s", ms / 1000),
        _ => String::new(),
    };
    let here = match evidence.looked_here {
        true => ", and nothing on this host is in the way",
        false => "",
    };
    let why = format!("no answer from {host}{here}{about}");
    let remedy = format!(
        "on {host}: romana-agent status (is there a route back to this host's blocks?), iptables-save, and romana \
         connectivity test; between them: a firewall, or source filtering (rp_filter, security groups, port security)"
    );
    Some((why, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "*raw\n:PREROUTING ACCEPT [5:300]\n[1:60] -A PREROUTING -p tcp -j DROP\nCOMMIT\n*filter\n\
        :FORWARD DROP [2:120]\n[0:0] -A FORWARD -j ROMANA-FORWARD\n[7:420] -A ROMANA-DENY-IN -j DROP\n\
        [3:1] -A FORWARD -i x -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";

    #[test]
    fn what_dropped_packets_is_named() {
        let after = BEFORE
            .replace("[1:60] -A PREROUTING", "[4:240] -A PREROUTING")
            .replace(":FORWARD DROP [2:120]", ":FORWARD DROP [3:180]")
            .replace("[7:420]", "[9:540]");
        let found = droppers(BEFORE, &after);
        let found: Vec<(&str, u64, bool)> =
            found.iter().map(|dropper| (&*dropper.rule, dropper.packets, dropper.ours)).collect();
        assert_eq!(
            found,
            [
                ("raw: -A PREROUTING -p tcp -j DROP", 3, false),
                ("filter: policy DROP of FORWARD", 1, false),
                ("filter: -A ROMANA-DENY-IN -j DROP", 2, true),
            ]
        );
        assert_eq!(droppers(&after, &after), []);
    }

    #[test]
    fn routes_are_read() {
        let read = |text: &'static str| next_hop(Ok(text.as_bytes()));
        let known =
            r#"[{"dst":"10.112.0.8/29","gateway":"10.77.0.2","dev":"eth0","protocol":"57"}]"#;
        assert_eq!(read(known), Some(NextHop::Known));
        let default = r#"[{"dst":"default","gateway":"10.77.0.254","dev":"eth0"}]"#;
        assert_eq!(read(default), Some(NextHop::Default("10.77.0.254".into())));
        let refuses = r#"[{"type":"unreachable","dst":"10.112.0.0/29","dev":"lo"}]"#;
        let refused = NextHop::None("an unreachable route for 10.112.0.0/29".into());
        assert_eq!(read(refuses), Some(refused));
        let none = next_hop(Err("RTNETLINK answers: Network is unreachable"));
        assert_eq!(none, Some(NextHop::None("no route".into())));
        assert_eq!(next_hop(Err("ip is not installed here")), None);
        assert_eq!(read("no JSON"), None);
    }

    fn evidence() -> Evidence {
        Evidence {
            next_hop: Some(NextHop::Known),
            verdict: Some((true, "allowed".into())),
            other_host: Some(("h2".into(), Some(100))),
            on_link: true,
            looked_here: true,
            packet: "10.0.0.1 10.0.0.9 tcp/7001".into(),
            ip: "10.0.0.9".into(),
            ..Evidence::default()
        }
    }

    #[test]
    fn each_kind_of_breakage_has_its_name() {
        let silence = Outcome::failed(Fault::Silence, "");
        let explained = |evidence: Evidence| explain(&evidence, &silence).unwrap().0;
        let dropper =
            |ours| Dropper { rule: "raw: -A PREROUTING -j DROP".into(), packets: 3, ours };
        let foreign = Evidence { droppers: vec![dropper(false)], ..evidence() };
        assert!(explained(foreign).contains("raw: -A PREROUTING -j DROP"));
        let denied = Evidence { verdict: Some((false, "closed".into())), ..evidence() };
        assert!(explained(denied).starts_with("the policies deny it: closed"));
        let behind = Evidence { droppers: vec![dropper(true)], ..evidence() };
        assert!(explained(behind).starts_with("Romana's rules on this host drop it, although"));
        let lost = Evidence { next_hop: Some(NextHop::None("no route".into())), ..evidence() };
        assert_eq!(explained(lost), "this host has no way to 10.0.0.9: no route");
        let default = Evidence { next_hop: Some(NextHop::Default("g".into())), ..evidence() };
        assert!(explained(default.clone()).starts_with("this host has no route to 10.0.0.9"));
        let routed = Evidence { on_link: false, ..default };
        assert!(explained(routed).starts_with("no answer from h2, and nothing on this host"));
        let elsewhere = Evidence { looked_here: false, next_hop: None, ..evidence() };
        assert_eq!(explained(elsewhere), "no answer from h2");
        let silent = Evidence { other_host: Some(("h2".into(), Some(9_000))), ..evidence() };
        assert!(explained(silent).ends_with("its agent is silent for 9 s"));
        let here = Evidence { other_host: None, ..evidence() };
        assert_eq!(explain(&here, &silence), None);
        assert_eq!(explain(&evidence(), &Outcome::failed(Fault::TooLong, "")), None);
    }
}
