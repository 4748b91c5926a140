SUMMARY = "What makes a box of a board with spotter: set-up, updates, network, and the choice of slot"
DESCRIPTION = "The units of board/systemd and the files of board/image/rootfs, laid out as in the SD images."
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=2d40576a1e2cb702b97c3e9c15eeda82"

inherit systemd spotter-board

SRC_URI = " \
    file://LICENSE;subdir=source \
    file://board;subdir=source \
    file://lay-out.sh \
    file://sshd.conf \
    file://spotter-initramfs \
"

INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

# The certificate that boxes trust for updates: yours. board/README has no key of anybody's.
RAUC_KEYRING_FILE ??= ""
do_install[file-checksums] += "${@d.getVar('RAUC_KEYRING_FILE') + ':True' if os.path.isabs(d.getVar('RAUC_KEYRING_FILE')) else ''}"
# More functions for the lay-out, from a board that has no folder in board/.
SPOTTER_LAY_OUT ?= ""

do_install() {
    if [ ! -f "${RAUC_KEYRING_FILE}" ]; then
        bbfatal "RAUC_KEYRING_FILE is to name the certificate that boxes trust for updates, by its whole path; README says how to make one"
    fi
    bash ${UNPACKDIR}/lay-out.sh ${S} ${SPOTTER_BOARD} ${D} ${PV} ${RAUC_KEYRING_FILE} ${SPOTTER_LAY_OUT}
    install -D -m 0644 ${UNPACKDIR}/sshd.conf ${D}${sysconfdir}/systemd/system/sshd.service.d/openembedded.conf
    install -D -m 0755 ${UNPACKDIR}/spotter-initramfs ${D}/init.d/50-spottergrow
    ln -s 50-spottergrow ${D}/init.d/95-spottermount
    install -D -m 0644 ${D}${nonarch_libdir}/spotter-image/board.conf ${D}${sysconfdir}/spotter-board.conf
    chown -R root:root ${D}
}

PACKAGES =+ "${PN}-rauc ${PN}-initramfs"
SYSTEMD_SERVICE:${PN} = " \
    spotter-setup.service spotter-wifi.path spotter-update.path spotter-describe.service \
    spotter-console.service spotter-console.path \
    spotter-started.service spotter-ready.service spotter-reboot.service spotter-network.timer \
"

FILES:${PN}-rauc = "${sysconfdir}/rauc"
RPROVIDES:${PN}-rauc = "virtual-rauc-conf"

FILES:${PN}-initramfs = "/init.d ${nonarch_libdir}/spotter-image/initramfs ${sysconfdir}/spotter-board.conf"
RDEPENDS:${PN}-initramfs = " \
    initramfs-framework-base e2fsprogs-e2fsck util-linux-findfs util-linux-mount util-linux-partx util-linux-sfdisk \
"

# The drivers that the SD images' initramfs has, where they are modules.
RRECOMMENDS:${PN}-initramfs = "${@initramfs_modules(d)}"
def initramfs_modules(d):
    path = d.expand("${SPOTTER_SOURCE}/board/${SPOTTER_BOARD}/rootfs/etc/initramfs-tools/modules")
    bb.parse.mark_dependency(d, path)
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        names = [line.strip().replace("_", "-") for line in file if line.strip() and not line.startswith("#")]
    return " ".join("kernel-module-" + name for name in names)

FILES:${PN} += "${nonarch_libdir} ${sysconfdir} ${datadir} ${systemd_system_unitdir}"
# What its scripts call.
RDEPENDS:${PN} = " \
    ${PN}-rauc spotter rauc rauc-service \
    coreutils iproute2-ip iw openssh-keygen openssh-sshd tzdata-core util-linux-agetty util-linux-findfs util-linux-flock \
    util-linux-mount wireless-regdb-static wpa-supplicant \
"
