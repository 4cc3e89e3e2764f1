//! The head of a request, checked: headers that may occur once, the time limit, the query, the body's type.

use std::time::Duration;

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use romana_api::header;

use super::input::Param;
use crate::error::{Code, Failure};

/// Longest deadline that a client may request.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The type that `curl -d` sends for any body, including JSON. Parsed as JSON everywhere; a real form fails to parse.
const CURL_TYPE: &str = "application/x-www-form-urlencoded";

/// The value of a header that may occur only once: with two values it would be ambiguous which one counts.
pub(crate) fn only<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a HeaderValue>, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        let why = format!("{name} is there more than once");
        return Err(Failure::new(Code::MalformedHeader, why).with("header", name));
    }
    Ok(value)
}

/// The time limit that the client asked for, or the default.
pub(crate) fn timeout(headers: &HeaderMap, default: Duration) -> Result<Duration, Failure> {
    let Some(value) = only(headers, header::TIMEOUT_MS)? else { return Ok(default) };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let ms = ms.filter(|ms| *ms > 0).ok_or_else(|| {
        let why = format!("{} is not a positive number of milliseconds", header::TIMEOUT_MS);
        Failure::new(Code::MalformedHeader, why).with("header", header::TIMEOUT_MS)
    })?;
    Ok(Duration::from_millis(ms).min(TIMEOUT_MAX))
}

/// The parameters of the query: each known to the route, and given once.
pub(crate) fn query(parts: &Parts, known: &[Param]) -> Result<Vec<(String, String)>, Failure> {
    let text = parts.uri.query().unwrap_or_default();
    if !is_encoded(text) {
        let shown: String = text.chars().take(128).collect();
        let why = format!("?{shown} is not UTF-8 when its % escapes are read");
        return Err(Failure::new(Code::MalformedQuery, why).with("query", shown));
    }
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|why| Failure::new(Code::MalformedQuery, why.body_text()))?;
    for (at, (name, _)) in pairs.iter().enumerate() {
        if !known.iter().any(|param| param.name == name) {
            let names: Vec<&str> = known.iter().map(|param| param.name).collect();
            let shown: String = name.chars().take(128).collect();
            let message = format!("the parameter {shown:?} is not known here");
            return Err(Failure::new(Code::MalformedQuery, message)
                .with("parameter", shown)
                .with("known", names));
        }
        if pairs[..at].iter().any(|(other, _)| other == name) {
            let message = format!("the parameter {name} is there twice");
            return Err(
                Failure::new(Code::MalformedQuery, message).with("parameter", name.as_str())
            );
        }
    }
    Ok(pairs)
}

/// Failure for a query parameter with an invalid value.
pub(crate) fn bad_query(name: &str, value: &str, why: &str) -> Failure {
    let shown: String = value.chars().take(128).collect();
    Failure::new(Code::MalformedQuery, format!("{name}={shown} is not valid: {why}"))
        .with("parameter", name)
}

/// Whether every `%` in a query starts a valid escape, and the decoded bytes are UTF-8. Form decoders
/// would replace invalid parts.
fn is_encoded(query: &str) -> bool {
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return false };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(0));
        rest = after.get(2..).unwrap_or_default();
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// Refuses the content types that an HTML form can send, on every route that changes something, with or without a
/// body; except the type that curl sends for any body (for browsers, `origin` is checked).
pub(crate) fn refuse_form(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let given = only(headers, "Content-Type")?.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if ["text/plain", "multipart/form-data"].iter().any(|form| form.eq_ignore_ascii_case(essence)) {
        let message = format!("the body is {essence:?}, which any page's form can send, not JSON");
        let failure = Failure::new(Code::UnsupportedMediaType, message);
        return Err(failure.with("types", accepted.to_vec()));
    }
    Ok(())
}

/// Refuses compressed bodies: they would be read as if they were not compressed.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = only(headers, "Content-Encoding")? else { return Ok(()) };
    let given = value.to_str().unwrap_or("").trim();
    if given.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let message = format!("the body is encoded as {given:?}: send it as it is");
    Err(Failure::new(Code::UnsupportedMediaType, message).with("header", "Content-Encoding"))
}

/// Refuses content types that the route does not accept.
pub(crate) fn check_content_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let Some(value) = only(headers, "Content-Type")? else { return Ok(()) };
    let given = value.to_str().unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    let known = accepted.iter().chain([&CURL_TYPE]);
    if known.into_iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let message = format!("the body is {essence:?}, not JSON");
    Err(Failure::new(Code::UnsupportedMediaType, message).with("types", accepted.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_of_bytes_and_bytes_are_utf_8() {
        for good in ["", "a=b&c=d", "a=%C3%a9", "a=b+c", "name=50%25", "é=é"] {
            assert!(is_encoded(good), "{good}");
        }
        for bad in ["%ff", "a=%C3", "a=%C3%28", "a=50%", "a=%4", "a=%zz", "a=%+1", "%e2%28%a1"] {
            assert!(!is_encoded(bad), "{bad}");
        }
    }
}
