SUMMARY = "An update for boxes with spotter-image: both halves of a slot in one signed file"
LICENSE = "MIT"

inherit bundle spotter-board

# The signature is yours: RAUC_KEY_FILE and RAUC_CERT_FILE, which meta-rauc asks for.
RAUC_BUNDLE_COMPATIBLE = "${SPOTTER_COMPATIBLE}"
RAUC_BUNDLE_VERSION = "${PV}"
RAUC_BUNDLE_FORMAT = "verity"
# The boot half last, so that a slot that can be started is always one that is complete.
RAUC_BUNDLE_SLOTS = "root boot"

RAUC_SLOT_root = "spotter-image"
RAUC_SLOT_root[fstype] = "squashfs-zst"
RAUC_SLOT_root[rename] = "root.img"

RAUC_SLOT_boot = "spotter-boot"
RAUC_SLOT_boot[type] = "file"
RAUC_SLOT_boot[file] = "spotter-boot.vfat"
RAUC_SLOT_boot[rename] = "boot.img"

S = "${UNPACKDIR}"
