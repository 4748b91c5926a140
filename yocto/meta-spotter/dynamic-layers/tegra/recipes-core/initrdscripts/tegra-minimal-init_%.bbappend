# Jetson's initramfs calls platform-pre-switchroot with the root filesystem at /mnt: the data partition is mounted there.

FILESEXTRAPATHS:prepend:spotteros := "${THISDIR}/files:"
SRC_URI:append:spotteros = " file://platform-pre-switchroot"
RDEPENDS:${PN}:append:spotteros = " spotter-box-initramfs"

do_install:append:spotteros() {
    install -m 0644 ${UNPACKDIR}/platform-pre-switchroot ${D}${sysconfdir}/platform-pre-switchroot
}
