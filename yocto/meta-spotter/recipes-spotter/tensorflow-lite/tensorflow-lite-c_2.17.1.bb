SUMMARY = "TensorFlow Lite's C library with XNNPACK, as PyPI has it"
DESCRIPTION = "The library that setup.sh fetches and the Debian package carries, out of the same wheel. Building it from source takes Bazel, \
which OpenEmbedded has not; spotter opens it at run time, so one of your own can take its place."
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://pymicro_wakeword-2.5.0.dist-info/licenses/LICENSE;md5=86d3f3a95c324c9479bd8986968f4327"

# Only these two have a wheel.
COMPATIBLE_HOST = "(aarch64|x86_64).*-linux"

WHEEL = "pymicro_wakeword-2.5.0-py3-none-manylinux_2_35_${TARGET_ARCH}.whl"
SRC_URI = "https://files.pythonhosted.org/packages/py3/p/pymicro-wakeword/${WHEEL};name=${TARGET_ARCH}"
SRC_URI[x86_64.sha256sum] = "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c"
SRC_URI[aarch64.sha256sum] = "6c75b77c936efd19b8c35a094cb7e3fdbd4ebcd0f63635a0851ce591990829f2"

S = "${UNPACKDIR}"

# BitBake takes no wheel for the zip archive that it is.
python do_unpack:append() {
    import zipfile
    with zipfile.ZipFile(d.expand("${UNPACKDIR}/${WHEEL}")) as wheel:
        wheel.extractall(d.getVar("UNPACKDIR"))
}

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0644 ${S}/pymicro_wakeword/lib/libtensorflowlite_c.so ${D}${nonarch_libdir}/spotter/libtensorflowlite_c.so
}

FILES:${PN} = "${nonarch_libdir}/spotter"
# Nobody links to it, and it is stripped as it comes.
PRIVATE_LIBS:${PN} = "libtensorflowlite_c.so"
INSANE_SKIP:${PN} = "already-stripped"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_SYSROOT_STRIP = "1"
