#!/usr/bin/env bash
# Runs a wearer's hour, compressed into some seven minutes: the app for MentraOS, a real spotter, and a twin of the glasses on a link
# that fails in every way we know of. Not part of ./test.sh. It makes a network of its own and leaves nothing of it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/wearers-hour.sh [--minute] [--out FILE]

  --minute     only the faults that pass quickly, judged by everything but time
  --out FILE   the report as JSON, with the box's log beside it; target/wearers-hour.json, if you leave it out

Environment: SPOTTER_BIN, the program; target/release/spotter or target/debug/spotter, if you leave it out. Ends with 0 if everything came
back within the times that docs/glasses.md states, no broken picture was searched, and no stream was left. With 77 where it cannot run.
TEXT
}

readonly FROM=$PWD
cd "$(dirname "$0")/.."
out=$PWD/target/wearers-hour.json arguments=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --minute) arguments+=(--minute) ;;
    --out)
        [[ -n ${2:-} ]] || {
            usage >&2
            exit 2
        }
        out=$(cd "$FROM" && realpath --canonicalize-missing "$2")
        shift
        ;;
    -h | --help)
        usage
        exit
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

skip() {
    echo "SKIPPED: a wearer's hour: $*"
    exit 77
}

# As root, or as root of a user namespace.
unshare=(unshare --net --mount --pid --fork --kill-child --mount-proc)
[[ $(id -u) == 0 ]] || unshare+=(--map-root-user)
for tool in ip tc unshare node npm; do
    command -v $tool >/dev/null || skip "no program $tool; run ./setup.sh --test"
done
# shellcheck disable=SC2016
"${unshare[@]}" bash -c 'mount -t tmpfs none /run && ip netns add probe && ip link add air type bridge && ip link set air up &&
    tc qdisc replace dev air root tbf rate 1mbit burst 16kb latency 100ms' 2>/dev/null ||
    skip "no network of its own can be made here: not root, or the kernel lacks bridges or the token bucket (sch_tbf)"
/usr/bin/python3 -c 'import gi; gi.require_version("Gst", "1.0"); from gi.repository import Gst; Gst.init(None)
import sys; sys.exit(not all(Gst.ElementFactory.find(e) for e in ("rtmpsink", "x264enc", "avenc_aac", "avdec_h264", "qtdemux")))' 2>/dev/null ||
    skip "no GStreamer for Python, or one of its plugins is missing; run ./setup.sh --test"
[[ -e demo/clip.mp4 ]] || skip "no demo/clip.mp4; run ./setup.sh"
if [[ -z ${SPOTTER_BIN:-} ]]; then
    for SPOTTER_BIN in "${CARGO_TARGET_DIR:-$PWD/target}"/{release,debug}/spotter ''; do [[ ! -x $SPOTTER_BIN ]] || break; done
fi
[[ -x $SPOTTER_BIN ]] || skip "no spotter; run cargo build --release, or set SPOTTER_BIN"
SPOTTER_BIN=$(realpath "$SPOTTER_BIN")
export SPOTTER_BIN

npm run --silent build --prefix mentra-app
mkdir -p "${out%/*}"
# In a session of its own, for by sessions the kernel shares out processors, and ahead of others where that may be: glasses and box have
# processors of their own. unshare itself hears no signal but the one that takes all with it.
# shellcheck disable=SC2016
setsid "${unshare[@]}" bash -c 'mount -t tmpfs none /run
    echo -10 2>/dev/null >/proc/self/autogroup || true
    exec node mentra-app/dist/test/hour/main.js "$@"' hour --out "$out" "${arguments[@]}" &
hour=$!
trap 'kill -KILL $hour 2>/dev/null || true' EXIT
trap 'exit 1' INT TERM
wait $hour
