//! `romana-agent`.

fn main() {}
