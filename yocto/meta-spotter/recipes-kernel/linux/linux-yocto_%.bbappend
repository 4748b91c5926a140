# What the image needs of a kernel that is configured for no board in particular.

FILESEXTRAPATHS:prepend:spotter := "${THISDIR}/files:"
SRC_URI:append:spotter = " file://spotter.cfg"
