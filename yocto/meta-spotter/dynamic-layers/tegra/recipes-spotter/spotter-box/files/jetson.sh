# A Jetson Orin Nano's lay-out, by the partitions that NVIDIA's redundant flash layout makes; sourced by lay-out.sh.
#
# APP and APP_b are the slots, each with its kernel in /boot; UDA is the data partition; esp is the card. There are no boot halves.
# shellcheck shell=bash disable=SC2034
BOARD=jetson
COMPATIBLE=spotter-jetson
BOOTLOADER=nvbootctrl
READY_WITHIN_S=180

partition_label() {
    case $1 in
    card) echo esp ;;
    root-0) echo APP ;;
    root-1) echo APP_b ;;
    data) echo UDA ;;
    boot-*) echo none ;;
    esac
}
partition() { echo "PARTLABEL=$(partition_label "$1")"; }
partition_device() { echo "/dev/disk/by-partlabel/$(partition_label "$1")"; }

# board_lay_out ROOT: what the common functions know no better.
board_lay_out() {
    local root=$1 over=$1/usr/share/spotter-image/over
    # Slots without a boot half.
    sed -i '/^\[slot\.boot\./,/^$/d' "$root/etc/rauc/system.conf"
    # meta-tegra mounts the esp itself, at ESPMOUNT.
    sed -i '/\/boot\/firmware/d' "$over/etc/fstab"
    # The initramfs has no udev: it finds partitions by blkid.
    sed -i "s|^DATA=.*|DATA=\$(blkid -t PARTLABEL=UDA -o device \| head -n 1)|" "$root/usr/lib/spotter-image/board.conf"
    # nvbootctrl's description of the board, written once.
    mkdir -p "$over/var/lib/spotter-image"
    ln -s /var/lib/spotter-image/nv_boot_control.conf "$over/etc/nv_boot_control.conf"
    install -m 755 "$here/boot-slots" "$root/usr/lib/spotter-image/boot-slots"
    # The kernel's arguments do not name the slot.
    cat >>"$root/usr/lib/spotter-image/trial.sh" <<'TEXT'

booted() { /usr/lib/spotter-image/boot-slots get-current; }
TEXT
    mkdir -p "$root/etc/systemd/system/spotter-ready.service.d"
    printf '[Unit]\nConditionKernelCommandLine=\n' >"$root/etc/systemd/system/spotter-ready.service.d/jetson.conf"
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
