SUMMARY = "A box with spotter: read-only system in two slots, updated by RAUC, and a data partition"
LICENSE = "MIT"

inherit core-image spotter-board

IMAGE_FEATURES += "read-only-rootfs"
# Whoever has a key in spotter.toml may log in; there is no password.
IMAGE_INSTALL = "packagegroup-core-boot spotter spotter-box kernel-modules"
# spotter-ready.service says what is good, and only when spotter is ready.
BAD_RECOMMENDATIONS += "rauc-mark-good"
IMAGE_LINGUAS = ""

IMAGE_FSTYPES = "squashfs-zst wic.zst wic.bmap"
# Kernel and initramfs are in spotter-boot's partitions.
WKS_FILE = "spotter-gpt.wks.in"
WKS_FILE:rpi = "spotter-mbr.wks.in"
WKS_FILE_DEPENDS = "wic-native bmaptool-native e2fsprogs-native"
SPOTTER_WIC_DEPENDS = "${@'spotter-boot:do_deploy' if 'wic' in d.getVar('IMAGE_FSTYPES') else ''}"
do_image_wic[depends] += "${SPOTTER_WIC_DEPENDS}"
IMAGE_TYPEDEP:wic = "squashfs-zst"

# Last of all: spotter-box's files over those of other packages, and /var as what the data partition is filled from.
spotter_over() {
    over=${IMAGE_ROOTFS}${datadir}/spotter-image/over
    cat $over${nonarch_libdir}/os-release >>${IMAGE_ROOTFS}${nonarch_libdir}/os-release
    rm -r $over${nonarch_libdir}
    cp -a --remove-destination $over/. ${IMAGE_ROOTFS}/
    rm -r $over
    rm -f ${IMAGE_ROOTFS}${sysconfdir}/hostname
    install -d ${IMAGE_ROOTFS}/boot/firmware
    # The only host key is the one on the data partition.
    ln -sf /dev/null ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/sshdgenkeys.service
    # An editor of GRUB's variables that a power cut does not harm takes the name of GRUB's own: see board/generic-arm64.
    if [ -e ${IMAGE_ROOTFS}${nonarch_libdir}/spotter-image/grub-editenv ]; then
        mv ${IMAGE_ROOTFS}${bindir}/grub-editenv ${IMAGE_ROOTFS}${nonarch_libdir}/spotter-image/grub-editenv.debian
        ln -s ../lib/spotter-image/grub-editenv ${IMAGE_ROOTFS}${bindir}/grub-editenv
    fi
    install -d ${IMAGE_ROOTFS}${datadir}/factory
    rm -rf ${IMAGE_ROOTFS}${datadir}/factory/var
    mv ${IMAGE_ROOTFS}${localstatedir} ${IMAGE_ROOTFS}${datadir}/factory/var
    install -d ${IMAGE_ROOTFS}${localstatedir}
}
IMAGE_PREPROCESS_COMMAND += "spotter_over"
