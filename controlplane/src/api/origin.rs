//! Cross-site request protection: pages of other sites cannot make changes.
//!
//! A browser sends requests of any page's forms and scripts, with the user's access to the network. It identifies the
//! page: by `Sec-Fetch-Site`, and by `Origin` with everything except a plain GET. Programs (curl, our CLI, agents,
//! Romana 2.0's clients) send neither and are not affected.

use axum::http::{HeaderMap, Uri, header, uri::Authority};

use super::head::only;
use crate::error::{Code, Failure};

/// Refuses a request that was made by a page of another origin.
pub(crate) fn check(headers: &HeaderMap, target: &Uri) -> Result<(), Failure> {
    if let Some(site) = only(headers, "Sec-Fetch-Site")? {
        // `none`: the user made the request, not a page.
        let own = [b"same-origin".as_slice(), b"none"];
        if !own.contains(&site.as_bytes()) {
            return Err(refused("a page of another site sent it"));
        }
    }
    let Some(origin) = only(headers, "Origin")? else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = target.authority().cloned().or_else(|| host?.parse().ok());
    let given = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    match (given.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?))), own) {
        (Some((scheme, given)), Some(own)) if same(scheme, given, &own) => Ok(()),
        _ => Err(refused("a page of another origin sent it")),
    }
}

/// Whether both name the same server; the scheme's default port may be omitted.
fn same(scheme: &str, given: &Authority, own: &Authority) -> bool {
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    given.host().eq_ignore_ascii_case(own.host()) && port(given) == port(own)
}

fn refused(why: &str) -> Failure {
    Failure::new(Code::CrossSite, format!("this request makes a change, and {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(given: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        check(&headers, &Uri::from_static("/v1/hosts")).is_ok()
    }

    #[test]
    fn only_the_own_origin_and_programs_pass() {
        let host = ("host", "romana:9600");
        assert!(allowed(&[host]));
        assert!(allowed(&[host, ("origin", "http://romana:9600")]));
        assert!(allowed(&[
            host,
            ("origin", "http://ROMANA:9600"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(allowed(&[("host", "romana"), ("origin", "http://romana:80")]));
        assert!(allowed(&[host, ("sec-fetch-site", "none")]));
        for foreign in
            ["http://evil", "http://romana", "http://romana:9600.evil", "null", "", "romana:9600"]
        {
            assert!(!allowed(&[host, ("origin", foreign)]), "{foreign}");
        }
        assert!(!allowed(&[("origin", "http://romana:9600")]));
        assert!(!allowed(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!allowed(&[host, ("sec-fetch-site", "same-site")]));
        let twice = [("origin", "http://romana:9600"), ("origin", "http://evil")];
        assert!(!allowed(&[host, twice[0], twice[1]]));
    }
}
