#!/usr/bin/env bash
# Installs what the tests need and the machine lacks. On a machine without apt or without root it says
# what is missing; under CI=true that is a failure.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v etcd >/dev/null || missing+=(etcd-server)
command -v nft >/dev/null || missing+=(nftables) # partitions of chaos run
command -v ip >/dev/null || missing+=(iproute2) # namespaces of the agent's tests
command -v iptables >/dev/null || missing+=(iptables)
command -v ipset >/dev/null || missing+=(ipset) # policy
command -v conntrack >/dev/null || missing+=(conntrack)
command -v podman >/dev/null || missing+=(podman) # a real runtime for the CNI plugin
command -v runc >/dev/null || missing+=(runc)
command -v containerd >/dev/null || missing+=(containerd) # nodes of a real Kubernetes
[ -x /usr/lib/cni/loopback ] || missing+=(containernetworking-plugins)
command -v setpriv >/dev/null || missing+=(util-linux) # and their namespaces
command -v sysctl >/dev/null || missing+=(procps)
[ -x /bin/busybox ] || missing+=(busybox-static)
command -v ping >/dev/null || missing+=(iputils-ping)
command -v kubectl >/dev/null || missing+=(kubernetes-client) # renders and applies deploy/kubernetes; Debian 12's is too old for it
command -v promtool >/dev/null || missing+=(prometheus) # checks deploy/monitoring
command -v dig >/dev/null || missing+=(bind9-dnsutils) # questions to romana-dns
command -v openssl >/dev/null || missing+=(openssl) # a key for kube-apiserver

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
  else
    echo "test-setup: missing ${missing[*]}: install them (the tests that need one say so)" >&2
    [ "${CI:-}" != true ] || exit 1
  fi
fi

# Debian 12's kubectl is too old to render deploy/kubernetes: takes the program out of the next release's package.
newer_kubectl() {
  local work apt
  work=$(mktemp -d)
  mkdir -p "$work/sources" "$work/lists/partial" "$work/cache"
  # The machine's own package sources, with lists of their own: nothing else of that release is installed.
  awk -v RS= 'NR == 1' /etc/apt/sources.list.d/debian.sources |
    sed -E 's/^Suites:.*/Suites: trixie/' >"$work/sources/next.sources"
  apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists"
    -o Dir::State::status=/dev/null -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  (cd "$work" && apt-get "${apt[@]}" update && apt-get "${apt[@]}" download kubectl && dpkg -x kubectl_*.deb x) >&2
  install -m 755 "$work/x/usr/bin/kubectl" /usr/local/bin/kubectl
  rm -rf "$work"
}

renders() { kubectl version --client -o json 2>/dev/null | grep -q kustomizeVersion || command -v kustomize >/dev/null; }
if ! renders && [ "$(id -u)" = 0 ] && [ -f /etc/apt/sources.list.d/debian.sources ]; then
  newer_kubectl || true
fi
if ! renders; then
  echo 'test-setup: this kubectl cannot render deploy/kubernetes: install kubectl 1.22 or later, or kustomize 4.2' >&2
fi

if ! cargo nextest --version >/dev/null 2>&1; then
  cargo install --locked cargo-nextest
fi
