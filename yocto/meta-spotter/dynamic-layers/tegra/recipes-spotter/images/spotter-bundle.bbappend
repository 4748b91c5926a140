# A slot is one root filesystem, with its kernel in it.

RAUC_BUNDLE_SLOTS:tegra = "root"
python () {
    if d.getVar("SPOTTER_BOARD") == "jetson":
        d.setVarFlag("RAUC_SLOT_root", "fstype", "ext4")
}
