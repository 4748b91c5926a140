SUMMARY = "spotter's quantized detectors and their manifests"
# YOLOv4-tiny's weights are in the public domain, PicoDet's under Apache-2.0; board/package/copyright has the whole of it.
LICENSE = "Apache-2.0 & PD"
LIC_FILES_CHKSUM = "file://board/package/copyright;md5=702a0b569d886e6a51bf59e10f13f408"

inherit allarch spotter-source

SRC_URI = "file://models;subdir=source file://board/package/copyright;subdir=source"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${datadir}/spotter/models
    install -m 0644 ${S}/models/*.tflite ${S}/models/*.onnx ${S}/models/*.toml ${S}/models/coco.txt ${D}${datadir}/spotter/models/
}

FILES:${PN} = "${datadir}/spotter/models"
