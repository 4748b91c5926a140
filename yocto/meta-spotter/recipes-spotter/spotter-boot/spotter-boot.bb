SUMMARY = "The FAT partitions of an image: the card's own, and the one that starts a slot"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=2d40576a1e2cb702b97c3e9c15eeda82"

inherit deploy nopackages spotter-board

SRC_URI = " \
    file://LICENSE;subdir=source \
    file://board;subdir=source \
    file://docs/spotter.toml;subdir=source \
    file://make-boot.sh \
"

INHIBIT_DEFAULT_DEPS = "1"
DEPENDS = "dosfstools-native mtools-native"
do_configure[noexec] = "1"
do_install[noexec] = "1"

# What this machine's firmware or boot loader is given beside kernel and initramfs. A board's bbappend may add to it.
SPOTTER_BOOT_DEPENDS = "virtual/kernel:do_deploy spotter-initramfs:do_image_complete"
SPOTTER_BOOT_DEPENDS:append:qemuarm64 = " grub-efi:do_deploy"
SPOTTER_BOOT_DEPENDS:append:genericarm64 = " grub-efi:do_deploy"
SPOTTER_FIRMWARE_FILES = ""
SPOTTER_KERNEL_ARGUMENTS ?= "console=tty0 console=ttyAMA0"

do_compile[depends] += "${SPOTTER_BOOT_DEPENDS}"
do_compile[cleandirs] = "${B}"
do_compile() {
    mkdir -p ${B}/boot ${B}/work/firmware
    cp -L ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} ${B}/boot/vmlinuz
    cp -L ${DEPLOY_DIR_IMAGE}/spotter-initramfs-${MACHINE}.cpio.gz ${B}/boot/initrd.img
    for file in ${SPOTTER_FIRMWARE_FILES}; do
        cp -L ${DEPLOY_DIR_IMAGE}/$file ${B}/work/firmware/
    done
    [ ! -e ${DEPLOY_DIR_IMAGE}/grub-efi-bootaa64.efi ] || cp -L ${DEPLOY_DIR_IMAGE}/grub-efi-bootaa64.efi ${B}/work/
    bash ${UNPACKDIR}/make-boot.sh ${S} ${SPOTTER_BOARD} ${B} "${SPOTTER_KERNEL_ARGUMENTS}"
}

do_deploy() {
    install -m 0644 ${B}/spotter-boot.vfat ${B}/spotter-card.vfat ${DEPLOYDIR}/
}
addtask deploy after do_compile before do_build
