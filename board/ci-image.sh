#!/usr/bin/env bash
# Builds and tries every board's image and the packages when something they are made of has changed since that was last done; else
# says so. .ci/images is this, as CI runs it.
#
# board/tested-inputs holds the hash of what was tried last. Away from CI it is written here, to be committed with the change.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: board/ci-image.sh [--force]

  --force   builds and tries them even if nothing changed
TEXT
}

force=''
case ${1:-} in
'') ;;
--force) force=yes ;;
-h | --help)
    usage
    exit
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

inputs=$(board/inputs.sh)
if [[ -z $force ]] && grep -qsx "$inputs" board/tested-inputs; then
    echo "SKIPPED: images were not built: nothing they are made of changed since they were last built and started (board/tested-inputs); board/ci-image.sh --force does it all the same"
    exit 0
fi
echo "images: what they are made of has changed; building and trying them"
./setup.sh --test --cross --image
begin=$SECONDS
for meta in board/*/meta; do
    board=${meta#board/} board=${board%/meta}
    board/build-image.sh "$board" ${deb:+--deb "$deb"}
    # One package for all boards.
    deb=${deb:-$(find target/debian -name 'spotter_*_arm64.deb' -printf '%T@ %p\n' 2>/dev/null | sort -rn | sed -n '1s/^[^ ]* //p')}
    board/test-image.sh "$board"
done
# The package where a user installs it, for this machine. The arm64 one is in the images that were started above; by itself it is
# tried with board/test-package.sh --deb, whose emulated systems alone take half an hour to unpack.
board/test-package.sh
echo "images: built and tried, and the package, in $(((SECONDS - begin) / 60)) minutes"
if [[ ${CI:-} == true ]]; then
    grep -qsx "$inputs" board/tested-inputs || echo "images: to spare the next run this one's, write $inputs into board/tested-inputs"
else
    echo "$inputs" >board/tested-inputs
fi
