//! Plans of VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use romana_agent::kernel::addresses::{VipAddress, VipFacts, VipLink};
use romana_agent::vips::plan::{plan, subnets};
use romana_testing::goldens::check;

#[derive(Default)]
struct Case {
    held: BTreeMap<IpAddr, Duration>,
    vips: BTreeSet<IpAddr>,
    spared: BTreeSet<IpAddr>,
    facts: VipFacts,
    only: Option<String>,
}

impl Case {
    fn read(text: &str) -> Self {
        let mut case = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            case.take(words[0], &words[1..]);
        }
        case
    }

    fn take(&mut self, what: &str, words: &[&str]) {
        let ip = |word: &str| word.parse::<IpAddr>().expect("an address");
        match what {
            "link" => self.facts.links.push(link(words)),
            "vip" => _ = self.vips.insert(ip(words[0])),
            "spared" => _ = self.spared.insert(ip(words[0])),
            "held" => {
                let until = words[1].parse().map(Duration::from_millis).expect("milliseconds");
                self.held.insert(ip(words[0]), until);
            }
            "address" => self.facts.addresses.push(VipAddress {
                ip: ip(words[0]),
                link: words[1].parse().expect("an index"),
                ours: words.contains(&"ours"),
                failed: words.contains(&"failed"),
            }),
            "only" => self.only = Some(words[0].to_owned()),
            other => panic!("{other}?"),
        }
    }

    fn print(&self) -> String {
        let only = self.only.as_deref();
        let plan = plan(&self.held, &self.vips, &self.spared, &self.facts, only);
        let mut text = String::new();
        for subnet in subnets(&self.facts, only) {
            text.push_str(&format!("subnet {subnet}\n"));
        }
        for place in &plan.hold {
            let known = if place.known { " known" } else { "" };
            let until = place.until.as_millis();
            text.push_str(&format!("hold {} link {} until {until}{known}\n", place.ip, place.link));
        }
        for (ip, link) in &plan.remove {
            text.push_str(&format!("remove {ip} link {link}\n"));
        }
        for (link, vips) in &plan.beside {
            let vips: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
            text.push_str(&format!("beside {link}: {}\n", vips.join(" ")));
        }
        for (code, why) in &plan.problems {
            text.push_str(&format!("problem {code}: {why}\n"));
        }
        text
    }
}

/// Parses `NAME INDEX MAC [down] SUBNET…`.
fn link(words: &[&str]) -> VipLink {
    let mac = words[2].split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    let mac = mac.collect::<Option<Vec<u8>>>().and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    let subnets = words[3..].iter().filter_map(|word| word.parse::<IpNet>().ok());
    VipLink {
        index: words[1].parse().expect("an index"),
        name: words[0].to_owned(),
        mac,
        carrier: !words.contains(&"down"),
        subnets: subnets.map(|subnet| subnet.trunc()).collect(),
    }
}

#[test]
fn vips_are_planned_as_the_goldens_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/vips");
    check(&dir, 5, |input| Case::read(input).print());
}
