# The root filesystem's and RAUC's needs; the decoders are in Raspberry Pi's own configuration.

FILESEXTRAPATHS:prepend:spotter := "${THISDIR}/../../../../recipes-kernel/linux/files:"
SRC_URI:append:spotter = " file://spotter.cfg"
