#!/usr/bin/env bash
# Lists what is in the programs, every crate.
#
#   deploy/image/sbom.sh [--spdx] [TARGET]
#
# Without --spdx for people: name and version, source, licence, one crate a line. With it an SPDX 2.3 document (tag-value),
# with the checksums of Cargo.lock: the time in it is SOURCE_DATE_EPOCH, or that of the last commit.
set -euo pipefail
cd "$(dirname "$0")/../.."
form=lines
if [ "${1:-}" = --spdx ]; then form=spdx; shift; fi

lines() {
  cargo tree --locked --target "${1:-x86_64-unknown-linux-gnu}" --edges normal --prefix none --no-dedupe \
    --format '{p}	{l}' -p romana-controlplane -p romana-cli -p romana-agent -p romana-dns |
    sed -E 's/ \(proc-macro\)//; s| \(/[^)]*\)|	local|; s/^([^	]+)	([A-Z0-9(][^	]*)$/\1	registry	\2/' |
    grep . | LC_ALL=C sort -u
}

# Of each package in Cargo.lock: name, version, checksum.
checksums() {
  awk -F'"' '
    /^\[\[package\]\]/ { name = version = "" }
    /^name = / { name = $2 }
    /^version = / { version = $2 }
    /^checksum = / { print name "\t" version "\t" $2 }
  ' Cargo.lock
}

spdx() {
  local list version created
  list=$(lines "$@")
  version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
  created=$(date --utc --date "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" +%Y-%m-%dT%H:%M:%SZ)
  cat <<DOCUMENT
SPDXVersion: SPDX-2.3
DataLicense: CC0-1.0
SPDXID: SPDXRef-DOCUMENT
DocumentName: romana-$version
DocumentNamespace: https://spdx.org/spdxdocs/romana-$version-$(sha256sum <<<"$list" | cut -c1-32)
Creator: Tool: romana-sbom
Created: $created
DOCUMENT
  awk -F'\t' '
    NR == FNR { sum[$1 " v" $2] = $3; next }
    {
      split($1, word, " ")
      name = word[1]; version = substr(word[2], 2)
      id = "SPDXRef-" name "-" version
      gsub(/[^A-Za-z0-9.-]/, "-", id)
      # As licences were written before they were expressions.
      licence = $3; gsub(/ *\/ */, " OR ", licence)
      print "\nPackageName: " name "\nSPDXID: " id "\nPackageVersion: " version
      print "PackageDownloadLocation: NOASSERTION\nFilesAnalyzed: false"
      if (($1) in sum) print "PackageChecksum: SHA256: " sum[$1]
      print "PackageLicenseConcluded: NOASSERTION\nPackageLicenseDeclared: " licence
      print "PackageCopyrightText: NOASSERTION"
      purl = name "@" version; gsub(/\+/, "%2B", purl)
      if ($2 == "registry") print "ExternalRef: PACKAGE-MANAGER purl pkg:cargo/" purl
      print "Relationship: SPDXRef-DOCUMENT DESCRIBES " id
    }
  ' <(checksums) - <<<"$list"
}

"$form" "$@"
