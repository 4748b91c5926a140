#!/usr/bin/env bash
# Lays a box's files out by the functions that lay out those of the SD images; it enables and starts nothing.
#
# usage: lay-out.sh SOURCE BOARD ROOT VERSION KEYRING [MORE]
#
# What lies over files of other packages (fstab, links from /etc into the data partition) goes to ROOT/usr/share/spotter-image/over,
# from where the image takes it. MORE is sourced where the board's own folder has no meta.
# shellcheck disable=SC1090,SC1091,SC2034,SC2154
set -euo pipefail

root=$3 VERSION=$4 KEYRING=$5 more=${6:-}
cd "$1/board"
. image/common.sh
. image/disk.sh
. image/system.sh
if [[ -n $more ]]; then
    . "$more"
else
    read_board "$2"
fi

mkdir -p "$root/usr/lib/systemd/system"
cp -r --no-preserve=ownership image/rootfs/. "$root/"
[[ ! -d $BOARD/rootfs ]] || cp -r --no-preserve=ownership "$BOARD/rootfs/." "$root/"
chmod 755 "$root"/usr/lib/spotter-image/*
install -m 644 systemd/spotter-*.{service,path} "$root/usr/lib/systemd/system/"

# The same scripts without initramfs-tools; modules-load.d names a module that Debian's kernel needs.
scripts=$root/usr/share/initramfs-tools/scripts
mkdir -p "$root/usr/lib/spotter-image/initramfs"
mv "$scripts/local-premount/spotter" "$root/usr/lib/spotter-image/initramfs/grow"
mv "$scripts/local-bottom/spotter" "$root/usr/lib/spotter-image/initramfs/mount"
rm -rf "$root/usr/share/initramfs-tools" "$root/etc/initramfs-tools" "$root/etc/modules-load.d"
mv "$root/etc/systemd/system/ssh.service.d" "$root/etc/systemd/system/sshd.service.d"

ROOT=$root/usr/share/spotter-image/over
mkdir -p "$ROOT/etc" "$ROOT/usr/lib/spotter-image"
: >"$ROOT/usr/lib/os-release"
write_configuration
links_into_data
mv "$ROOT/usr/lib/spotter-image/board.conf" "$root/usr/lib/spotter-image/"
mv "$ROOT/etc/rauc" "$root/etc/"
if declare -F board_lay_out >/dev/null; then board_lay_out "$root"; fi
