#!/usr/bin/env bash
# Tries an image of board/build-image.sh as a whole: started in an emulated board, streamed to, updated, cut off from power.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: board/test-image.sh BOARD [--image FILE] [--keep]

  BOARD         generic-arm64: everything, in QEMU. rpi (rpi4, rpi5): partitions and files, and its kernel in QEMU's raspi4b
  --image FILE  the image to try; the newest in target/image/BOARD, if you leave it out
  --keep        leaves the virtual machine's disk and console in target/image/test
TEXT
}

readonly FROM=$PWD
cd "$(dirname "$0")"
# shellcheck source=image/common.sh
source image/common.sh

board='' image='' keep=''
while [[ $# -gt 0 ]]; do
    case $1 in
    --image)
        image=$(cd "$FROM" && realpath "${2:?--image takes a file}")
        shift
        ;;
    --keep) keep=yes ;;
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
# shellcheck source=image/disk.sh
source image/disk.sh
# shellcheck source=image/vm.sh
source image/vm.sh

OUT=$(realpath --canonicalize-missing ../target/image)/$BOARD
if [[ -z $image ]]; then
    image=$(find "$OUT" -maxdepth 1 -name "spotter-$BOARD-*.img" -printf '%T@ %p\n' 2>/dev/null | sort -rn | sed -n '1s/^[^ ]* //p')
    [[ -n $image ]] || die "no image in $OUT; run board/build-image.sh $BOARD"
fi
WORK=$(realpath --canonicalize-missing ../target/image/test)/$BOARD
rm -rf "$WORK"
mkdir -p "$WORK"
# shellcheck disable=SC2034 # read in image/vm.sh
DISK=$WORK/disk.img

passed=0 failed=0 publisher=''
cleanup() {
    cut_power
    [[ -z $publisher ]] || kill "$publisher" 2>/dev/null || true
    [[ -n $keep || $failed != 0 ]] || rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# ok WHAT: one thing that was seen to be so.
ok() {
    passed=$((passed + 1))
    say "ok: $*"
}
# fail WHAT: what follows depends on it, so the test ends here.
fail() {
    failed=$((failed + 1))
    say "FAILED: $*"
    [[ -z $SERIAL ]] || tail -n 25 "$SERIAL" | sed 's/^/image: console: /' >&2
    say "the disk and the console are in $WORK"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    exit 1
}
skip() { printf 'SKIPPED: %s\n' "$*"; }
# check WHAT COMMAND...
check() {
    local what=$1
    shift
    "$@" || fail "$what"
    ok "$what"
}

# shellcheck source=generic-arm64/test.sh
source "$BOARD/test.sh"
run_test
printf '%d passed, %d failed\n' "$passed" "$failed"
