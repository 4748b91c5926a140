#!/usr/bin/env bash
# Makes the FAT partitions by the functions that make those of the SD images; it makes no disk.
#
# usage: make-boot.sh SOURCE BOARD DIR ARGUMENTS
#
# DIR has boot/vmlinuz and boot/initrd.img, work/firmware/ or work/grub-efi-bootaa64.efi; spotter-boot.vfat and spotter-card.vfat
# are put there. ARGUMENTS are the kernel's, beside those that the slot takes.
# shellcheck disable=SC1091,SC2034,SC2154
set -euo pipefail

OUT=$3 arguments=$4
cd "$1/board"
. image/common.sh
. image/disk.sh
read_board "$2"
. "$BOARD/hooks.sh"
KERNEL_ARGUMENTS=$arguments

board_boot_files "$OUT/boot"
fat "$OUT/spotter-boot.vfat" "$BOOT_MIB" BOOT "$OUT/boot"

card=$OUT/card
rm -rf "$card"
mkdir -p "$card"
cp ../docs/spotter.toml "$card/spotter.toml.example"
cp image/card-readme.txt "$card/README.txt"
if [[ $BOOTLOADER == grub ]]; then
    # OE's GRUB is not Debian's signed one: it reads its configuration from another place, and no shim comes before it.
    mkdir -p "$OUT/work/efi"
    cp "$OUT/work/grub-efi-bootaa64.efi" "$OUT/work/efi/shimaa64.efi"
    cp "$OUT/work/grub-efi-bootaa64.efi" "$OUT/work/efi/grubaa64.efi"
    board_card_files "$card"
    rm "$card/EFI/BOOT/grubaa64.efi"
    mv "$card/EFI/debian/grub.cfg" "$card/EFI/BOOT/grub.cfg"
else
    board_card_files "$card"
fi
fat "$OUT/spotter-card.vfat" "$CARD_MIB" SPOTTER "$card"
