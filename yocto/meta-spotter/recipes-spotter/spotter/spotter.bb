SUMMARY = "Finds animals in the video of smart glasses"
DESCRIPTION = "Takes an RTMP stream, decodes it, finds animals in it with a quantized YOLO, and tells of them over MQTT and WebSocket. \
The program, its service and its settings, as the Debian package has them."
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=2d40576a1e2cb702b97c3e9c15eeda82"

# bindgen reads the kernel's headers for the crate v4l.
DEPENDS = "gstreamer1.0 gstreamer1.0-plugins-base clang-native"

inherit cargo pkgconfig systemd useradd spotter-source

SRC_URI = " \
    file://Cargo.toml;subdir=source \
    file://Cargo.lock;subdir=source \
    file://LICENSE;subdir=source \
    file://src;subdir=source \
    file://benches;subdir=source \
    file://docs/spotter.toml;subdir=source \
    file://board/package;subdir=source \
"
require spotter-crates.inc

# Those that have TensorFlow Lite's library.
COMPATIBLE_HOST = "(aarch64|x86_64).*-linux"

CARGO_BUILD_FLAGS:append = " --bin spotter"
# The C of aws-lc is built by the crate cc, not by cmake.
export AWS_LC_SYS_CMAKE_BUILDER = "0"
export LIBCLANG_PATH = "${STAGING_LIBDIR_NATIVE}"
export BINDGEN_EXTRA_CLANG_ARGS
BINDGEN_EXTRA_CLANG_ARGS = "${HOST_CC_ARCH}${TOOLCHAIN_OPTIONS} --target=${TARGET_SYS}"

# The licences of the crates, by the target's usual name: they are those of OE's, and cargo knows it everywhere.
SPOTTER_LICENCES_TARGET = "${TARGET_ARCH}-unknown-linux-gnu"

do_install() {
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/spotter ${D}${bindir}/spotter
    install -D -m 0644 ${S}/docs/spotter.toml ${D}${sysconfdir}/spotter/spotter.toml
    install -D -m 0644 ${S}/board/package/spotter.service ${D}${systemd_system_unitdir}/spotter.service
    install -D -m 0644 ${S}/board/package/60-spotter.rules ${D}${nonarch_base_libdir}/udev/rules.d/60-spotter.rules
    install -D -m 0644 ${S}/board/package/spotter.1 ${D}${mandir}/man1/spotter.1
    install -D -m 0644 ${S}/board/package/copyright ${D}${datadir}/spotter/copyright
    (cd ${S} && python3 board/package/licences.py ${SPOTTER_LICENCES_TARGET} >${D}${datadir}/spotter/THIRD-PARTY.txt)
}

SYSTEMD_SERVICE:${PN} = "spotter.service"
CONFFILES:${PN} = "${sysconfdir}/spotter/spotter.toml"

# The user of board/package/spotter.sysusers, with the number that it has in every image, as the data partition outlives them.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system --gid 900 spotter; --system render"
USERADD_PARAM:${PN} = "--system --uid 900 --gid spotter --groups video,render --home-dir /var/lib/spotter --no-create-home \
    --shell /sbin/nologin --comment 'spotter animal detection' spotter"

# Decoders and encoders in their order are src/decode/elements.rs and docs/boards.md; one that is missing is reported at run time.
SPOTTER_GSTREAMER = " \
    gstreamer1.0-plugins-base-app \
    gstreamer1.0-plugins-base-playback \
    gstreamer1.0-plugins-base-typefindfunctions \
    gstreamer1.0-plugins-base-videoconvertscale \
    gstreamer1.0-plugins-good-isomp4 \
    gstreamer1.0-plugins-good-jpeg \
    gstreamer1.0-plugins-good-matroska \
    gstreamer1.0-plugins-good-video4linux2 \
    gstreamer1.0-plugins-bad-videoparsersbad \
"
# FFmpeg's decoders, where whoever builds accepts what its recipe says of patents: H.264 in software needs them.
SPOTTER_GSTREAMER:append:spotteros = " gstreamer1.0-plugins-bad-v4l2codecs"
SPOTTER_GSTREAMER:append = "${@bb.utils.contains('LICENSE_FLAGS_ACCEPTED', 'commercial', ' gstreamer1.0-libav', '', d)}"
RDEPENDS:${PN} = "spotter-models tensorflow-lite-c ca-certificates ${SPOTTER_GSTREAMER}"

FILES:${PN} += "${datadir}/spotter ${nonarch_base_libdir}/udev ${systemd_system_unitdir}"
