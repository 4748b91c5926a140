#!/usr/bin/env bash
# Starts the image for UEFI machines in QEMU, as if it had been flashed: its console is this terminal, its ports are on loopback.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: board/run-image.sh [CARD]

  CARD   the emulated card; target/image/card.img, flashed with the newest image if it is not there

Ports on 127.0.0.1: 1935 RTMP, 1883 MQTT, 8765 WebSocket, 8080 the page, 2222 SSH. Ctrl-A X pulls the plug.
The page wants the token that the console shows: http://127.0.0.1:8080/?token=...
To put your spotter.toml on the card first:  mcopy -o -i CARD@@1M spotter.toml ::/
TEXT
}

readonly FROM=$PWD
cd "$(dirname "$0")"
# shellcheck source=image/common.sh
source image/common.sh

case ${1:-} in
-h | --help)
    usage
    exit
    ;;
esac
card=$(realpath --canonicalize-missing ../target/image/card.img)
[[ -z ${1:-} ]] || card=$(cd "$FROM" && realpath --canonicalize-missing "$1")
command -v qemu-system-aarch64 >/dev/null || die "no qemu-system-aarch64; run ./setup.sh --image"
if [[ ! -e $card ]]; then
    image=$(find ../target/image/generic-arm64 -maxdepth 1 -name 'spotter-*.img' -printf '%T@ %p\n' 2>/dev/null | sort -rn | sed -n '1s/^[^ ]* //p')
    [[ -n $image ]] || die "no image; run board/build-image.sh generic-arm64"
    say "flashing $image onto $card"
    cp --sparse=always "$image" "$card"
    truncate --size=4G "$card"
fi
[[ -e $card.variables ]] || cp /usr/share/AAVMF/AAVMF_VARS.fd "$card.variables"
forward=''
for pair in 1935-:1935 1883-:1883 8765-:8765 8080-:8080 2222-:22; do forward+=",hostfwd=tcp:127.0.0.1:$pair"; done
exec qemu-system-aarch64 -machine virt,gic-version=3,acpi=off -cpu cortex-a72 -accel tcg,thread=multi -smp 2 -m 2048 -nodefaults -nographic \
    -drive if=pflash,format=raw,readonly=on,file=/usr/share/AAVMF/AAVMF_CODE.fd \
    -drive if=pflash,format=raw,file="$card.variables" \
    -drive if=none,id=card,format=raw,file="$card" -device virtio-blk-pci,drive=card,bootindex=0 \
    -netdev "user,id=net$forward" -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci -serial mon:stdio
