#!/usr/bin/env bash
# Builds the arm64 release binary and Debian package on x86-64 Debian and says where they lie; ./setup.sh --cross installs what
# it needs.
#
# The compiler is rustup's, where it has the arm64 target, else Debian's (rustc-web, which follows upstream closely).
# The libraries are Debian's for arm64, so the binary needs no newer glibc and GStreamer than this Debian has.
# Further arguments go to cargo, and then no package is made: board/cross.sh --no-default-features
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TARGET=aarch64-unknown-linux-gnu
readonly LIB=/usr/lib/aarch64-linux-gnu
readonly SYSROOT=$PWD/runtime/sysroot/aarch64

die() {
    printf 'cross: %s\n' "$*" >&2
    exit 1
}

command -v aarch64-linux-gnu-gcc >/dev/null && [[ -e $SYSROOT/version ]] ||
    die "the arm64 toolchain is not complete; run ./setup.sh --cross"

cargo=cargo
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$TARGET/lib ]]; then
    [[ -x /usr/bin/rustc && -d /usr/lib/rustlib/$TARGET/lib ]] ||
        die "no Rust compiler here has the target $TARGET; run ./setup.sh --cross, or: rustup target add $TARGET"
    export RUSTC=/usr/bin/rustc
    cargo=/usr/bin/cargo
fi

export PKG_CONFIG_ALLOW_CROSS=1
export PKG_CONFIG_LIBDIR=$SYSROOT/pkgconfig:$LIB/pkgconfig:/usr/share/pkgconfig
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-Lnative=$SYSROOT/lib"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++

"$cargo" build --release --target "$TARGET" "$@"

out=$("$cargo" metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/$TARGET/release/spotter
echo "cross: $out"
[[ $# != 0 ]] || exec board/package.sh "$TARGET"
