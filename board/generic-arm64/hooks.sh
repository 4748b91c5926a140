# What a 64-bit ARM machine with UEFI wants: GRUB as Debian signed it, which chooses the slot; sourced by build-image.sh.
# shellcheck shell=bash disable=SC2034,SC2154

board_packages() { :; }

board_system() {
    mkdir -p "$OUT/work/efi"
    cp "$ROOT/fetched/usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed" "$OUT/work/efi/grubaa64.efi"
    cp "$ROOT/fetched/usr/lib/shim/shimaa64.efi.signed" "$OUT/work/efi/shimaa64.efi"
    # RAUC calls it by this name.
    mv "$ROOT/usr/bin/grub-editenv" "$ROOT/usr/lib/spotter-image/grub-editenv.debian"
    ln -s ../lib/spotter-image/grub-editenv "$ROOT/usr/bin/grub-editenv"
    # Only its editor of GRUB's variables is needed on the box.
    rm -rf "$ROOT"/usr/share/locale "$ROOT"/usr/bin/grub-{mk*,render-label,fstest,file,glue-efi,syslinux2cfg,script-check} "$ROOT"/etc/grub.d
}

# board_boot_files DIR: kernel and initramfs are there already.
board_boot_files() { echo "set slot_arguments='$KERNEL_ARGUMENTS'" >"$1/slot.cfg"; }

# board_card_files DIR: the firmware starts Microsoft's signed shim, that Debian's signed GRUB, that grub.cfg.
board_card_files() {
    mkdir -p "$1/EFI/BOOT" "$1/EFI/debian"
    cp "$OUT/work/efi/shimaa64.efi" "$1/EFI/BOOT/BOOTAA64.EFI"
    cp "$OUT/work/efi/grubaa64.efi" "$1/EFI/BOOT/grubaa64.efi"
    sed -e "s/@ROOT_A@/$(partition_uuid root-0)/" -e "s/@ROOT_B@/$(partition_uuid root-1)/" generic-arm64/grub.cfg >"$1/EFI/debian/grub.cfg"
    grub_environment "$1/EFI/debian/grubenv"
}

# grub_environment FILE: 1024 bytes, in which GRUB and RAUC change values in place.
grub_environment() {
    {
        printf '# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n'
        printf '#%.0s' {1..1024}
    } | head --bytes=1024 >"$1"
}
