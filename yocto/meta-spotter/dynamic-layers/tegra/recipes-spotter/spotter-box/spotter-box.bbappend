# NVIDIA's partitions, and its tool to choose the slot.

FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI:append:tegra = " file://jetson.sh file://boot-slots"
SPOTTER_LAY_OUT:tegra = "${UNPACKDIR}/jetson.sh"
RDEPENDS:${PN}:append:tegra = " tegra-redundant-boot setup-nv-boot-control"
# Jetson's initramfs has one of its own instead of OE-core's framework.
RDEPENDS:${PN}-initramfs:tegra = "e2fsprogs-e2fsck e2fsprogs-mke2fs util-linux-blkid util-linux-mount"
