# What the Raspberry Pi's firmware reads from a slot. It chooses the slot itself (autoboot.txt, tryboot), so there is no U-Boot.

SPOTTER_BOOT_DEPENDS:append:rpi = " rpi-bootfiles:do_deploy"
# start4.elf is for the Pi 4; the Pi 5 has its firmware in its EEPROM.
SPOTTER_FIRMWARE_FILES:rpi = "${BOOTFILES_DIR_NAME}/start4.elf ${BOOTFILES_DIR_NAME}/fixup4.dat ${SPOTTER_DEVICE_TREES}"
SPOTTER_DEVICE_TREES = "${@' '.join(os.path.basename(f) for f in (d.getVar('RPI_KERNEL_DEVICETREE') or '').split())}"
SPOTTER_KERNEL_ARGUMENTS:rpi = "console=tty0 console=serial0,115200"
