//! `romana-cni`, the CNI plugin.

fn main() {}
