# The image in which `cross` builds spotter for arm64: Debian 12 with the libraries that board/cross.sh links with too.
FROM debian:bookworm
COPY board/build-packages.txt board/cross-packages.txt /tmp/
# GStreamer's development packages cannot be there for x86-64 and arm64 at once; here only arm64's are needed.
RUN dpkg --add-architecture arm64 && apt-get update && \
    sed -e 's/#.*//' -e 's/^libgst.*-dev/&:arm64/' /tmp/build-packages.txt /tmp/cross-packages.txt | \
        xargs apt-get install -y --no-install-recommends ca-certificates && \
    rm -rf /var/lib/apt/lists/* /tmp/*-packages.txt
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ \
    PKG_CONFIG_ALLOW_CROSS=1 \
    PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig
