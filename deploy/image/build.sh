#!/usr/bin/env bash
# Builds the container image: static programs on an empty root. The same sources give the same digest.
#
#   deploy/image/build.sh [--programs DIR] [--setup] [--twice] [--archive FILE]
#
#   --programs DIR  take the programs from there instead of compiling them (they must be static, --dynamic allows others
#                   for a trial of this script)
#   --setup         install what is missing: the target with rustup, packages with apt (as root)
#   --twice         compile and build a second time, and compare the programs and the digests
#   --archive FILE  write an OCI archive as well: ctr -n k8s.io images import FILE
#
# Needs buildah or podman, and readelf (Debian: binutils); to compile: rustup target add x86_64-unknown-linux-musl, and
# musl-gcc (Debian: musl-tools).
set -euo pipefail
cd "$(dirname "$0")/../.."
# Modes of directories are part of the digest.
umask 022

target=$(uname -m)-unknown-linux-musl
packages=(-p romana-controlplane -p romana-cli -p romana-agent -p romana-dns)
names=(romanad romana romana-agent romana-cni romana-dns)
programs='' twice='' archive='' dynamic='' setup=''
while [ $# -gt 0 ]; do
  case $1 in
    --programs | --archive)
      [ $# -ge 2 ] || { echo "image: $1 needs a path" >&2; exit 2; }
      [ "$1" = --archive ] && archive=$2 || programs=$2
      shift
      ;;
    --setup) setup=yes ;;
    --twice) twice=yes ;;
    --dynamic) dynamic=yes ;;
    *) sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2; exit 2 ;;
  esac
  shift
done

# Before minutes of compiling: prints what is missing, each with its remedy.
missing() {
  command -v buildah >/dev/null || command -v podman >/dev/null || echo 'buildah or podman: apt-get install buildah'
  command -v readelf >/dev/null || echo 'readelf: apt-get install binutils'
  [ -z "$programs" ] || return 0
  command -v musl-gcc >/dev/null || echo 'musl-gcc, for the C and assembly in ring, blake3 and psm: apt-get install musl-tools'
  [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
    echo "the standard library for $target: rustup target add $target (it comes from where rustup gets toolchains, and" \
      "without a way there, from a machine that has it: lib/rustlib/$target of the same release of Rust)"
}
install_missing() {
  local wanted=()
  if [ -z "$programs" ] && ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    rustup target add "$target" || true
  fi
  command -v buildah >/dev/null || command -v podman >/dev/null || wanted+=(buildah)
  command -v readelf >/dev/null || wanted+=(binutils)
  [ -n "$programs" ] || command -v musl-gcc >/dev/null || wanted+=(musl-tools)
  if [ ${#wanted[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${wanted[@]}" || true
  fi
}
[ -z "$setup" ] || install_missing >&2
lacks=$(missing)
if [ -n "$lacks" ]; then
  printf 'image: cannot be built here, this is missing:\n%s\n' "$lacks" | sed '2,$s/^/  /' >&2
  echo 'image: as root on Debian, with --setup, it is installed' >&2
  exit 1
fi

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
image=localhost/romana:$version
# The time of every file and of the image: that of the last change of the sources.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# Compiles all programs. Argument: where to.
compile() {
  local cargo_home=${CARGO_HOME:-$HOME/.cargo} remap from to
  # RUSTFLAGS takes the place of .cargo/config.toml.
  local rust='--cfg tokio_unstable' c=''
  # No path of this machine gets into the programs; of several that fit, the last one counts.
  for remap in "$PWD=/romana" "$cargo_home=/cargo" "$(rustc --print sysroot)=/rust" "$1=/target"; do
    from=${remap%=*} to=${remap##*=}
    rust+=" --remap-path-prefix=$from=$to"
    c+=" -ffile-prefix-map=$from=$to"
  done
  RUSTFLAGS=$rust CFLAGS=$c CARGO_INCREMENTAL=0 \
    cargo build --profile dist --config 'profile.dist.strip="symbols"' --locked --target "$target" --target-dir "$1" \
    "${packages[@]}" --bins
}

if [ -z "$programs" ]; then
  mkdir -p "${CARGO_TARGET_DIR:-target}"
  built=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
  compile "$built"
  programs=$built/$target/dist
  if [ -n "$twice" ]; then
    compile "$built/image-again"
    for name in "${names[@]}"; do
      cmp "$programs/$name" "$built/image-again/$target/dist/$name" ||
        { echo "image: compiled twice, $name differs" >&2; exit 1; }
    done
    rm -rf "$built/image-again"
  fi
fi
for name in "${names[@]}"; do
  [ -x "$programs/$name" ] || { echo "image: $programs/$name is missing" >&2; exit 1; }
  # A dynamic program has an interpreter, and the image has none.
  headers=$(readelf -lW "$programs/$name") || { echo "image: $programs/$name is no program" >&2; exit 1; }
  if [ -z "$dynamic" ] && [[ $headers == *INTERP* ]]; then
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
deploy/image/sbom.sh "$target" >"$root/opt/romana/sbom.txt"
deploy/image/sbom.sh --spdx "$target" >"$root/opt/romana/sbom.spdx"
cp deploy/image/Containerfile "$work/Containerfile"

builder=$(command -v buildah || command -v podman)
case $builder in
  *buildah) form='{{.FromImageDigest}}' ;;
  *) form='{{.Digest}}' ;;
esac
# Builds, and prints the image's digest.
build() {
  "$builder" build --quiet --no-cache --format oci --isolation chroot --timestamp "$SOURCE_DATE_EPOCH" \
    --label "org.opencontainers.image.version=$version" --tag "$image" --file "$work/Containerfile" "$work" >/dev/null || return 1
  "$builder" inspect --type image --format "$form" "$image"
}
digest=$(build)
if [ -n "$twice" ]; then
  again=$(build)
  if [ "$digest" != "$again" ]; then
    echo "image: two builds, two digests: $digest, $again" >&2
    exit 1
  fi
fi
if [ -n "$archive" ]; then
  mkdir -p "$(dirname "$archive")"
  "$builder" push --quiet "$image" "oci-archive:$archive:$image"
fi
echo "$image $digest"
