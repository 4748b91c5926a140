# Jetson's initramfs calls platform-pre-switchroot with the root filesystem at /mnt: the data partition is mounted there.

FILESEXTRAPATHS:prepend:spotter := "${THISDIR}/files:"
SRC_URI:append:spotter = " file://platform-pre-switchroot"
RDEPENDS:${PN}:append:spotter = " spotter-box-initramfs"

do_install:append:spotter() {
    install -m 0644 ${UNPACKDIR}/platform-pre-switchroot ${D}${sysconfdir}/platform-pre-switchroot
}
