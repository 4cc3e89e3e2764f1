//! Stub domains: zones of others with servers of their own.

use std::net::SocketAddr;

use hickory_proto::rr::{LowerName, Name};

use super::upstreams::{address, is_own};
use super::zone;
use crate::forward::StubDomain;

/// Most stub domains.
const DOMAINS_MAX: usize = 64;
/// Most servers of one.
const SERVERS_MAX: usize = 15;

/// Reads `ZONE=ADDR,ADDR`. A zone inside our own is refused: we answer for it ourselves. So is a server that is this one.
pub(super) fn read(
    given: &[String],
    own: &Name,
    listen: &[SocketAddr],
) -> Result<Vec<StubDomain>, String> {
    let mut found: Vec<StubDomain> = Vec::new();
    // An empty text is an empty list: --stub-domain "".
    for text in given.iter().filter(|text| !text.is_empty()) {
        let domain = one(text, own, listen)?;
        if found.iter().any(|other| other.zone == domain.zone) {
            return Err(format!("{} is given twice: write ZONE=ADDR,ADDR", domain.zone));
        }
        found.push(domain);
    }
    match found.len() {
        0..=DOMAINS_MAX => Ok(found),
        many => Err(format!("{many} stub domains are too many: give at most {DOMAINS_MAX}")),
    }
}

fn one(text: &str, own: &Name, listen: &[SocketAddr]) -> Result<StubDomain, String> {
    let (name, servers) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not ZONE=ADDR,ADDR"))?;
    let zone = zone(name).ok_or_else(|| format!("{name:?} is not a zone such as corp.example"))?;
    if own.zone_of(&zone) {
        return Err(format!("{zone} is inside our own zone, {own}, whose names are not forwarded"));
    }
    let mut upstreams = Vec::new();
    for text in servers.split(',') {
        let server = address(text).ok_or_else(|| format!("{text:?} is not an address"))?;
        if is_own(server, listen) {
            return Err(format!("{server} is this server: questions for {zone} would go round"));
        }
        if !upstreams.contains(&server) {
            upstreams.push(server);
        }
    }
    match upstreams.len() {
        0..=SERVERS_MAX => Ok(StubDomain { zone: LowerName::from(zone), upstreams }),
        many => Err(format!("{many} servers of {zone} are too many: give at most {SERVERS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(texts: &[&str]) -> Result<Vec<StubDomain>, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let own = Name::from_ascii("cluster.local.").unwrap();
        read(
            &texts,
            &own,
            &["127.0.0.1:53", "[::]:5353"].map(|at| at.parse::<SocketAddr>().unwrap()),
        )
    }

    #[test]
    fn zones_and_their_servers_are_read() {
        let found =
            given(&["Corp.example=10.0.0.2,[fd00::2]:5353", "2.0.192.in-addr.arpa=10.0.0.3"]);
        let found = found.unwrap();
        assert_eq!(found[0].zone.to_string(), "corp.example.");
        assert_eq!(
            found[0].upstreams,
            ["10.0.0.2:53", "[fd00::2]:5353"].map(|a| a.parse().unwrap())
        );
        assert_eq!((found.len(), found[1].upstreams.len()), (2, 1));
        assert_eq!(given(&["", "example=10.0.0.2,10.0.0.2"]).unwrap()[0].upstreams.len(), 1);
        assert_eq!(given(&[]).unwrap(), []);
        // Above our own zone: the longer one counts, which is ours.
        assert!(given(&["local=10.0.0.2"]).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (bad, why) in [
            ("corp.example", "ZONE=ADDR"),
            (".=10.0.0.2", "not a zone"),
            ("a..b=10.0.0.2", "not a zone"),
            ("corp.example=", "not an address"),
            ("corp.example=dns.example", "not an address"),
            ("corp.example=127.0.0.1", "this server"),
            ("corp.example=10.0.0.2,[::1]:5353", "this server"),
            ("svc.cluster.local=10.0.0.2", "inside our own"),
            ("CLUSTER.local=10.0.0.2", "inside our own"),
        ] {
            let error = given(&[bad]).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let twice = given(&["a.example=10.0.0.2", "A.example.=10.0.0.3"]).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
        let many: Vec<String> = (0..65).map(|at| format!("z{at}.example=10.0.0.2")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(given(&many).unwrap_err().contains("too many"));
    }
}
