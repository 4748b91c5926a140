# Says which folder of board/ tells how this machine starts; what is done with it is the recipes' matter. Machines without one have no
# image: their recipes are skipped, and spotter itself can be built for them all the same.

inherit spotter-source

SPOTTER_BOARD ??= ""
SPOTTER_BOARD:qemuarm64 = "generic-arm64"
SPOTTER_BOARD:genericarm64 = "generic-arm64"
SPOTTER_BOARD:raspberrypi4-64 = "rpi"
SPOTTER_BOARD:raspberrypi5 = "rpi"
SPOTTER_BOARD:orin-nano = "jetson"

# By this a box knows bundles that are for it: COMPATIBLE in board/*/meta and in files/jetson.sh.
SPOTTER_COMPATIBLE = "spotter-${SPOTTER_BOARD}"

PACKAGE_ARCH = "${MACHINE_ARCH}"

python () {
    if not d.getVar("SPOTTER_BOARD"):
        raise bb.parse.SkipRecipe("spotter has no image for the machine %s; SPOTTER_BOARD names a folder of board/" % d.getVar("MACHINE"))
}
