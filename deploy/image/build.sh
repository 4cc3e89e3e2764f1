#!/usr/bin/env bash
# Builds the container image: static programs on an empty root. The same sources give the same digest.
#
#   deploy/image/build.sh [--programs DIR] [--twice] [--archive FILE]
#
#   --programs DIR  take the programs from there instead of compiling them (they must be static, --dynamic allows others
#                   for a trial of this script)
#   --twice         build a second time and compare the digests
#   --archive FILE  write an OCI archive as well: ctr -n k8s.io images import FILE
#
# Needs buildah or podman; to compile: rustup target add x86_64-unknown-linux-musl, and musl-gcc (Debian: musl-tools).
set -euo pipefail
cd "$(dirname "$0")/../.."

target=x86_64-unknown-linux-musl
packages=(-p romana-controlplane -p romana-cli -p romana-agent -p romana-dns)
names=(romanad romana romana-agent romana-cni romana-dns)
programs='' twice='' archive='' dynamic=''
while [ $# -gt 0 ]; do
  case $1 in
    --programs) programs=$2; shift ;;
    --archive) archive=$2; shift ;;
    --twice) twice=yes ;;
    --dynamic) dynamic=yes ;;
    *) sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2; exit 2 ;;
  esac
  shift
done

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
image=localhost/romana:$version
# The time of every file and of the image: that of the last change of the sources.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

if [ -z "$programs" ]; then
  cargo_home=${CARGO_HOME:-$HOME/.cargo}
  # No path of this machine gets into the programs.
  RUSTFLAGS="--remap-path-prefix=$PWD=/romana --remap-path-prefix=$cargo_home=/cargo" CARGO_INCREMENTAL=0 \
    cargo build --profile dist --config 'profile.dist.strip="symbols"' --locked --target $target "${packages[@]}" --bins
  programs=${CARGO_TARGET_DIR:-target}/$target/dist
fi
for name in "${names[@]}"; do
  [ -x "$programs/$name" ] || { echo "image: $programs/$name is missing" >&2; exit 1; }
  # A dynamic program has an interpreter, and the image has none.
  if [ -z "$dynamic" ] && readelf -lW "$programs/$name" | grep -q INTERP; then
    echo "image: $programs/$name is not static" >&2
    exit 1
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/rootfs
mkdir -p "$root"/{opt/romana,etc/alternatives,run,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64,var/lib}
chmod 1777 "$root/tmp"
# With the node's /usr mounted, its iptables and ipset work here: as on nodes, the short paths lead there.
for dir in bin sbin lib lib64; do ln -s usr/$dir "$root/$dir"; done
ln -s /run "$root/var/run"
for name in "${names[@]}"; do install -m 0755 "$programs/$name" "$root/opt/romana/$name"; done
install -m 0644 LICENSE "$root/opt/romana/LICENSE"
# ipset refuses ports of a protocol whose number it cannot find.
install -m 0644 deploy/image/protocols "$root/etc/protocols"
deploy/image/sbom.sh $target >"$root/opt/romana/sbom.txt"
cp deploy/image/Containerfile "$work/Containerfile"

builder=$(command -v buildah || command -v podman) || { echo 'image: install buildah or podman' >&2; exit 1; }
# Builds, and prints the image's digest.
build() {
  "$builder" build --quiet --no-cache --format oci --isolation chroot --timestamp "$SOURCE_DATE_EPOCH" \
    --label "org.opencontainers.image.version=$version" --tag "$image" --file "$work/Containerfile" "$work" >/dev/null
  "$builder" inspect --format "$1" "$image"
}
case $builder in
  *buildah) form='{{.FromImageDigest}}' ;;
  *) form='{{.Digest}}' ;;
esac
digest=$(build "$form")
if [ -n "$twice" ]; then
  again=$(build "$form")
  if [ "$digest" != "$again" ]; then
    echo "image: two builds, two digests: $digest, $again" >&2
    exit 1
  fi
fi
if [ -n "$archive" ]; then
  "$builder" push --quiet "$image" "oci-archive:$archive:$image"
fi
echo "$image $digest"
