# Lets a recipe take files from spotter's own tree, by file://PATH;subdir=source; it fetches nothing from elsewhere.

FILESEXTRAPATHS:prepend := "${SPOTTER_SOURCE}:"
PV = "${SPOTTER_VERSION}"
S = "${UNPACKDIR}/source"
