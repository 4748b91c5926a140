# NVIDIA's decoder, its scaler, and the leave to open their devices.

FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI:append:tegra = " file://jetson.conf"
RDEPENDS:${PN}:append:tegra = " gstreamer1.0-plugins-nvvideo4linux2 gstreamer1.0-plugins-nvvidconv"

do_install:append:tegra() {
    install -D -m 0644 ${UNPACKDIR}/jetson.conf ${D}${systemd_system_unitdir}/spotter.service.d/jetson.conf
}
PACKAGE_ARCH:tegra = "${TEGRA_PKGARCH}"
