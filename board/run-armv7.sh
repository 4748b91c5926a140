#!/usr/bin/env bash
# Runs the 32-bit ARM binary that board/cross.sh armv7 built, on x86-64, with its arguments; it builds nothing.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
binary=${SPOTTER_ARMV7:-${CARGO_TARGET_DIR:-$repo/target}/armv7-unknown-linux-gnueabihf/release/spotter}
# GStreamer would start its plugin scanner, another ARM program, and keep what it finds where the x86-64 one does.
export GST_REGISTRY_FORK=no
export GST_REGISTRY=${GST_REGISTRY_ARMV7:-$(dirname "$binary")/gstreamer-registry.bin}
# A Raspberry Pi 2's processor: newer instructions would be let through otherwise.
exec qemu-arm-static -cpu cortex-a7 -L "$repo/runtime/sysroot/armv7" "$binary" "$@"
