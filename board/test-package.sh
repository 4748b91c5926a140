#!/usr/bin/env bash
# Tries the Debian package where a user would: installs it in fresh Debian systems, runs it, upgrades, removes and purges it.
#
# usage: board/test-package.sh [--suite SUITE]... [--deb FILE]
#
#   --suite SUITE  bookworm or trixie; both if left out
#   --deb FILE     the package; without, this machine's own is built. An arm64 one runs emulated (needs ./setup.sh --cross)
#
# Part of board/ci-image.sh, and not of ./test.sh.
#
# Needs root, and what ./setup.sh --test --cross installs. The systems are unpacked once by mmdebstrap, from this machine's own
# mirror or $SPOTTER_DEBIAN_MIRROR, and kept as archives in target/package-test.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORK=$PWD/target/package-test

die() {
    printf 'test-package: %s\n' "$*" >&2
    exit 1
}
say() { printf 'test-package: %s\n' "$*"; }

# quietly COMMAND...: shows what it said only when it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "failed: $*"
    fi
    rm -f "$log"
}

# All that is mounted on the way is gone with this namespace, however the test ends.
if [[ ${SPOTTER_PACKAGE_TEST:-} != own-namespace ]]; then
    [[ $(id -u) == 0 ]] || die "run it as root: it unpacks systems with their owners"
    SPOTTER_PACKAGE_TEST=own-namespace exec unshare --mount --propagation private board/test-package.sh "$@"
fi

suites=() deb=''
while [[ $# -gt 0 ]]; do
    case $1 in
    --suite) suites+=("${2:?--suite takes bookworm or trixie}") && shift ;;
    --deb) deb=$(realpath "${2:?--deb takes a file}") && shift ;;
    *) die "unknown argument $1" ;;
    esac
    shift
done
[[ ${#suites[@]} != 0 ]] || suites=(bookworm trixie)

for tool in mmdebstrap ffmpeg curl; do
    command -v $tool >/dev/null || die "no $tool; run ./setup.sh --test --cross"
done
[[ -e demo/clip.mp4 && -e demo/photos/dog.jpg ]] || die "no demo/clip.mp4; run ./setup.sh"

if [[ -z $deb ]]; then
    quietly cargo build --release
    quietly board/package.sh
    deb=$(find "$PWD/target/debian" -name "spotter_*_$(dpkg --print-architecture).deb" -printf '%T@ %p\n' | sort -rn | sed -n '1s/^[^ ]* //p')
fi
arch=$(dpkg-deb --field "$deb" Architecture)
version=$(dpkg-deb --field "$deb" Version)
if [[ $arch != $(dpkg --print-architecture) ]]; then
    [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || die "this machine does not run $arch programs; run ./setup.sh --cross"
fi

mirror=${SPOTTER_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F '|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }')}
[[ -n $mirror ]] || die "no Debian mirror in apt's sources; set SPOTTER_DEBIAN_MIRROR to one"

mkdir -p "$WORK"
root=''
leave() {
    [[ -n $root ]] || return 0
    umount --quiet "$root/proc" "$root/sys" 2>/dev/null || true
    rm -rf --one-file-system "$root"
    root=''
}

# A network of its own for the service, so that it has its own ports whatever runs on this machine.
unshare --net sleep infinity &
network=$!
trap 'kill $network; leave' EXIT
own_net=/proc/$network/ns/net
alone() { nsenter --net="$own_net" "$@"; }

# base SUITE: the archive of that system with what every Debian box has; makes it when it is missing.
base() {
    local archive=$WORK/$1-$arch.tar
    if [[ ! -e $archive ]]; then
        say "unpacking Debian $1 for $arch (kept in $WORK)" >&2
        quietly mmdebstrap --mode=root --format=tar --arch="$arch" --variant=apt --include=systemd,udev,ca-certificates \
            --aptopt='Acquire::Languages "none"' "$1" "$archive.part" \
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] $mirror $1 main"
        mv "$archive.part" "$archive"
    fi
    echo "$archive"
}

# inside COMMAND...: runs it in the system, where no service is started.
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
install_deb() {
    cp "$1" "$root/tmp/spotter.deb"
    shift
    quietly inside apt-get install -y --no-install-recommends "$@" /tmp/spotter.deb
}
# A link may lead out of the system, as seen from here.
present() { for path in "$@"; do [[ -e $root/$path || -L $root/$path ]] || die "$suite: $path is not there"; done; }
absent() { for path in "$@"; do [[ ! -e $root/$path && ! -L $root/$path ]] || die "$suite: $path is still there"; done; }

# next_version: the same package one version on, with another default configuration.
next_version() {
    local tree=$WORK/next
    rm -rf "$tree"
    dpkg-deb --raw-extract "$deb" "$tree"
    sed -i "s/^Version: .*/Version: $version+next/" "$tree/DEBIAN/control"
    echo '# A line that the next version brought.' >>"$tree/etc/spotter/spotter.toml"
    (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --build --root-owner-group -Zgzip -z1 "$tree" "$WORK/next.deb" >/dev/null
    rm -rf "$tree"
}

# The service as the unit starts it, but without systemd: same user, folders and variables. Its network is its own.
run_service() {
    local service code='' found i
    install -d -o "$(stat -c %u "$root/tmp/owner")" -g "$(stat -c %g "$root/tmp/owner")" -m 750 "$root/var/lib/spotter"
    # Each program becomes the next, so that the number is spotter's in the end.
    nsenter --net="$own_net" chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --reuid=spotter --regid=spotter --init-groups sh -c \
        'cd /var/lib/spotter && GST_REGISTRY=/var/lib/spotter/gstreamer-registry.bin exec /usr/bin/spotter run' >"$root/tmp/log" 2>&1 &
    service=$!
    # Emulated, GStreamer alone takes half a minute to look at its plugins.
    for ((i = 0; i < 240; i++)); do
        code=$(alone curl -s -o "$WORK/ready" -w '%{http_code}' http://127.0.0.1:8080/readyz || true)
        [[ $code != 200 ]] || break
        kill -0 $service 2>/dev/null || break
        sleep 0.5
    done
    [[ $code == 200 ]] || { cat "$root/tmp/log" >&2; die "$suite: /readyz said $code: $(cat "$WORK/ready" 2>/dev/null)"; }
    for port in 1935 8765 8080 1883; do
        alone bash -c ": </dev/tcp/127.0.0.1/$port" 2>/dev/null || die "$suite: nothing answers on port $port"
    done
    # A real publisher, a real decoder, real animals.
    nsenter --net="$own_net" ffmpeg -nostdin -v error -re -stream_loop -1 -i demo/clip.mp4 -c copy -f flv rtmp://127.0.0.1:1935/live/stream &
    local publisher=$!
    found=0
    for ((i = 0; i < 120; i++)); do
        found=$(alone curl -s http://127.0.0.1:8080/api/v1/stats |
            python3 -c 'import json, sys; print(sum(s["counters"]["animals"] for s in json.load(sys.stdin)["streams"]))' 2>/dev/null || echo 0)
        [[ $found == 0 ]] || break
        sleep 0.5
    done
    kill $publisher 2>/dev/null || true
    wait $publisher 2>/dev/null || true
    [[ $found != 0 ]] || { cat "$root/tmp/log" >&2; die "$suite: no animal was found in the published clip"; }
    kill -TERM $service
    wait $service || { cat "$root/tmp/log" >&2; die "$suite: the service ended badly"; }
    say "$suite: the service ran: ready, all ports, $found animals in a published stream"
}

try() {
    local exposure found leftovers
    root=$(mktemp --directory "$WORK/root.XXXXXX")
    chmod 755 "$root"
    tar --extract --file "$(base "$suite")" --directory "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # Nobody needs this system after a power cut.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
    quietly inside apt-get update

    install_deb "$deb"
    say "$suite: installed $(basename "$deb")"
    present usr/bin/spotter etc/spotter/spotter.toml usr/lib/spotter/libtensorflowlite_c.so usr/share/spotter/models/coco.txt \
        usr/lib/systemd/system/spotter.service usr/lib/udev/rules.d/60-spotter.rules usr/share/doc/spotter/copyright \
        usr/share/man/man1/spotter.1.gz etc/systemd/system/multi-user.target.wants/spotter.service
    inside getent passwd spotter >/dev/null || die "$suite: there is no user spotter"
    [[ " $(inside id -nG spotter) " == *" video "* ]] || die "$suite: the user is not in the group video"
    quietly inside dpkg --verify spotter
    quietly inside systemd-analyze verify --man=no /usr/lib/systemd/system/spotter.service
    exposure=$(inside systemd-analyze security --offline=true /usr/lib/systemd/system/spotter.service |
        sed -n 's/.*Overall exposure level.*: \([0-9.]*\) .*/\1/p')
    say "$suite: systemd-analyze security: $exposure"
    awk -v e="$exposure" 'BEGIN { exit !(e > 0 && e <= 2.0) }' || die "$suite: an exposure of $exposure is over 2.0"

    [[ $(inside spotter check) == "/etc/spotter/spotter.toml: ok" ]] || die "$suite: spotter check is not content"
    cp demo/photos/dog.jpg "$root/tmp/dog.jpg"
    found=$(inside spotter detect /tmp/dog.jpg)
    [[ $found == *dog* ]] || die "$suite: no dog in dog.jpg but: $found"
    say "$suite: spotter detect: $found"
    inside install -o spotter -g spotter /dev/null /tmp/owner
    run_service
    present var/lib/spotter/tokens.toml

    # An administrator's token must not shut the service out of its own file.
    quietly inside spotter token add anna --rights publish --stream anna
    [[ $(stat -c %u "$root/var/lib/spotter/tokens.toml") == $(stat -c %u "$root/tmp/owner") ]] ||
        die "$suite: tokens.toml belongs to root after 'spotter token add'"

    sed -i 's/^rate_hz = 10.0/rate_hz = 7.0/' "$root/etc/spotter/spotter.toml"
    install_deb "$WORK/next.deb" -o Dpkg::Options::=--force-confold
    grep -q '^rate_hz = 7.0' "$root/etc/spotter/spotter.toml" || die "$suite: the upgrade lost the changed configuration"
    present etc/spotter/spotter.toml.dpkg-dist var/lib/spotter/tokens.toml
    quietly inside apt-get remove -y spotter
    absent usr/bin/spotter usr/lib/systemd/system/spotter.service
    present etc/spotter/spotter.toml var/lib/spotter/tokens.toml
    grep -q '^rate_hz = 7.0' "$root/etc/spotter/spotter.toml" || die "$suite: removing lost the changed configuration"
    quietly inside apt-get purge -y spotter
    absent etc/spotter var/lib/spotter
    ! inside getent passwd spotter >/dev/null || die "$suite: the user is left after the purge"
    ! inside getent group spotter >/dev/null || die "$suite: the group is left after the purge"
    leftovers=$(find "$root" -xdev \( -path "$root/tmp" -o -path "$root/var/cache" -o -path "$root/var/log" -o -path "$root/proc" \
        -o -path "$root/sys" \) -prune -o -name '*spotter*' -print)
    [[ -z $leftovers ]] || die "$suite: left after the purge: $leftovers"
    say "$suite: the upgrade kept the configuration, removing too, purging left nothing"
    leave
}

until alone ip link set lo up 2>/dev/null; do sleep 0.1; done
next_version
for suite in "${suites[@]}"; do try; done
say "all well: $(basename "$deb") on ${suites[*]}"
