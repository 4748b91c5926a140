# RAUC's needs and cameras.

FILESEXTRAPATHS:prepend:spotteros := "${THISDIR}/../../../../recipes-kernel/linux/files:"
SRC_URI:append:spotteros = " file://spotter.cfg"
