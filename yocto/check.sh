#!/usr/bin/env bash
# Checks the Yocto layer: without BitBake always, and with it where checkouts of it are given. It builds nothing.
#
# usage: yocto/check.sh [DIR [MACHINE...]]
#
# DIR has bitbake, openembedded-core and meta-rauc, all of one release; meta-raspberrypi, meta-tegra and meta-yocto are used when they
# are there too. Each machine that these give (or each MACHINE) is parsed, and its image and bundle are run dry; then yocto-check-layer
# runs. As an ordinary user, without network; some ten minutes a machine. README.md lists the programs that BitBake wants.
# SPOTTER_YOCTO_ONLY=check-layer or dry-run does that part alone; SPOTTER_YOCTO_BUILD names a folder to keep.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf 'yocto: %s\n' "$*" >&2
    exit 1
}
say() { printf 'yocto: %s\n' "$*"; }

"$here/check.py"
if [[ $# == 0 ]]; then
    echo "SKIPPED: BitBake did not parse the Yocto layer: yocto/check.sh takes a folder with checkouts of bitbake, openembedded-core and meta-rauc"
    exit
fi

checkouts=$(cd "$1" && pwd) || die "there is no folder $1"
shift
for name in bitbake openembedded-core meta-rauc; do
    [[ -d $checkouts/$name ]] || die "there is no $checkouts/$name; yocto/README.md says which to check out"
done
[[ $(id -u) != 0 ]] || die "BitBake does not run as root; run this as another user"
locale -a | grep -qixE 'en_US\.utf-?8' || die "there is no locale en_US.UTF-8, which BitBake wants; as root: locale-gen en_US.UTF-8"

layers=("$checkouts/openembedded-core/meta" "$checkouts/meta-rauc")
machines=(qemuarm64)
if [[ -d $checkouts/meta-yocto ]]; then
    layers+=("$checkouts/meta-yocto/meta-yocto-bsp")
    machines+=(genericarm64)
fi
if [[ -d $checkouts/meta-raspberrypi ]]; then
    layers+=("$checkouts/meta-raspberrypi")
    machines+=(raspberrypi4-64 raspberrypi5)
else
    echo "SKIPPED: the Raspberry Pi's part of the Yocto layer: there is no $checkouts/meta-raspberrypi"
fi
if [[ -d $checkouts/meta-tegra ]]; then
    layers+=("$checkouts/meta-tegra")
    machines+=(jetson-orin-nano-devkit-nvme)
else
    echo "SKIPPED: Jetson's part of the Yocto layer: there is no $checkouts/meta-tegra"
fi
[[ $# == 0 ]] || machines=("$@")

if [[ -n ${SPOTTER_YOCTO_BUILD:-} ]]; then
    mkdir -p "$SPOTTER_YOCTO_BUILD"
    work=$(cd "$SPOTTER_YOCTO_BUILD" && pwd)
else
    work=$(mktemp --directory)
    trap 'rm -rf "$work"' EXIT
fi

# build NAME DISTRO LAYER...: a build folder, as oe-init-build-env would make one, that needs no network; goes into it.
build() {
    local name=$1 distro=$2
    shift 2
    BUILDDIR=$work/$name
    mkdir -p "$BUILDDIR/conf"
    {
        printf 'POKY_BBLAYERS_CONF_VERSION = "2"\nBBPATH = "${TOPDIR}"\nBBFILES ?= ""\nBBLAYERS = " \\\n'
        printf '    %s \\\n' "$@"
        printf '"\n'
    } >"$BUILDDIR/conf/bblayers.conf"
    cat >"$BUILDDIR/conf/local.conf" <<TEXT
CONF_VERSION = "2"
MACHINE ??= "qemuarm64"
DISTRO ?= "$distro"
BB_NO_NETWORK = "1"
CONNECTIVITY_CHECK_URIS = ""
DL_DIR = "$work/downloads"
SSTATE_DIR = "$work/sstate"
BB_HASHSERVE = ""
BB_SIGNATURE_HANDLER = "OEBasicHash"
# Would be fetched as the first thing.
INHERIT_DISTRO:remove = "uninative"
LICENSE_FLAGS_ACCEPTED = "commercial synaptics-killswitch"
RAUC_KEYRING_FILE = "$work/keyring.pem"
RAUC_KEY_FILE = "$work/key.pem"
RAUC_CERT_FILE = "$work/cert.pem"
TEXT
    export BUILDDIR BBPATH=$BUILDDIR LANG=en_US.UTF-8 LC_ALL=en_US.UTF-8
    export PATH="$checkouts/openembedded-core/scripts:$checkouts/bitbake/bin:$PATH"
    export BB_ENV_PASSTHROUGH_ADDITIONS="MACHINE DISTRO SPOTTER_YOCTO_BUILD"
    cd "$BUILDDIR"
}

failed=()
# part NAME COMMAND...: runs it, keeps what it says, and tells how it ended.
part() {
    local name=$1 log begin=$SECONDS
    shift
    log=$work/${name//[ \/]/-}.log
    say "$name: under way"
    if "$@" >"$log" 2>&1; then
        say "$name: well, after $((SECONDS - begin)) s; $(grep -c '^WARNING' "$log" || true) warnings"
        grep '^WARNING' "$log" | sort -u | head -n 20 || true
    else
        say "$name: FAILED, after $((SECONDS - begin)) s"
        grep -E '^(ERROR|WARNING)|FAIL|Error' "$log" | head -n 60 || tail -n 60 "$log"
        failed+=("$name")
    fi
}

# dry_run: the whole way to the image and the bundle, each task but none of its work.
dry_run() {
    bitbake -p && bitbake -n spotter-image spotter-bundle
}

touch "$work"/{keyring,key,cert}.pem
if [[ ${SPOTTER_YOCTO_ONLY:-dry-run} == dry-run ]]; then
    for machine in "${machines[@]}"; do
        build dry-run spotteros "${layers[@]}" "$here/meta-spotter"
        MACHINE=$machine part "$machine" dry_run
    done
fi
if [[ ${SPOTTER_YOCTO_ONLY:-check-layer} == check-layer ]]; then
    build check-layer nodistro "$checkouts/openembedded-core/meta"
    part "yocto-check-layer" yocto-check-layer "$here/meta-spotter" --dependency "$checkouts/openembedded-core/meta" "$checkouts/meta-rauc"
fi
[[ ${#failed[@]} == 0 ]] || die "failed: ${failed[*]}; the logs are in $work${SPOTTER_YOCTO_BUILD:+ (kept)}"
say "BitBake parses the layer and runs it dry"
