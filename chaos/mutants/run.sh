#!/usr/bin/env bash
# Plants bugs in a copy of the tree, one after the other, and lets the judges look for each: stories (log and history
# alone), the simulation (many seeds), the tests of the library (what a client makes of lost answers needs more luck
# than a soak of minutes has) and the soak (real processes). They do not know which it is. Prints what was
# found, by which law, and after how long; fails if one was missed by all.
#
#   chaos/mutants/run.sh [NAME …]     all, or some of chaos/mutants/NAME.patch
#   SEEDS=80 SECONDS_MAX=150          how long the judges may look for one
#   FIRST=1                           a judge does not look for what one before it found
set -uo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | tar --null -T - -c | tar -x -C "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/mutants
cd "$copy" || exit 1

# Runs a judge; prints what it found. Returns 0 when it found something.
judge() {
  local who=$1 started=$SECONDS said how
  shift
  said=$("$@" 2>/dev/null) && { printf '  %-10s nothing in %s s\n' "$who" $((SECONDS - started)); return 1; }
  how=$(grep -m 1 -o 'BROKEN.*' <<<"$said" | cut -c 1-110)
  printf '  %-10s after %3s s  %s\n' "$who" $((SECONDS - started)) "${how:-it failed without naming a law}"
}

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for patch in "$root"/chaos/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
missed=0
for name in "${names[@]}"; do
  patch=$root/chaos/mutants/$name.patch
  git apply "$patch" || exit 1
  echo "$name"
  found=
  make --silent sim-build || exit 1
  judge stories "$CARGO_TARGET_DIR/debug/chaos-raft" stories --count 5000 && found=1
  if [ -z "$found" ] || [ -z "${FIRST:-}" ]; then
    judge simulation "$CARGO_TARGET_DIR/debug/chaos-raft" sweep --count "${SEEDS:-80}" --first && found=1
  fi
  if [ -z "$found" ] || [ -z "${FIRST:-}" ]; then
    judge library cargo nextest run --locked -p romana-client --test library && found=1
  fi
  if [ -z "$found" ] || [ -z "${FIRST:-}" ]; then
    cargo build --quiet --locked --workspace --bins || exit 1
    judge soak "$CARGO_TARGET_DIR/debug/chaos" soak --seed 1 --round 10 --seconds "${SECONDS_MAX:-150}" && found=1
  fi
  [ -n "$found" ] || { missed=$((missed + 1)); echo "  MISSED"; }
  git apply -R "$patch" || exit 1
done
echo "$((${#names[@]} - missed)) found, $missed missed"
[ "$missed" = 0 ]
