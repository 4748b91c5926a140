#!/usr/bin/env bash
# Proves that a command works on a fresh Debian: it makes a new root directory with nothing but git, curl, Python 3
# and a Rust toolchain, clones this repository into it and runs the command there. It is not a sandbox.
#
# The new root shares the network of this machine, so the ports that the command opens must be free here, and two
# such runs with a demo in them must follow each other.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/fresh-machine.sh [--dir DIR] [--keep] SUITE [COMMAND]

  SUITE       bookworm (Debian 12) or trixie (Debian 13)
  COMMAND     run by bash in the clone; default: ./start_demo.sh --seconds 40 && ./test.sh
  --dir DIR   where the root directory and the base system's archive are kept; default: /var/tmp/spotter-fresh
  --keep      leave the root directory for inspection; else it is removed

Needs root, mmdebstrap, and the Rust toolchain that is on the PATH, which is lent to the new root read-only.
MIRROR is the Debian mirror, with debian/ and debian-security/ in it (default: this machine's own). Only what is
committed is cloned.
TEXT
}

die() {
    printf 'fresh-machine: %s\n' "$*" >&2
    exit 1
}

repo=$(cd "$(dirname "$0")/.." && pwd)
dir=/var/tmp/spotter-fresh keep=no
while [[ ${1:-} == -* ]]; do
    case $1 in
    --dir)
        dir=${2:?--dir needs a directory}
        shift
        ;;
    --keep) keep=yes ;;
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
suite=${1:-} command=${2:-./start_demo.sh --seconds 40 && ./test.sh}
[[ $suite == bookworm || $suite == trixie ]] || {
    usage >&2
    die "SUITE must be bookworm or trixie"
}
[[ $(id -u) == 0 ]] || die "only root can make a root directory; run it with sudo"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing; run: apt-get install mmdebstrap"
toolchain=$(rustc --print sysroot) || die "no Rust toolchain on the PATH; with sudo, keep it: sudo env PATH=\"\$PATH\" $0"

mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Label: Debian' 2>/dev/null | sed -n 1p)}
mirror=${mirror%/debian*}
[[ -n $mirror ]] || die "this machine has no Debian mirror of its own; name one: MIRROR=http://HOST $0"
base=$dir/$suite.tar root=$dir/$suite-root
mkdir -p "$dir"

if [[ ! -e $base ]]; then
    echo "fresh-machine: building the base system of $suite into $base"
    mmdebstrap --quiet --format=tar --variant=apt --include=ca-certificates,git,curl,python3 "$suite" "$base.part" \
        "deb $mirror/debian $suite main" \
        "deb $mirror/debian $suite-updates main" \
        "deb $mirror/debian-security $suite-security main"
    mv "$base.part" "$base"
fi

echo "fresh-machine: unpacking $suite into $root and cloning $(git -C "$repo" rev-parse --short HEAD)"
rm -rf --one-file-system "$root"
mkdir -p "$root"
tar -xf "$base" -C "$root" --exclude='./dev/*'
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# Certificate authorities that this machine was given by hand, as one behind a company's proxy is.
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    chroot "$root" update-ca-certificates >/dev/null 2>&1
fi
git clone --quiet --no-hardlinks "$repo" "$root/root/spotter"
mkdir -p "$root/opt/rust"

enter() {
    local lent=(HOME=/root LANG=C.UTF-8 "TERM=${TERM:-dumb}" PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    local name
    for name in http_proxy https_proxy no_proxy PIP_CERT PIP_INDEX_URL CI; do
        [[ -z ${!name:-} ]] || lent+=("$name=${!name}")
    done
    # The mounts live in a namespace of their own and the processes in another: both are gone when the command ends.
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 toolchain=$2
        shift 2
        mount --bind -o ro "$toolchain" "$root/opt/rust"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        exec chroot "$root" env -i "$@"
    ' fresh-machine "$root" "$toolchain" "${lent[@]}" bash -c "cd ~/spotter && { $command; }"
}

status=0
SECONDS=0
enter || status=$?
echo "fresh-machine: $suite: '$command' ended with $status after $SECONDS s"
[[ $keep == yes ]] || rm -rf --one-file-system "$root"
exit "$status"
