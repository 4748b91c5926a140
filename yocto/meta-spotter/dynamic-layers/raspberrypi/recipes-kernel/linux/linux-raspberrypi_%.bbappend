# The root filesystem's and RAUC's needs; the decoders are in Raspberry Pi's own configuration.

FILESEXTRAPATHS:prepend:spotteros := "${THISDIR}/../../../../recipes-kernel/linux/files:"
SRC_URI:append:spotteros = " file://spotter.cfg"
