# NVIDIA's flashing tools make the partitions: a filesystem for them, which is also what an update writes, and no .wks.

IMAGE_FSTYPES:tegra = "ext4 tegraflash-tar.zst"
WKS_FILE_DEPENDS:tegra = ""
