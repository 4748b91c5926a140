# What a Raspberry Pi wants: its firmware's files, and the module that hands the tryboot flag on; sourced by build-image.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# board_packages: with the kernel come its headers, in a system that is thrown away, to build the module for this very kernel.
board_packages() {
    local system=$ROOT scratch release
    # Raspberry Pi's own kernel hands the flag on by itself.
    [[ -n $BACKPORTS ]] || return 0
    release=$(basename "$ROOT"/lib/modules/*)
    say "building the tryboot module for $release (some minutes, emulated)"
    scratch=$(mktemp --directory "$OUT/scratch.XXXXXX")
    mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
    leave_system
    mount -t overlay -o "lowerdir=$system,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
    ROOT=$scratch/root
    cp -r rpi/tryboot "$ROOT/tmp/tryboot"
    # The compiler that comes with the headers does without an assembler of its own, and says nothing.
    quietly apt_in_system install -t "$SUITES" binutils make "linux-headers-$release"
    quietly in_system make -C "/lib/modules/$release/build" M=/tmp/tryboot modules
    leave_system
    ROOT=$system
    install -D -m 644 "$scratch/root/tmp/tryboot/spotter-tryboot.ko" "$ROOT/lib/modules/$release/updates/spotter-tryboot.ko"
    umount "$scratch/root"
    rm -rf --one-file-system "$scratch"
    in_system depmod "$release"
}

board_system() {
    local release trees
    release=$(basename "$ROOT"/lib/modules/*)
    mkdir -p "$OUT/work/firmware"
    cp "$ROOT"/fetched/usr/lib/raspi-firmware/{start4.elf,fixup4.dat} "$OUT/work/firmware/"
    # Debian's newer kernels have them beside their modules.
    for trees in "$ROOT/lib/modules/$release/dtb" "$ROOT/usr/lib/linux-image-$release"; do
        [[ -d $trees ]] || continue
        cp "$trees"/broadcom/bcm271{1,2}-*.dtb "$OUT/work/firmware/"
        rm -rf "$trees"
    done
    [[ -e $OUT/work/firmware/bcm2711-rpi-4-b.dtb ]] || die "the kernel $release has no device tree for the Raspberry Pi 4"
    [[ -n $BACKPORTS ]] || rm "$ROOT/etc/modules-load.d/spotter.conf"
}

# board_boot_files DIR: what the firmware reads from a slot; the bundle's hook changes the slot's name in cmdline.txt.
board_boot_files() {
    cp "$OUT"/work/firmware/* rpi/config.txt "$1/"
    echo "root=$(partition root-0) rootfstype=squashfs ro rauc.slot=A panic=10 net.ifnames=0 quiet loglevel=4 $KERNEL_ARGUMENTS" >"$1/cmdline.txt"
}

board_card_files() { cp rpi/autoboot.txt "$1/"; }
