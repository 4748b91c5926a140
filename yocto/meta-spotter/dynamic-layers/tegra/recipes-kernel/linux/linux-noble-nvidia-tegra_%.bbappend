# RAUC's needs and cameras.

FILESEXTRAPATHS:prepend:spotter := "${THISDIR}/../../../../recipes-kernel/linux/files:"
SRC_URI:append:spotter = " file://spotter.cfg"
