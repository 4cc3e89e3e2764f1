#!/usr/bin/env bash
# Plants bugs in a copy of the tree, one after the other, and lets the judge look for each with the same command:
# it does not know which. Prints what was found, by which law, and after how long; fails if one was missed.
#
#   chaos/mutants/run.sh [NAME …]     all, or some of chaos/mutants/NAME.patch
#   SECONDS_MAX=150                   how long the judge may look for one
set -uo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
limit=${SECONDS_MAX:-150}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | tar --null -T - -c | tar -x -C "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/mutants
cd "$copy" || exit 1

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for patch in "$root"/chaos/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
missed=0
for name in "${names[@]}"; do
  patch=$root/chaos/mutants/$name.patch
  git apply "$patch" || exit 1
  cargo build --quiet --locked --workspace --bins || exit 1
  started=$SECONDS
  said=$("$CARGO_TARGET_DIR/debug/chaos" soak --seed 1 --round 10 --seconds "$limit" 2>/dev/null)
  code=$?
  took=$((SECONDS - started))
  if [ $code = 0 ]; then
    missed=$((missed + 1))
    printf '%-28s MISSED after %s s\n' "$name" "$took"
  else
    how=$(grep -m 1 '^BROKEN' <<<"$said" | cut -c 1-110)
    printf '%-28s found after %3s s  %s\n' "$name" "$took" "${how:-a round could not be carried out}"
  fi
  git apply -R "$patch" || exit 1
done
echo "$((${#names[@]} - missed)) found, $missed missed"
[ "$missed" = 0 ]
