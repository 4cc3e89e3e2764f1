#!/usr/bin/env bash
# Lists what is in the programs: name, version, licence, source of every crate, one a line. Argument: the target.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo tree --locked --target "${1:-x86_64-unknown-linux-gnu}" --edges normal --prefix none --no-dedupe \
  --format '{p}	{l}' -p romana-controlplane -p romana-cli -p romana-agent -p romana-dns |
  sed -E 's/ \(proc-macro\)//; s| \(/[^)]*\)|	local|; s/^([^	]+)	([A-Z0-9(][^	]*)$/\1	registry	\2/' |
  grep . | LC_ALL=C sort -u
