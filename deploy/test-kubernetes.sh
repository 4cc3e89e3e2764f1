#!/usr/bin/env bash
# Builds kube-apiserver from Debian's source package `kubernetes` (1.20, everything vendored) for the tests that follow
# a real API server, and prints where it is. It takes about four minutes and 2 GB once; the program (110 MB) is kept
# in the user's cache, outside the tree, and used again. With KUBE_APISERVER set, that program is used.
# With the argument --built, nothing is built. Exit status 3: there is none, and this is not CI.
set -euo pipefail

version=1.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/romana-kubernetes/$version
program=${KUBE_APISERVER:-$cache/kube-apiserver}
if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi

# Says why there is no API server.
cannot() {
  echo "test-kubernetes: $*" >&2
  [ "${CI:-}" != true ] || exit 1
  exit 3
}

[ -z "${KUBE_APISERVER:-}" ] || cannot "KUBE_APISERVER=$KUBE_APISERVER is not a program"
[ "${1:-}" != --built ] || cannot "there is no kube-apiserver yet: run deploy/test-kubernetes.sh"
mkdir -p "$cache"
# Two runs at once build it once.
exec 9>"$cache/lock"
flock 9
if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi

needed=(golang-go jq rsync make gcc dpkg-dev golang-github-modern-go-reflect2-dev)
missing=()
for package in "${needed[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || cannot "install ${missing[*]}"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >&2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The machine's own package sources, as source packages, with lists of their own.
mkdir -p "$work/sources" "$work/lists/partial"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
  [ -f "$file" ] || continue
  sed -E 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$file" >"$work/sources/$(basename "$file" .list).${file##*.}"
done
apt=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists")
cd "$work"
apt-get update -qq "${apt[@]}" >&2 || cannot "apt has no source packages"
apt-get source -qq --download-only "${apt[@]}" kubernetes >&2 || cannot "apt has no source package kubernetes"
dpkg-source --no-check -x kubernetes_*.dsc source >/dev/null
cd source
[ -f cmd/kube-apiserver/apiserver.go ] || cannot "this release's package kubernetes has no API server in it"

# The vendored reflect2 1.0.1 crashes with Go 1.18 and later.
reflect2=vendor/github.com/modern-go/reflect2
rm -f $reflect2/*.go $reflect2/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} $reflect2/
rm -f $reflect2/*_test.go
mkdir -p .go/src/k8s.io "$work/home"
ln -s ../../.. .go/src/k8s.io/kubernetes
GOPATH=$PWD/.go HOME=$work/home CGO_ENABLED=0 GOPROXY=off make WHAT=cmd/kube-apiserver >&2

cp _output/bin/kube-apiserver "$program.new"
mv "$program.new" "$program"
echo "$program"
