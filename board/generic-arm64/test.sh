# What is tried of the image for UEFI machines, in QEMU's `virt` board; sourced by test-image.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# Emulated, all takes many times as long as on a board.
readonly START_S=900
readonly GRUB_ENVIRONMENT=/boot/firmware/EFI/debian/grubenv

boot() {
    local login=()
    # Where this spotter takes no SSH key from the card, systemd is given one by the emulated firmware.
    if [[ $takes_card == no ]]; then
        login=(-smbios "type=11,value=io.systemd.credential.binary:tmpfiles.extra=$(printf \
            'd /var/lib/spotter-box 0750 root spotter\nf+ /var/lib/spotter-box/authorized_keys 0600 root root - %s\n' \
            "$(cut -d' ' -f1,2 "$WORK/id.pub")" | base64 --wrap=0)")
    fi
    start_vm "${login[@]}" -drive "if=none,id=updates,format=raw,readonly=on,file=$WORK/updates.img" -device virtio-blk-pci,drive=updates
}

# up SLOT WHAT: until this slot says that it is good.
up() {
    wait_for $START_S "$2: slot $1 is good" is_good "$1"
    on_box 'mkdir -p /run/updates && mount -o ro /dev/disk/by-label/updates /run/updates'
}

# prepare_card: what an owner does after flashing, with the card still in the reader.
prepare_card() {
    takes_card=no name=localhost
    if unsquashfs -l "$OUT/work/root.img" usr/lib/systemd/system/spotter-setup.service | grep -q spotter-setup; then
        takes_card=yes name=flashed
    else
        skip "spotter.toml on the card was not tried: the spotter of this image has no setup"
    fi
    say "flashing $image onto a card of 4 GB"
    cp --sparse=always "$image" "$DISK"
    truncate --size=4G "$DISK"
    ssh-keygen -q -t ed25519 -N '' -f "$WORK/id" -C test
    cat >"$WORK/spotter.toml" <<TEXT
[node]
name = "flashed"

[box]
hostname = "flashed"
time_zone = "Europe/Berlin"
ssh_keys = ["$(cat "$WORK/id.pub")"]

# A file of the card, which the service itself may not read there.
[mqtt]
ca_file = "broker-ca.pem"

# Emulated, a picture is looked at every few seconds.
[events]
frames = 3
seen = 2
within_s = 60.0
lost_after_s = 60.0
TEXT
    # The card's partition begins at 1 MiB.
    mcopy -o -i "$DISK@@1M" "$WORK/spotter.toml" ::/spotter.toml
    echo 'not looked into without a broker' >"$WORK/broker-ca.pem"
    mcopy -o -i "$DISK@@1M" "$WORK/broker-ca.pem" ::/broker-ca.pem
}

# make_updates: bundles that are good, and bundles that are not, on a disk of their own.
make_updates() {
    local dir=$WORK/updates tree=$WORK/tree boot=$OUT/work/boot.img
    mkdir -p "$dir"
    update_keys
    say "making updates: a good one, and others"
    export SPOTTER_IMAGE_LEVEL=1
    unsquashfs -quiet -no-progress -dest "$tree" "$OUT/work/root.img" >/dev/null
    sed -i 's/^IMAGE_VERSION=.*/IMAGE_VERSION=99.0/' "$tree/usr/lib/os-release"
    pack_system "$tree" "$WORK/root.img"
    make_bundle "$dir/good.raucb" 99.0 "$WORK/root.img" "$boot"

    # It starts, and spotter in it never becomes ready.
    sed -i 's/^IMAGE_VERSION=.*/IMAGE_VERSION=99.1/' "$tree/usr/lib/os-release"
    sed -i 's/^READY_WITHIN_S=.*/READY_WITHIN_S=60/' "$tree/usr/lib/spotter-image/board.conf"
    find "$tree/usr/share/spotter/models" -name '*.tflite' -exec truncate --size=1000 {} +
    pack_system "$tree" "$WORK/root.img"
    make_bundle "$dir/never-ready.raucb" 99.1 "$WORK/root.img" "$boot"

    # It does not even start.
    head --bytes=1M /dev/urandom >"$WORK/root.img"
    make_bundle "$dir/never-starts.raucb" 99.2 "$WORK/root.img" "$boot"

    # Not to be taken at all.
    head --bytes=100M "$dir/good.raucb" >"$dir/truncated.raucb"
    mksquashfs "$WORK/spotter.toml" "$dir/unsigned.raucb" -quiet -no-progress >/dev/null
    (
        make_keys "$WORK/other-keys" other
        KEY=$WORK/other-keys/other.key.pem CERT=$WORK/other-keys/other.cert.pem KEYRING=$WORK/other-keys/other-ca.cert.pem
        make_bundle "$dir/other-key.raucb" 99.3 "$WORK/root.img" "$WORK/root.img"
    )
    (
        COMPATIBLE=spotter-other-board
        make_bundle "$dir/other-board.raucb" 99.3 "$WORK/root.img" "$WORK/root.img"
    )
    rm -rf "$tree" "$WORK/root.img"
    mke2fs -q -t ext4 -L updates -d "$dir" "$WORK/updates.img" "$(($(du -sm "$dir" | cut -f1) + 64))M"
}

# publish INPUT...: what ffmpeg is to read.
publish() {
    ffmpeg -nostdin -v error -re "$@" -an -vf scale=640:-2,fps=4 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -tune zerolatency \
        -g 8 -b:v 600k -f flv "rtmp://127.0.0.1:${PORT[1935]}/live/stream?token=$token" >"$WORK/ffmpeg.log" 2>&1 &
    publisher=$!
}
stop_publishing() {
    kill "$publisher" 2>/dev/null || true
    wait "$publisher" 2>/dev/null || true
    publisher=''
}

api() { curl --silent --fail --max-time 20 -H "Authorization: Bearer $token" "http://127.0.0.1:${PORT[8080]}$1"; }
events() { api '/api/v1/events?limit=50' | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["events"]))'; }
some_events() { [[ $(events) -gt 0 ]]; }

stream_is_detected() {
    local end=$((SECONDS + 300))
    publish -stream_loop -1 -i ../demo/clip.mp4
    while ((SECONDS < end)); do
        if ../.venv/bin/python ../demo/watch.py --seconds 40 --mqtt-port "${PORT[1883]}" --websocket-port "${PORT[8765]}" --token "$token" \
            >"$WORK/watch.log" 2>&1; then
            tail -n 1 "$WORK/watch.log" | sed 's/^demo/image/' >&2
            return 0
        fi
    done
    cat "$WORK/watch.log" "$WORK/ffmpeg.log" >&2
    return 1
}

# refused BUNDLE WORDS: it is not installed, the reason has these words, and nothing changed.
refused() {
    local before after said
    before=$(on_box "cat $GRUB_ENVIRONMENT")
    if said=$(on_box "rauc install /run/updates/$1.raucb 2>&1"); then fail "$1.raucb was installed"; fi
    after=$(on_box "cat $GRUB_ENVIRONMENT")
    [[ $before == "$after" ]] || fail "$1.raucb was refused, and yet it changed what starts next"
    grep -qiE "$2" <<<"$said" || fail "$1.raucb was refused, and the message does not say why: $said"
    ok "$1.raucb is refused: $(grep -iE "$2" <<<"$said" | tail -n 1 | sed 's/^ *//')"
}

install_update() { on_box "spotter update install /run/updates/$1.raucb" >"$WORK/install.log" 2>&1 || fail "$1.raucb is not installed: $(tail -n 5 "$WORK/install.log")"; }
restart() { on_box 'systemctl --no-block reboot' || true; }
last_update() { on_box 'cut -d" " -f1,2,3 /var/lib/spotter-image/last-update'; }

# survived WHAT: what the box remembers is still there.
survived() {
    check "$1: the events are still there" test "$(events)" -ge "$kept_events"
    check "$1: so is the configuration" test "$(on_box 'uname -n')" = $name
    check "$1: and the owner's token" test "$(on_box "sed -n 's/^secret = \"\(.*\)\"$/\1/p' /var/lib/spotter/tokens.toml | head -n 1")" = "$token"
}

first_start() {
    boot
    up A "first start"
    check "the system is read-only" on_box '! touch /etc/written /usr/written 2>/dev/null'
    check "the data partition grew to the card's end" on_box '[ $(df --output=size -BM /var | tail -n 1 | tr -dc 0-9) -gt 1800 ]'
    if [[ $takes_card == yes ]]; then
        check "the box took name and time zone from the card" on_box '[ $(uname -n) = flashed ] && [ "$(date +%Z)" != UTC ]'
        check "and a file that spotter.toml names, for the service to read" \
            on_box 'setpriv --reuid=spotter --regid=spotter --clear-groups grep -q "not looked into" "$(sed -n "s/^ca_file = \"\(.*\)\"/\1/p" /etc/spotter/spotter.toml)"'
    fi
    # shellcheck disable=SC2016
    check "GRUB counts no start in vain that got as far as spotter's" on_box 'entered() { systemctl show --value -p ActiveEnterTimestampMonotonic "$1"; }
[ "$(entered spotter-started.service)" -lt "$(entered spotter.service)" ]'
    check "nor those before it" on_box "grub-editenv $GRUB_ENVIRONMENT set A_TRY=2 && systemctl restart spotter-started.service && grep -q '^A_TRY=0' $GRUB_ENVIRONMENT"
    check "what spotter became ready with is kept" on_box 'cmp /var/lib/spotter-box/spotter.toml /var/lib/spotter-box/spotter.toml.good'
    check "logs are bounded" on_box 'journalctl --disk-usage && systemd-analyze cat-config systemd/journald.conf | grep -q ^SystemMaxUse=48M'
    check "no unit failed" on_box 'systemctl --failed --no-legend; [ -z "$(systemctl --failed --no-legend)" ]'
    token=$(on_box "sed -n 's/^secret = \"\(.*\)\"$/\1/p' /var/lib/spotter/tokens.toml | head -n 1")
    [[ -n $token ]] || fail "the box made no owner token"
    grep -aq "token=$token" "$SERIAL" && ok "the console shows the owner's address" || skip "the console shows no address: spotter-console.service is not in this image"
    check "a stream through the forwarded port is detected, over MQTT and WebSocket" stream_is_detected
    stop_publishing
    # The clip's animals are gone before the emulated detector has seen them twice: one that stays.
    publish -loop 1 -framerate 4 -i ../demo/photos/dog.jpg
    wait_for 300 "a visit is remembered" some_events
    ok "a visit is remembered"
    stop_publishing
    kept_events=$(events)
}

bad_bundles() {
    refused unsigned 'signature|bundle'
    refused truncated 'signature|bundle'
    refused other-key 'verify|certificate|issuer'
    refused other-board 'compatible'
}

# A bundle sent in on the page: the service takes it, root installs it, the box starts anew by itself.
send_update() {
    local code
    say "sending $1.raucb in, as the page does"
    code=$(curl --silent --max-time 1800 --output "$WORK/sent" --write-out '%{http_code}' --request POST --upload-file "$WORK/updates/$1.raucb" \
        -H "Authorization: Bearer $token" -H 'Content-Type: application/octet-stream' "http://127.0.0.1:${PORT[8080]}/api/v1/update/bundle") || true
    [[ $code == 202 ]] || fail "$1.raucb is not taken by the page's API: $code $(head --bytes=500 "$WORK/sent")"
    wait_for 1800 "$1.raucb is in" sent_update_is_in
}
sent_update_is_in() {
    [[ $(api /api/v1/update) != *'"step":"failed"'* ]] || fail "the update that was sent in failed: $(api /api/v1/update)"
    on_box 'grep -qE "^B (installed|restarting) " /var/lib/spotter-image/trial' || is_good B
}

# Mistakes on the card: one that is foreseen, and one that only the service itself finds. Either way the page goes on.
card_mistakes() {
    [[ $takes_card == yes ]] || return 0
    local problem=/boot/firmware/spotter-problem.txt
    { cat "$WORK/spotter.toml" && printf '\n[detect]\nmodel = "yolov4-tini-416"\n'; } | put_on_card spotter.toml
    check "a model that is not there is told on the card, with those that are" on_box "grep -q 'detect.model.*yolov4-tini-416.*picodet-s-320' $problem"
    check "and not taken" on_box '! grep -q yolov4-tini /var/lib/spotter-box/spotter.toml'
    check "and the page answers" page_answers

    { cat "$WORK/spotter.toml" && printf '\n[detect]\nbackend = "onnx"\n'; } | put_on_card spotter.toml
    check "that there is no ONNX Runtime is not foreseen" on_box "! test -e $problem && grep -q onnx /var/lib/spotter-box/spotter.toml"
    on_box 'systemctl --no-block restart spotter.service'
    wait_for 300 "a configuration that spotter ends with is told on the card" on_box "grep -q 'ONNX Runtime' $problem"
    check "it is told on the screen too" on_box 'grep -q "ONNX Runtime" /var/lib/spotter-box/spotter-problem.txt'
    wait_for 300 "spotter is back with what it had" on_box 'systemctl is-active spotter.service && ! grep -q onnx /var/lib/spotter-box/spotter.toml'
    check "and the page answers" page_answers
    put_on_card spotter.toml <"$WORK/spotter.toml"
    check "a card without mistakes takes it all back" on_box "! test -e $problem && cmp /var/lib/spotter-box/spotter.toml /var/lib/spotter-box/spotter.toml.good"
}
page_answers() { api /api/v1/status >/dev/null; }

good_update() {
    send_update good
    up B "after the good update"
    check "the new version runs" on_box '. /etc/os-release && [ "$IMAGE_VERSION" = 99.0 ]'
    check "and the box knows that it is good" test "$(last_update)" = "good 99.0 B"
    survived "after the good update"
}

told_as_interrupted() { [[ $(api /api/v1/update) == *'"result":"interrupted"'* ]]; }

# The power goes while slot A is being written, and again when it is complete and the box has not restarted.
power_cuts() {
    on_box 'spotter update install /run/updates/good.raucb' >"$WORK/install.log" 2>&1 &
    wait_for 300 "the update is being written" on_box '[ "$(cut -d" " -f1,2 /var/lib/spotter-image/trial)" = "A installing" ]'
    sleep 5
    cut_power
    boot
    up B "after a power cut in the first half of an update"
    check "the update counts as interrupted" test "$(last_update)" = "interrupted 99.0 A"
    wait_for 120 "the page tells of it so" told_as_interrupted
    survived "after a power cut in the first half of an update"

    install_update good
    cut_power
    boot
    up A "after a power cut between update and restart"
    check "the update is the one that runs" test "$(last_update)" = "good 99.0 A"
    survived "after a power cut between update and restart"
}

fallbacks() {
    install_update never-ready
    restart
    # It runs for less than a minute, too short for SSH to be sure of it: the console tells.
    wait_for $START_S "an update that never gets ready: it was tried" grep -aq "starting slot B" "$SERIAL"
    up A "an update that never gets ready"
    check "it fell back by itself" test "$(last_update)" = "fell-back 99.1 B"
    survived "after falling back"

    install_update never-starts
    restart
    sleep 20
    up A "an update that does not start"
    check "it fell back by itself" test "$(last_update)" = "fell-back 99.2 B"
    survived "after falling back"
}

# has_module MODULE [OPTION...]: loads it on the box, if its kernel has it.
has_module() { on_box "modprobe $*"; }

# The access point, with radios that the kernel makes up: one is the box's, the other a phone's.
access_point() {
    if ! on_box 'test -s /var/lib/spotter-box/ap-passphrase'; then
        skip "the access point was not tried: this spotter makes no passphrase for it"
        return
    fi
    if ! has_module mac80211_hwsim radios=2; then
        skip "the access point was not tried: the kernel has no mac80211_hwsim"
        return
    fi
    # Off the wire long enough for the box to find itself alone; the wire comes back by itself, as it is how we talk to it.
    on_box 'cat >/run/alone <<"TEXT"
networkctl down eth0
for i in $(seq 60); do
    sleep 5
    systemctl is-active --quiet spotter-access-point.service && break
done
sleep 10
printf "ctrl_interface=/run/phone\nnetwork={\nssid=\"%s\"\npsk=\"%s\"\n}\n" "$(uname -n)" "$(cat /var/lib/spotter-box/ap-passphrase)" >/run/phone.conf
wpa_supplicant -B -i wlan1 -D nl80211 -c /run/phone.conf -P /run/phone.pid
for i in $(seq 30); do
    wpa_cli -p /run/phone -i wlan1 status | grep -q wpa_state=COMPLETED && break
    sleep 2
done
wpa_cli -p /run/phone -i wlan1 status >/run/alone.joined
timeout 60 busybox udhcpc -i wlan1 -n -q -t 10 -s /bin/true >/run/alone.lease 2>&1
kill "$(cat /run/phone.pid)"
networkctl up eth0
touch /run/alone.done
TEXT
systemd-run --quiet --unit=alone sh /run/alone'
    sleep 30
    wait_for 600 "the box is back on the wire" on_box 'test -e /run/alone.done'
    check "alone, the box made an access point, and a phone joined it with its passphrase" on_box 'grep -q wpa_state=COMPLETED /run/alone.joined && grep -q "^ssid=flashed" /run/alone.joined'
    check "the phone was given an address" on_box 'grep -qE "lease of 10\.42\.0\.[0-9]+ obtained" /run/alone.lease'
    wait_for 180 "on the wire again, the access point ends" on_box '! systemctl is-active --quiet spotter-access-point.service'
    ok "on the wire again, the access point ends"
    on_box 'rmmod mac80211_hwsim' || true
}

status() { api /api/v1/status; }
configure() { on_box 'cat >>/var/lib/spotter-box/spotter.toml'; }

# Lamps: the PL061 of `virt`.
pins() {
    if ! on_box 'spotter probe --json' | grep -q '"gpio"'; then
        skip "lamps and buttons were not tried: this spotter knows none"
        return
    fi
    configure <<'TEXT'
[gpio.led]
chip = "gpiochip0"
line = 1
[[gpio.output]]
name = "bell"
chip = "gpiochip0"
line = 2
labels = ["dog"]
[[gpio.output]]
name = "lost"
chip = "gpiochip0"
line = 99
TEXT
    wait_for 60 "spotter holds the lines of the PL061" on_box '[ "$(grep -c "spotter.*out" /sys/kernel/debug/gpio)" = 2 ]'
    ok "the lamp's and the bell's lines of the PL061 are held"
    # It is lit for a tenth of the time, and each look takes long here.
    check "the lamp blinks: nobody publishes" on_box 'lit="" dark=""
for _ in $(seq 1500); do
    case $(grep -m 1 "spotter.*out" /sys/kernel/debug/gpio) in
    *"out hi"*) lit=1 ;;
    *) dark=1 ;;
    esac
    [ "$lit$dark" != 11 ] || exit 0
done
grep spotter /sys/kernel/debug/gpio >&2
exit 1'
    check "a line that is not there is named, and nothing else suffers" grep -q 'no line 99' <(status)
}

# A camera that the kernel makes up.
camera() {
    if ! on_box 'spotter probe' | grep -qi camera; then
        skip "cameras were not tried: this spotter knows none"
        return
    fi
    if ! has_module vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0; then
        skip "cameras were not tried: the kernel has no vivid"
        return
    fi
    configure <<'TEXT'
[[source]]
stream = "vivid"
device = "/dev/video0"
width = 640
height = 360
rate_hz = 5
TEXT
    wait_for 180 "the camera's pictures are detected" vivid_is_detected
    ok "a camera (vivid) is a source"
    # Emulated, a camera's encoder leaves little for what follows.
    on_box 'sed -i "/^\[\[source\]\]/,\$d" /var/lib/spotter-box/spotter.toml'
}
vivid_is_detected() {
    api /api/v1/stats | python3 -c 'import json, sys
s = [x for x in json.load(sys.stdin)["streams"] if x["stream"] == "vivid"][0]["counters"]
sys.exit(s["frames_detected"] < 3)'
}

# put_on_card NAME: what is on standard input, as an owner puts it there; then it is taken as at a start.
put_on_card() {
    on_box "/usr/lib/spotter-image/with-card sh -c 'cat >/boot/firmware/$1' && systemctl restart spotter-setup.service" || fail "the box does not take $1"
}
app_state() { on_box 'systemctl is-active spotter-mentra-app.service'; }
app_journal() { on_box 'journalctl --quiet --boot --unit=spotter-mentra-app.service --output=cat'; }
app_answers() { on_box 'busybox wget -q -O - http://127.0.0.1:3210/health' | grep -qx ok; }
# A publish URL as the app asks for one: on the box itself, without a token.
publish_url() {
    on_box "busybox wget -q -O - --header 'Content-Type: application/json' --post-data '{\"stream\":\"glasses\"}' http://127.0.0.1:8080/api/v1/publishers"
}

# The app for MentraOS is off, and its keys are put on the card for the restart that follows.
mentra_app_is_off() {
    has_app=no
    if ! on_box 'test -e /usr/lib/systemd/system/spotter-mentra-app.service'; then
        skip "the app for MentraOS was not tried: it is not in this image"
        return
    fi
    has_app=yes
    check "the app for MentraOS is off" test "$(app_state)" = inactive
    check "and says why" grep -q 'ConditionPathExists=/var/lib/spotter-box/mentra-app.env' <(app_journal)
    put_on_card mentra-app.env <<<'PACKAGE_NAME=com.example.spotter'
    check "a key that is missing is told on the card" on_box 'grep -q "MENTRAOS_API_KEY is not set" /boot/firmware/spotter-problem.txt'
    check "and the app stays off" on_box '! test -e /var/lib/spotter-box/mentra-app.env'
    printf 'PACKAGE_NAME=com.example.spotter\r\nMENTRAOS_API_KEY=secret-of-the-test\r\nPORT=3210\r\n' | put_on_card mentra-app.env
}

# After that restart. Then it is switched off again: emulated, its start takes minutes of the processor.
mentra_app_runs() {
    [[ $has_app == yes ]] || return 0
    wait_for 900 "the app for MentraOS answers" app_answers
    ok "the app for MentraOS runs with the keys of the card"
    check "it runs as a user of its own" on_box '[ "$(stat -c %U "/proc/$(systemctl show --value -p MainPID spotter-mentra-app.service)")" = spotter-mentra-app ]'
    check "only root reads its keys, and no log has them" on_box '[ "$(stat -c "%U %a" /var/lib/spotter-box/mentra-app.env)" = "root 600" ] && ! journalctl --quiet --boot | grep -q secret-of-the-test'
    check "the box needs no token of it" test "$(app_journal | grep -c 'the box refuses')" = 0
    check "and has a publish URL for it that glasses can dial" grep -q '"url":"rtmp://10\.0\.2\.15:1935/live/glasses?token=' <(publish_url)
    put_on_card mentra-app.env <<<'# no keys'
    on_box 'systemctl restart spotter-mentra-app.service' || true
    check "without keys it is off again" on_box '[ "$(systemctl show --value -p ConditionResult spotter-mentra-app.service)" = no ] && ! systemctl is-active --quiet spotter-mentra-app.service'
}

run_test() {
    [[ -e $OUT/work/root.img ]] || die "the parts of the image are not in $OUT/work; run board/build-image.sh $BOARD"
    prepare_card
    make_updates
    first_start
    pins
    camera
    bad_bundles
    card_mistakes
    mentra_app_is_off
    good_update
    mentra_app_runs
    power_cuts
    fallbacks
    access_point
}
