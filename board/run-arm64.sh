#!/usr/bin/env bash
# Runs the arm64 binary that board/cross.sh built, on x86-64, with its arguments; it builds nothing.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
binary=${SPOTTER_ARM64:-${CARGO_TARGET_DIR:-$repo/target}/aarch64-unknown-linux-gnu/release/spotter}
# GStreamer would start its plugin scanner, another arm64 program, and keep what it finds where the x86-64 one does.
export GST_REGISTRY_FORK=no
export GST_REGISTRY=${GST_REGISTRY_ARM64:-$(dirname "$binary")/gstreamer-registry.bin}
exec qemu-aarch64-static -L / "$binary" "$@"
