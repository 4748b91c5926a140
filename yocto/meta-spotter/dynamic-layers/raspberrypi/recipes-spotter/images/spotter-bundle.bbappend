# Both slots are written from one picture: the hook tells the kernel which it is in.

FILESEXTRAPATHS:prepend := "${SPOTTER_SOURCE}/board/rpi:"
SRC_URI:append:rpi = " file://bundle-hook"

python () {
    if d.getVar("SPOTTER_BOARD") == "rpi":
        d.setVarFlag("RAUC_BUNDLE_HOOKS", "file", "bundle-hook")
        d.setVarFlag("RAUC_SLOT_boot", "hooks", "post-install")
}
