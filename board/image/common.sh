# What building and testing an image share: messages, and reading a board's folder; sourced.
# shellcheck shell=bash disable=SC2034,SC2154

say() { printf 'image: %s\n' "$*" >&2; }
die() {
    printf 'image: %s\n' "$*" >&2
    exit 1
}

# quietly COMMAND...: shows its output only when it fails.
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

# listed FILE: the words in FILE, comments left out.
listed() { sed -e 's/#.*//' -e 's/ *$//' -e '/^$/d' "$1"; }

# read_board NAME: a board is a folder with a file meta, in which its other names stand too. Sets BOARD and what meta says.
read_board() {
    local meta
    for meta in */meta; do
        NAME='' ALIASES='' COMPATIBLE='' BOOTLOADER='' PARTITION_TABLE='' PACKAGES='' SUITES='' BACKPORTS='' FETCH='' KERNEL_ARGUMENTS=''
        # shellcheck source=generic-arm64/meta
        source "$meta"
        BOARD=${meta%/meta}
        [[ " $BOARD $ALIASES " != *" $1 "* ]] || return 0
    done
    die "there is no board $1; there are: $(printf '%s\n' */meta | sed 's|/meta||' | paste -sd' ')"
}
