//! The sysctls that forwarding needs (Romana 2.0: agent flag `-provision-sysctls`). They belong to the host:
//! the agent sets them only if configured, and never resets them.

use std::path::Path;

/// Must be 1.
const NEEDED: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
const ROOT: &str = "/proc/sys";

/// Sets the sysctls, or only checks them, and logs what is wrong.
pub fn prepare(set: bool) {
    let problems = provide(set).into_iter();
    problems.for_each(|problem| tracing::warn!(problem, "forwarding is not enabled on this host"));
}

/// Sets the sysctls, or only checks them. Returns what is wrong, as messages.
#[must_use]
pub fn provide(set: bool) -> Vec<String> {
    NEEDED.iter().filter_map(|name| provide_one(name, set)).collect()
}

/// Why packets of a family are not forwarded, if so.
#[must_use]
pub fn not_forwarding(v4: bool) -> Option<String> {
    let [four, six] = NEEDED;
    provide_one(if v4 { four } else { six }, false)
}

fn provide_one(name: &str, set: bool) -> Option<String> {
    let path = Path::new(ROOT).join(name);
    let shown = name.replace('/', ".");
    match std::fs::read_to_string(&path) {
        Ok(value) if value.trim() == "1" => None,
        // Without IPv6 there is nothing to forward.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{shown} cannot be read: {error}")),
        Ok(_) if set => {
            let written = std::fs::write(&path, "1");
            written.err().map(|error| format!("{shown} cannot be set to 1: {error}"))
        }
        Ok(value) => {
            let value = value.trim();
            Some(format!("{shown} is {value}: set it to 1, or start the agent with --set-sysctls"))
        }
    }
}
