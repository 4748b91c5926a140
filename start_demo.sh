#!/usr/bin/env bash
# Shows spotter at work on this machine: sets up, builds, starts it with its defaults, publishes the demo clip to it
# and prints what it finds. Everything it starts ends with it; its state and log are in .demo/.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./start_demo.sh [--seconds N] [--no-publish]

  --seconds N    ends after N seconds: with 0 when animals came through MQTT and WebSocket both, else with 1
  --no-publish   does not publish the clip, but waits for your own camera

Environment variables SPOTTER__SECTION__KEY change spotter's configuration, SPOTTER__MQTT__LISTEN=0.0.0.0:1884 for
example lets its broker listen on another port.
TEXT
}

die() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

seconds=0 publish=yes
while [[ $# -gt 0 ]]; do
    case $1 in
    --seconds)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--seconds takes a whole number above 0"
        seconds=$2
        shift
        ;;
    --no-publish) publish=no ;;
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

spotter_pid='' publisher_pid='' watcher_pid=''

# end PID: asks a process to end; ends it after 12 s, which is more than spotter takes to drain.
end() {
    [[ -n $1 ]] || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    for _ in {1..120}; do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

cleanup() {
    trap '' INT TERM
    end "$watcher_pid"
    end "$publisher_pid"
    end "$spotter_pid"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
all_answer() { answers "$rtmp" && answers "$mqtt" && answers "$websocket" && answers "$web"; }

# The demo publishes for ever: a publisher that ended is started again, as glasses would.
publish_clip() {
    local ffmpeg_pid=''
    trap '[[ -z $ffmpeg_pid ]] || kill "$ffmpeg_pid" 2>/dev/null; wait; exit' TERM
    while true; do
        ffmpeg -nostdin -v error -re -stream_loop -1 -i demo/clip.mp4 -c copy -f flv "$1" >>.demo/ffmpeg.log 2>&1 &
        ffmpeg_pid=$!
        wait "$ffmpeg_pid" || true
        sleep 1
    done
}

./setup.sh

echo "demo: building spotter (some minutes the first time)"
cargo build --release --quiet || die "failed: cargo build --release -- its message is above"
target=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
spotter=$target/release/spotter

rtmp=${SPOTTER__INGEST__LISTEN:-:1935} mqtt=${SPOTTER__MQTT__LISTEN:-:1883} websocket=${SPOTTER__WEBSOCKET__LISTEN:-:8765}
web=${SPOTTER__WEB__LISTEN:-0.0.0.0:8080}
rtmp=${rtmp##*:} mqtt=${mqtt##*:} websocket=${websocket##*:} web_address=${web%:*} web=${web##*:}
for door in "RTMP INGEST $rtmp" "MQTT MQTT $mqtt" "WebSocket WEBSOCKET $websocket" "HTTP WEB $web"; do
    read -r what section port <<<"$door"
    ! answers "$port" || die "port $port, for $what, is taken by another program; stop that one, or choose" \
        "another port: SPOTTER__${section}__LISTEN=0.0.0.0:$((port + 1)) ./start_demo.sh"
done

mkdir -p .demo
export SPOTTER__NODE__STATE_DIR=${SPOTTER__NODE__STATE_DIR:-$PWD/.demo/state}
mkdir -p "$SPOTTER__NODE__STATE_DIR"
# A session of its own, so that Ctrl-C reaches spotter once, from cleanup, and not twice.
setsid "$spotter" run >.demo/spotter.log 2>&1 &
spotter_pid=$!
for _ in {1..300}; do
    kill -0 "$spotter_pid" 2>/dev/null || break
    ! all_answer || break
    sleep 0.1
done
if ! { kill -0 "$spotter_pid" 2>/dev/null && all_answer; }; then
    tail -n 20 .demo/spotter.log >&2
    die "spotter did not start; the end of .demo/spotter.log is above"
fi

# From elsewhere a token is needed: the owner's, which the state directory keeps.
token=$(sed -n 's/^secret = "\(.*\)"$/\1/p' "$SPOTTER__NODE__STATE_DIR/tokens.toml" | head -n 1)
address=$(hostname -I 2>/dev/null | cut -d' ' -f1)

cat <<TEXT

    See it:  http://127.0.0.1:$web/

TEXT
if [[ $web_address != 127.* && $web_address != localhost && -n $address ]]; then
    printf '    or from a phone in this network:  http://%s:%s/?token=%s\n\n' "$address" "$web" "$token"
fi
cat <<TEXT
demo: spotter is running; its log is .demo/spotter.log
demo: MQTT       mosquitto_sub -h 127.0.0.1 -p $mqtt -v -t 'spotter/#' -T 'spotter/+/+/+/snapshot'
demo: WebSocket  ws://127.0.0.1:$websocket/live
TEXT
url=rtmp://127.0.0.1:$rtmp/live/stream
if [[ $publish == yes ]]; then
    echo "demo: publishing demo/clip.mp4 to $url"
    publish_clip "$url" &
    publisher_pid=$!
else
    echo "demo: publish to $url from this machine, or from elsewhere to"
    echo "      rtmp://${address:-ADDRESS}:$rtmp/live/stream?token=$token"
fi
[[ $seconds != 0 ]] || echo "demo: Ctrl-C ends it"

.venv/bin/python demo/watch.py --seconds "$seconds" --mqtt-port "$mqtt" --websocket-port "$websocket" &
watcher_pid=$!
status=0
wait -n "$watcher_pid" "$spotter_pid" || status=$?
if ! kill -0 "$spotter_pid" 2>/dev/null; then
    tail -n 20 .demo/spotter.log >&2
    die "spotter ended by itself; the end of .demo/spotter.log is above"
fi
exit "$status"
