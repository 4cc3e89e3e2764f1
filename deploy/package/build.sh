#!/usr/bin/env bash
# Builds romana_VERSION_ARCH.deb and romana-VERSION-ARCH.tar.gz for machines without Kubernetes: programs, systemd units,
# annotated configuration. The same programs give the same files.
#
#   deploy/package/build.sh PROGRAMS OUT
#
# PROGRAMS: a directory with romanad, romana, romana-dns, romana-agent and romana-cni, such as target/dist after `make dist`
# (they then need the C library of the machine that built them), or the static ones of deploy/image/build.sh.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2; exit 2; }
programs=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
mkdir -p "$root"/{usr/bin,usr/share/doc/romana/topologies}
for name in romanad romana romana-dns romana-agent; do install -m 0755 "$programs/$name" "$root/usr/bin/$name"; done
# `romana-agent install` takes the plugin from beside itself, and puts it where the container runtime looks.
install -m 0755 "$programs/romana-cni" "$root/usr/bin/romana-cni"
install -Dm 0644 -t "$root/usr/lib/systemd/system" deploy/systemd/*.service
install -Dm 0644 deploy/systemd/romana.sysusers "$root/usr/lib/sysusers.d/romana.conf"
# A unit starts when its file in /etc/romana exists: an operator copies it from here and fills it in.
install -Dm 0644 -t "$root/usr/share/doc/romana/examples" deploy/config/romanad.toml deploy/config/agent.toml \
  deploy/config/dns.toml
install -m 0644 deploy/topologies/*.json "$root/usr/share/doc/romana/topologies/"
install -m 0644 deploy/README.md "$root/usr/share/doc/romana/README.md"
install -m 0644 LICENSE "$root/usr/share/doc/romana/copyright"
find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

tarball=$out/romana-$version-$arch.tar.gz
tar --create --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime "@$SOURCE_DATE_EPOCH" \
  --transform "s,^\.,romana-$version," . | gzip --no-name --best >"$tarball"

# Programs that are not static need the C library that they were linked with, or a newer one.
depends=systemd
if readelf -lW "$programs/romanad" | grep -q INTERP; then
  depends="libc6 (>= $(dpkg-query -W -f '${Version}' libc6 | sed 's/-.*//')), systemd"
fi
mkdir "$root/DEBIAN"
sed -e "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@DEPENDS@/$depends/" \
  -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" deploy/package/control >"$root/DEBIAN/control"
install -m 0755 deploy/package/postinst deploy/package/prerm deploy/package/postrm "$root/DEBIAN/"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
deb=$out/romana_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$deb" >/dev/null
printf '%s\n' "$tarball" "$deb"
