# What is tried of the Raspberry Pi's image without a Raspberry Pi; sourced by test-image.sh.
#
# QEMU has no Raspberry Pi firmware: which slot starts is the firmware's choice, and is not tried here. What the firmware reads is
# looked at, what RAUC tells it is tried on files, and the kernel with its initramfs and the system is started in `raspi4b`.
# shellcheck shell=bash disable=SC2034,SC2154

# partition N: offset and size of a partition of $image in bytes.
extent() { sfdisk --json "$image" | python3 -c 'import json, sys
p = json.load(sys.stdin)["partitiontable"]["partitions"][int(sys.argv[1]) - 1]
print(p["start"] * 512, p["size"] * 512)' "$1"; }
# on_partition N: the argument that tells mtools where that FAT lies.
on_partition() { echo "$image@@$(extent "$1" | cut -d' ' -f1)"; }
has_file() { mdir -b -i "$(on_partition "$1")" "::/$2"; }
text_of() { mtype -i "$(on_partition "$1")" "::/$2" | tr -d '\r'; }

partitions_and_files() {
    local name layout
    layout=$(sfdisk --dump "$image")
    check "the partition table is MBR with the id that all boxes have" grep -q 'label-id: 0x53504f54' <<<"$layout"
    # The slots that the firmware can start are primary partitions: it takes no others on every board.
    check "three FAT partitions come first" test "$(grep -cE 'img[123] :.*type=c' <<<"$layout")" = 3
    check "the systems and the data are in an extended partition" test "$(grep -cE 'img[567] :.*type=83' <<<"$layout")" = 3
    check "autoboot.txt starts slot A and tries slot B" test "$(text_of 1 autoboot.txt | paste -sd' ')" = "[all] tryboot_a_b=1 boot_partition=2 [tryboot] boot_partition=3"
    for name in config.txt cmdline.txt vmlinuz initrd.img start4.elf fixup4.dat bcm2711-rpi-4-b.dtb bcm2712-rpi-5-b.dtb; do
        check "slot A has $name" has_file 2 $name
    done
    for name in $(text_of 2 config.txt | sed -nE 's/^(kernel|cmdline)=//p; s/^initramfs ([^ ]*).*/\1/p'); do
        check "config.txt names $name, which is there" has_file 2 "$name"
    done
    check "slot A's command line names slot A" grep -q 'root=PARTUUID=53504f54-05 .*rauc.slot=A' <(text_of 2 cmdline.txt)
    check "the owner finds an example to edit" has_file 1 spotter.toml.example
    check "and one for the app for MentraOS" has_file 1 mentra-app.env.example
}

# What RAUC's backend says and writes, on files, through an update that works and one that does not.
slots() {
    local dir=$WORK/slots
    mkdir -p "$dir"
    cp rpi/autoboot.txt "$dir/autoboot.txt"
    truncate --size=0 "$dir/parameter"
    : >"$dir/cmdline"
    backend() {
        sed -e "s|^\. .*|booted() { cat $dir/booted; }|" rpi/rootfs/usr/lib/spotter-image/boot-slots |
            SPOTTER_AUTOBOOT=$dir/autoboot.txt SPOTTER_SLOTS=$dir SPOTTER_REBOOT_PARAMETER=$dir/parameter SPOTTER_WITH_CARD='' sh -s -- "$@"
    }
    echo A >"$dir/booted"
    rm -f "$dir/parameter"
    check "at first A starts" test "$(backend get-primary)" = A
    backend set-state B bad
    check "a slot being written counts as bad" test "$(backend get-state B)" = bad
    backend set-primary B
    check "an update is to be tried" test "$(backend get-primary) $(backend get-state B) $(cat "$dir/parameter")" = "B good 0 tryboot"
    check "and until it is good, autoboot.txt names the old one" cmp -s rpi/autoboot.txt "$dir/autoboot.txt"
    backend set-state B bad
    check "an update that was not good is forgotten" test "$(backend get-primary) $(ls "$dir/parameter" 2>/dev/null)" = "A "
    backend set-primary B
    rm "$dir/parameter"
    backend again B
    check "after a power cut before the restart it is to be tried again" test "$(cat "$dir/parameter")" = "0 tryboot"
    echo B >"$dir/booted"
    backend set-state B good
    check "an update that is good is what starts from now on" test "$(backend get-primary) $(grep -c . "$dir/autoboot.txt") $(sed -n 3p "$dir/autoboot.txt")" = "B 5 boot_partition=3"
    check "and autoboot.txt is as long as it was" test "$(stat -c %s "$dir/autoboot.txt")" = "$(stat -c %s rpi/autoboot.txt)"
}

# The bundle's hook, on a copy of the slot's command line.
hook() {
    mkdir -p "$WORK/slot"
    text_of 2 cmdline.txt >"$WORK/slot/cmdline.txt"
    RAUC_SLOT_NAME=boot.1 RAUC_SLOT_MOUNT_POINT=$WORK/slot sh rpi/bundle-hook slot-post-install
    check "an update for slot B is told so" grep -q 'root=PARTUUID=53504f54-06 .*rauc.slot=B' "$WORK/slot/cmdline.txt"
}

# What QEMU has not got is left out: two drivers that would read registers which are not there, and turning unused clocks off. The
# console is the kernel's early one: the mini UART's interrupts do not come, and Bluetooth has the other UART.
emulated_arguments() {
    sed -e 's/console=[^ ]*//g; s/quiet loglevel=4/loglevel=7/' <<<"$1"
    echo "earlycon=pl011,mmio32,0xfe201000 keep_bootcon clk_ignore_unused"
    echo "initcall_blacklist=brcmstb_l2_driver_init,brcmstb_i2c_driver_init"
}

on_console() { grep -aqE "$1" "$SERIAL"; }

in_qemu() {
    local name
    if ! qemu-system-aarch64 -machine help | grep -q '^raspi4b'; then
        skip "the kernel was not started: this QEMU has no raspi4b; ./setup.sh --image installs one that has"
        return
    fi
    cp --sparse=always "$image" "$DISK"
    # QEMU's card reader takes powers of two.
    truncate --size=4G "$DISK"
    for name in vmlinuz initrd.img bcm2711-rpi-4-b.dtb; do mcopy -n -i "$(on_partition 2)" "::/$name" "$WORK/$name"; done
    SERIAL=$WORK/serial
    qemu-system-aarch64 -machine raspi4b -nodefaults -display none -kernel "$WORK/vmlinuz" -initrd "$WORK/initrd.img" \
        -dtb "$WORK/bcm2711-rpi-4-b.dtb" -append "$(emulated_arguments "$(text_of 2 cmdline.txt)" | paste -sd' ')" \
        -drive if=sd,format=raw,file="$DISK" -serial "file:$SERIAL" -d unimp,guest_errors -D "$WORK/qemu.log" -no-reboot &
    VM_PID=$!
    wait_for 600 "raspi4b: the kernel runs on a Raspberry Pi 4 Model B" on_console 'Machine model: Raspberry Pi 4'
    ok "the kernel starts in raspi4b"
    wait_for 600 "raspi4b: the initramfs runs" on_console 'Run /init as init process|Loading, please wait'
    ok "so does the initramfs"
}

# The module of ours, in the image's kernel with nothing else: QEMU's firmware has a temperature and throttles nothing.
module() {
    local file tree=$WORK/module from=$WORK/system
    if ! qemu-system-aarch64 -machine help | grep -q '^raspi4b' || [[ ! -e $OUT/work/root.img ]]; then
        skip "the module was not loaded: no raspi4b in this QEMU, or no $OUT/work/root.img"
        return
    fi
    unsquashfs -quiet -no-progress -dest "$from" "$OUT/work/root.img" usr/bin/busybox usr/lib/ld-linux-aarch64.so.1 \
        usr/lib/aarch64-linux-gnu usr/lib/modules >/dev/null
    mkdir -p "$tree"/{bin,proc,sys,dev,lib/aarch64-linux-gnu}
    cp "$from/usr/bin/busybox" "$tree/bin/"
    ln -s busybox "$tree/bin/sh"
    cp "$from/usr/lib/ld-linux-aarch64.so.1" "$tree/lib/"
    for file in libc.so.6 libresolv.so.2; do cp -L "$from/usr/lib/aarch64-linux-gnu/$file" "$tree/lib/aarch64-linux-gnu/"; done
    cp "$from"/usr/lib/modules/*/updates/spotter-tryboot.ko "$tree/"
    rm -rf "$from"
    cat >"$tree/init" <<'TEXT'
#!/bin/sh
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
exec >/dev/kmsg 2>&1
busybox insmod /spotter-tryboot.ko
echo "module: throttled $(busybox cat /sys/devices/platform/spotter-firmware/get_throttled)"
for zone in /sys/class/thermal/thermal_zone*; do echo "module: zone $(busybox cat $zone/type) $(busybox cat $zone/temp)"; done
busybox rmmod spotter_tryboot && busybox insmod /spotter-tryboot.ko && echo "module: again"
busybox sleep 1000
TEXT
    # /dev/kmsg is there before anything is mounted.
    chmod 755 "$tree/init"
    mknod --mode=600 "$tree/dev/kmsg" c 1 11
    (cd "$tree" && find . | cpio --quiet --create --format=newc | gzip -1) >"$WORK/module.img"
    cut_power
    SERIAL=$WORK/serial.module
    qemu-system-aarch64 -machine raspi4b -nodefaults -display none -kernel "$WORK/vmlinuz" -initrd "$WORK/module.img" \
        -dtb "$WORK/bcm2711-rpi-4-b.dtb" -append "console=tty0 loglevel=7 $(emulated_arguments '' | paste -sd' '),bcm2835aux_serial_driver_init" \
        -serial "file:$SERIAL" -no-reboot 2>"$WORK/qemu.log" &
    VM_PID=$!
    wait_for 300 "raspi4b: our module was loaded, unloaded and loaded" on_console 'module: again'
    check "it tells what slows the processor" on_console 'module: throttled [0-9a-f]+'
    check "and the firmware's temperature" on_console 'module: zone rpi-firmware [0-9]+'
}

run_test() {
    partitions_and_files
    slots
    hook
    in_qemu
    module
}
