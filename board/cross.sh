#!/usr/bin/env bash
# Builds the release binary and Debian package for an ARM board on x86-64 Debian and says where they lie; ./setup.sh --cross
# installs what arm64 needs, ./setup.sh --armv7 what 32-bit ARM does.
#
# usage: board/cross.sh [arm64|armv7] [CARGO ARGUMENTS]      arm64 if left out
#
# The compiler is rustup's, where it has the target, else Debian's (rustc-web, which follows upstream closely).
# The libraries are Debian's for the target, so the binary needs no newer glibc and GStreamer than that Debian has.
# With arguments for cargo no package is made: board/cross.sh arm64 --no-default-features
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'cross: %s\n' "$*" >&2
    exit 1
}

board=arm64
case ${1:-} in
arm64 | armv7) board=$1 && shift ;;
esac

# The folder of Rust's standard library; empty for the compiler's own.
rust_sysroot=''
if [[ $board == arm64 ]]; then
    target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu setup='./setup.sh --cross'
    sysroot=$PWD/runtime/sysroot/aarch64
    pkgconfig=$sysroot/pkgconfig:/usr/lib/$gnu/pkgconfig:/usr/share/pkgconfig
    flags="-Lnative=$sysroot/lib"
else
    target=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf setup='./setup.sh --armv7'
    sysroot=$PWD/runtime/sysroot/armv7
    pkgconfig=$sysroot/usr/lib/$gnu/pkgconfig:$sysroot/usr/share/pkgconfig
    # The detector's library needs NEON anyway.
    flags="-Clink-arg=--sysroot=$sysroot -Ctarget-feature=+neon"
    rust_sysroot=$sysroot/usr
fi

command -v $gnu-gcc >/dev/null && [[ -e $sysroot/version ]] || die "the toolchain for $board is not complete; run $setup"

cargo=cargo
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]]; then
    [[ -x /usr/bin/rustc && -d ${rust_sysroot:-/usr}/lib/rustlib/$target/lib ]] ||
        die "no Rust compiler here has the target $target; run $setup, or: rustup target add $target"
    export RUSTC=/usr/bin/rustc
    cargo=/usr/bin/cargo
    flags+=${rust_sysroot:+ --sysroot=$rust_sysroot}
fi

# As cargo and the build scripts spell the target in names of variables.
name=${target//-/_}
export "CARGO_TARGET_${name^^}_LINKER=$gnu-gcc" "CARGO_TARGET_${name^^}_RUSTFLAGS=$flags"
export "CC_$name=$gnu-gcc" "CXX_$name=$gnu-g++"
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=$pkgconfig
if [[ $board == armv7 ]]; then
    export PKG_CONFIG_SYSROOT_DIR=$sysroot "CFLAGS_$name=--sysroot=$sysroot" "BINDGEN_EXTRA_CLANG_ARGS_$name=--sysroot=$sysroot"
fi

"$cargo" build --release --target "$target" "$@"

out=$("$cargo" metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/$target/release/spotter
echo "cross: $out"
[[ $# != 0 ]] || exec board/package.sh "$target"
