SUMMARY = "What starts before the root filesystem: grows and mounts the data partition"
LICENSE = "MIT"

inherit spotter-board

# spotter-box-initramfs is the scripts of the SD images' own initramfs, and brings its drivers.
PACKAGE_INSTALL = " \
    initramfs-framework-base initramfs-module-udev spotter-box-initramfs \
    ${VIRTUAL-RUNTIME_base-utils} base-passwd udev ${ROOTFS_BOOTSTRAP_INSTALL} \
"

IMAGE_FEATURES = ""
PACKAGE_EXCLUDE = "kernel-image-*"
IMAGE_NAME_SUFFIX = ""
IMAGE_LINGUAS = ""
IMAGE_FSTYPES = "cpio.gz"
IMAGE_ROOTFS_SIZE = "8192"
IMAGE_ROOTFS_EXTRA_SPACE = "0"

inherit core-image
