# What the image needs of a kernel that is configured for no board in particular.

FILESEXTRAPATHS:prepend:spotteros := "${THISDIR}/files:"
SRC_URI:append:spotteros = " file://spotter.cfg"
