#!/usr/bin/env bash
# Builds the image to flash and the signed bundle to update with, for one board; ./setup.sh --image installs what it needs.
#
# Needs root, as it unpacks a system with its owners and runs parts of it, emulated.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: board/build-image.sh BOARD [--version V] [--deb FILE] [--bundle-only] [--without-mentra-app] [--out DIR]

  BOARD          a folder of board/ with a file meta, or one of its other names: generic-arm64, rpi (rpi4, rpi5)
  --version V    the version the image says it is; the package's own, if you leave it out
  --deb FILE     spotter's arm64 package; built by board/cross.sh, if you leave it out
  --bundle-only  makes the update and no image
  --without-mentra-app  leaves the app for MentraOS glasses out, and Node.js with it: 29 MB less
  --out DIR      where the result goes; target/image/BOARD, if you leave it out

Environment: SPOTTER_UPDATE_KEY, SPOTTER_UPDATE_CERT and SPOTTER_UPDATE_KEYRING name the files that sign updates and judge them
(without, development keys are made in board/keys/); SPOTTER_DEBIAN_MIRROR and SPOTTER_DEBIAN_SECURITY_MIRROR another mirror
than this machine's, a snapshot for example; SOURCE_DATE_EPOCH the date of the files, the last commit's if you leave it out;
SPOTTER_RPI_MIRROR and SPOTTER_RPI_KEYRING Raspberry Pi's archive and the file with its keys, for an rpi image with Raspberry Pi's
own kernel (untried; docs/boards.md).
TEXT
}

readonly FROM=$PWD
cd "$(dirname "$0")"
# shellcheck source=image/common.sh
source image/common.sh

board='' VERSION='' DEB='' OUT='' what=image mentra_app=yes
while [[ $# -gt 0 ]]; do
    case $1 in
    --version | --deb | --out)
        [[ -n ${2:-} ]] || die "$1 takes a value"
        case $1 in
        --version) VERSION=$2 ;;
        --deb) DEB=$(cd "$FROM" && realpath "$2") ;;
        --out) OUT=$(cd "$FROM" && realpath --canonicalize-missing "$2") ;;
        esac
        shift
        ;;
    --bundle-only) what=bundle ;;
    --without-mentra-app) mentra_app=no ;;
    -h | --help)
        usage
        exit
        ;;
    -*)
        usage >&2
        die "unknown flag $1"
        ;;
    *) board=$1 ;;
    esac
    shift
done
[[ -n $board ]] || {
    usage >&2
    exit 2
}

read_board "$board"
[[ $mentra_app == no ]] || PACKAGES+=" $(listed image/mentra-app-packages.txt | paste -sd' ')"
[[ $(id -u) == 0 ]] || die "run it as root: it unpacks a system with its owners"
tools=(mmdebstrap genimage mksquashfs mcopy mkfs.vfat rauc)
[[ $mentra_app == no ]] || tools+=(node npm)
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || die "no $tool; run ./setup.sh --image"
done
[[ $(uname -m) == aarch64 || -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || die "this machine does not run arm64 programs; run ./setup.sh --image"

# shellcheck disable=SC2034 # read in image/system.sh
CACHE=${SPOTTER_IMAGE_CACHE:-$(realpath ..)/target/image/cache}
OUT=${OUT:-$(realpath ..)/target/image/$BOARD}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}

# All that is mounted on the way is gone with this namespace, however the build ends.
if [[ ${SPOTTER_IMAGE_NAMESPACE:-} != own ]]; then
    arguments=("$board" --out "$OUT")
    [[ -z $VERSION ]] || arguments+=(--version "$VERSION")
    [[ -z $DEB ]] || arguments+=(--deb "$DEB")
    [[ $what == image ]] || arguments+=(--bundle-only)
    [[ $mentra_app == yes ]] || arguments+=(--without-mentra-app)
    SPOTTER_IMAGE_NAMESPACE=own exec unshare --mount --propagation private "$PWD/build-image.sh" "${arguments[@]}"
fi

# shellcheck source=image/system.sh
source image/system.sh
# shellcheck source=image/disk.sh
source image/disk.sh
# What a board does differently: board_packages, board_system, board_boot_files and board_card_files.
# shellcheck source=generic-arm64/hooks.sh
source "$BOARD/hooks.sh"

if [[ -z $DEB ]]; then
    say "building spotter's package with board/cross.sh"
    DEB=$(./cross.sh | tee /dev/stderr | tail -n 1)
    DEB=${DEB#cross: }
fi
[[ -e $DEB ]] || die "$DEB is not there"
VERSION=${VERSION:-$(dpkg-deb --field "$DEB" Version)}

rm -rf "${OUT:?}/boot" "$OUT/work"
mkdir -p "$OUT/boot" "$OUT/work"
ROOT=$(mktemp --directory "$OUT/root.XXXXXX")
# --one-file-system: should anything still be mounted there, it stays.
trap 'leave_system 2>/dev/null || true; rm -rf --one-file-system "$ROOT"' EXIT
chmod 755 "$ROOT"

update_keys
unpack_system
install_spotter
[[ $mentra_app == no ]] || install_mentra_app
finish_system
make_slots
say "signing the update"
BUNDLE=$OUT/spotter-$BOARD-$VERSION.raucb
make_bundle "$BUNDLE" "$VERSION" "$OUT/work/root.img" "$OUT/work/boot.img"
[[ $what == bundle ]] || make_disk
report
