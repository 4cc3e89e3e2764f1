#!/usr/bin/env bash
# Builds romanad and romana-agent of an earlier release, for the tests of a rolling upgrade, and prints where
# romanad is; romana-agent is beside it. The commit
# in deploy/previous is the last release that speaks an older version of the log: set it when VERSION_MAX is
# raised, not before. A build is kept in the target directory and used again.
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(cat deploy/previous)
target=${CARGO_TARGET_DIR:-$PWD/target}
program=$target/previous/romanad-${commit:0:12}
agent=$target/previous/romana-agent-${commit:0:12}
if [ ! -x "$program" ] || [ ! -x "$agent" ]; then
  if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    echo "previous: commit $commit is not in this clone (a copy without history?): not built" >&2
    exit 3
  fi
  source=$(mktemp -d)
  trap 'rm -rf "$source"' EXIT
  git archive "$commit" | tar -x -C "$source"
  # Dependencies of the same versions are shared with the build of this tree; the programs are put apart.
  cargo build --quiet --locked --manifest-path "$source/Cargo.toml" --workspace --bin romanad --bin romana-agent \
    --target-dir "$target/previous" --config "build.build-dir='$target'" >&2
  cp "$target/previous/debug/romanad" "$program"
  cp "$target/previous/debug/romana-agent" "$agent"
fi
echo "$program"
