#!/usr/bin/env bash
# Builds Kubernetes from Debian's source package `kubernetes` (1.20, everything vendored) for the tests that need a real
# one, and prints where kube-apiserver is; kubelet, kube-proxy, kube-scheduler and kube-controller-manager are beside it.
# It takes about six minutes and 2 GB once; the programs (400 MB) are kept in the user's cache, outside the tree, and
# used again. With KUBE_APISERVER set, that API server is printed, and all tests that need only an API server use it:
#   KUBE_APISERVER=/path/to/kube-apiserver cargo nextest run -p romana-chaos --test kubernetes
# Debian has no newer one: the source package kubernetes of trixie (1.32) and sid (1.36) has only what kubectl is made of,
# no cmd/kube-apiserver and no pkg/, and no other package has the program. A newer one comes from a release of Kubernetes.
#   --built     build nothing
#   --programs  print the folder that has all five, whatever KUBE_APISERVER is
# Exit status 3: there is none, and this is not CI.
set -euo pipefail

version=1.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/romana-kubernetes/$version
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
server=${KUBE_APISERVER:-$cache/kube-apiserver} build=yes
for argument in "$@"; do
  case $argument in
    --built) build='' ;;
    --programs) server='' ;;
    *) sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2; exit 2 ;;
  esac
done

# Prints the answer and ends, if what was asked for is there.
answer_if_there() {
  if [ -n "$server" ] && [ -x "$server" ]; then
    # Another one needs no other programs; of ours, all are built at once.
    [ -n "${KUBE_APISERVER:-}" ] || all_there || return 0
    echo "$server"
    exit 0
  fi
  if [ -z "$server" ] && all_there; then
    echo "$cache"
    exit 0
  fi
}

all_there() {
  local program
  for program in "${programs[@]}"; do
    [ -x "$cache/$program" ] || return 1
  done
}

answer_if_there

# Says why there is no API server.
cannot() {
  echo "test-kubernetes: $*" >&2
  [ "${CI:-}" != true ] || exit 1
  exit 3
}

[ -z "$server" ] || [ -z "${KUBE_APISERVER:-}" ] || cannot "KUBE_APISERVER=$KUBE_APISERVER is not a program"
[ -n "$build" ] || cannot "Kubernetes is not built yet: run deploy/test-kubernetes.sh"
mkdir -p "$cache"
# Two runs at once build it once.
exec 9>"$cache/lock"
flock 9
answer_if_there

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
GOPATH=$PWD/.go HOME=$work/home CGO_ENABLED=0 GOPROXY=off make WHAT="${programs[*]/#/cmd/}" >&2

for program in "${programs[@]}"; do
  cp "_output/bin/$program" "$cache/$program.new"
  mv "$cache/$program.new" "$cache/$program"
done
answer_if_there
cannot "the build has left out a program: see $cache"
