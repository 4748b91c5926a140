#!/usr/bin/env bash
# Makes the Debian package of a release binary that is there already; builds no program.
#
# usage: board/package.sh [TARGET]      Rust's name of the target; this machine's own if left out
#
# The package is for Debian 12 and 13, Raspberry Pi OS and JetPack 6: what the binary asks of their libraries is checked
# first. ./setup.sh --cross installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'package: %s\n' "$*" >&2
    exit 1
}

host=$(rustc -vV | sed -n 's/^host: //p')
target=${1:-$host}
case $target in
aarch64-unknown-linux-gnu) arch=arm64 cpu=aarch64 ;;
x86_64-unknown-linux-gnu) arch=amd64 cpu=x86_64 ;;
*) die "there are packages for aarch64-unknown-linux-gnu and x86_64-unknown-linux-gnu, not for $target" ;;
esac

[[ -x runtime/bin/cargo-deb ]] || die "no cargo-deb; run ./setup.sh --cross"
library=runtime/lib/$cpu/libtensorflowlite_c.so
[[ -e $library ]] || die "no $library; run ./setup.sh --arch $cpu"

build=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
# Without --target, cargo builds for this machine beside the folders of the targets.
binary=$build/$target/release/spotter
args=(--target "$target")
if [[ $target == "$host" && ! -e $binary ]]; then
    binary=$build/release/spotter
    args=()
fi
[[ -e $binary ]] || die "no $binary; build it first: board/cross.sh, or cargo build --release"

board/check-symbols.py "$arch" "$binary" "$library"

mkdir -p runtime/package
board/package/licences.py "$target" >runtime/package/THIRD-PARTY.txt
DEB_HOST_ARCH=$arch runtime/bin/cargo-deb --quiet --no-build --no-strip "${args[@]}" --variant "$arch" --output "$build/debian/"
