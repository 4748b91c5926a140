# The system inside an image: Debian's packages, spotter's, and the files of image/rootfs; sourced by build-image.sh.
# It makes directory trees and archives of them, and no partitions.
# shellcheck shell=bash disable=SC2034,SC2154

readonly MENTRA_APP=/usr/lib/spotter-mentra-app

# apt_mirror LABEL: where this machine's apt reads the archive of that label from.
apt_mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F '|' -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# sources: what apt is to read, from this machine's own mirror or from SPOTTER_DEBIAN_MIRROR (a snapshot, to pin a date).
sources() {
    local mirror=${SPOTTER_DEBIAN_MIRROR:-} security=${SPOTTER_DEBIAN_SECURITY_MIRROR:-} suite
    local -r keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [[ -z $mirror ]]; then
        mirror=$(apt_mirror Debian)
        security=${security:-$(apt_mirror Debian-Security)}
    fi
    [[ -n $mirror ]] || die "no Debian mirror in apt's sources; set SPOTTER_DEBIAN_MIRROR to one"
    for suite in trixie trixie-updates $SUITES; do
        echo "deb [signed-by=$keyring check-valid-until=no] $mirror $suite main non-free-firmware"
    done
    [[ $BOARD != rpi || -z ${SPOTTER_RPI_MIRROR:-} ]] ||
        echo "deb [signed-by=${SPOTTER_RPI_KEYRING:?set it to the keyring of SPOTTER_RPI_MIRROR}] $SPOTTER_RPI_MIRROR trixie main"
    [[ -z $security ]] || echo "deb [signed-by=$keyring check-valid-until=no] $security trixie-security main non-free-firmware"
}

# key WORD...: a name for what these words and the files they name make together.
key() {
    local word
    for word in "$@"; do if [[ -f $word ]]; then cat "$word"; else echo "$word"; fi; done | sha256sum | cut -c1-16
}

# base_archive: the path of the archive of Debian without kernel, the same for all boards; makes it when it is missing.
base_archive() {
    local archive
    archive=$CACHE/base-$(key image/packages.txt image/dpkg.cfg "$(BOARD='' SUITES='' sources)").tar
    if [[ ! -e $archive ]]; then
        say "installing Debian 13 for arm64 (some 10 minutes, more on a busy machine; kept in $CACHE)"
        mkdir -p "$CACHE"
        BOARD='' SUITES='' sources >"$CACHE/sources.list"
        # Emulated, making an initramfs takes a minute: it is made once, at the end.
        quietly mmdebstrap --mode=root --format=tar --arch=arm64 --variant=essential \
            --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
            --dpkgopt="$PWD/image/dpkg.cfg" \
            --essential-hook='mkdir -p "$1/etc/initramfs-tools" && echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
            --include="apt,$(listed image/packages.txt | paste -sd,)" trixie "$archive.part" "$CACHE/sources.list"
        mv "$archive.part" "$archive"
    fi
    echo "$archive"
}

# in_system COMMAND...: runs it inside $ROOT, emulated, where no service starts. It sees devices of its own and none of this machine's.
in_system() {
    local name numbers
    mountpoint -q "$ROOT/proc" || mount -t proc proc "$ROOT/proc"
    if ! mountpoint -q "$ROOT/dev"; then
        mount -t tmpfs -o mode=755,size=1M tmpfs "$ROOT/dev"
        while read -r name numbers; do
            # shellcheck disable=SC2086 # major and minor
            mknod --mode=666 "$ROOT/dev/$name" c $numbers
        done <<<$'null 1 3\nzero 1 5\nfull 1 7\nrandom 1 8\nurandom 1 9\ntty 5 0'
        ln -s /proc/self/fd "$ROOT/dev/fd"
    fi
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" chroot "$ROOT" "$@"
}

# apt_in_system ARGUMENT...: this machine's apt at work in $ROOT: emulated, reading the lists alone takes minutes.
apt_in_system() {
    in_system true
    # Would ask debconf's questions in advance, for which it reads all lists, emulated.
    rm -f "$ROOT/etc/apt/apt.conf.d/70debconf"
    cat >"$OUT/work/apt.conf" <<TEXT
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
Dir "$ROOT";
Dir::Bin::solvers "/usr/lib/apt/solvers";
Dir::Bin::methods "/usr/lib/apt/methods";
DPkg::Chroot-Directory "$ROOT";
TEXT
    # The initramfs is made once, at the end.
    env LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive INITRD=No SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" APT_CONFIG="$OUT/work/apt.conf" apt-get --yes "$@"
}

leave_system() { umount "$ROOT/proc" "$ROOT/dev"; }

# unpack_system: fills $ROOT with Debian and the board's own packages, which are kept in an archive too.
unpack_system() {
    local base file archive module
    base=$(base_archive)
    # A module of ours is compiled into it.
    mapfile -t module < <(find "$BOARD" -path '*/tryboot/*' -type f | sort)
    archive=$CACHE/$BOARD-$(key "$base" "$PACKAGES" "$BACKPORTS" "$FETCH" "$BOARD/hooks.sh" "${module[@]}" "$(sources)").tar
    ARCHIVE=$archive
    mkdir -p "$ROOT"
    if [[ -e $archive ]]; then
        tar --extract --file "$archive" --directory "$ROOT" --numeric-owner --xattrs --xattrs-include='*'
        return
    fi
    say "installing the packages of $BOARD: $PACKAGES $BACKPORTS"
    tar --extract --file "$base" --directory "$ROOT" --numeric-owner --xattrs --xattrs-include='*'
    sources >"$ROOT/etc/apt/sources.list"
    cp image/dpkg.cfg "$ROOT/etc/dpkg/dpkg.cfg.d/image"
    [[ -z ${SPOTTER_RPI_KEYRING:-} ]] || install -D -m 644 "$SPOTTER_RPI_KEYRING" "$ROOT$SPOTTER_RPI_KEYRING"
    printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
    chmod 755 "$ROOT/usr/sbin/policy-rc.d"
    quietly apt_in_system update
    # shellcheck disable=SC2086 # lists of words
    quietly apt_in_system install $PACKAGES
    # shellcheck disable=SC2086
    [[ -z $BACKPORTS ]] || quietly apt_in_system install -t "$SUITES" $BACKPORTS
    if [[ -n $FETCH ]]; then
        mkdir -p "$ROOT/fetched"
        # shellcheck disable=SC2086
        mkdir -p "$OUT/work/fetched"
        (cd "$OUT/work/fetched" && quietly apt_in_system download $FETCH)
        for file in "$OUT"/work/fetched/*.deb; do quietly dpkg-deb -x "$file" "$ROOT/fetched"; done
    fi
    board_packages
    quietly apt_in_system clean
    leave_system
    tar --create --file "$archive.part" --directory "$ROOT" --numeric-owner --xattrs .
    mv "$archive.part" "$archive"
}

# install_spotter: the package, for a user whose number never changes, as the data partition outlives the system.
install_spotter() {
    say "installing ${DEB##*/}"
    in_system groupadd --system --gid 900 spotter
    in_system useradd --system --uid 900 --gid 900 --home-dir /var/lib/spotter --no-create-home --shell /usr/sbin/nologin spotter
    cp "$DEB" "$ROOT/tmp/spotter.deb"
    quietly apt_in_system install "$ROOT/tmp/spotter.deb"
    rm "$ROOT/tmp/spotter.deb"
}

# install_mentra_app: the app for MentraOS, off until its keys are on the card, for a user whose number never changes either.
install_mentra_app() {
    say "putting the app for MentraOS in"
    in_system groupadd --system --gid 901 spotter-mentra-app
    in_system useradd --system --uid 901 --gid 901 --home-dir /var/lib/spotter-mentra-app --no-create-home --shell /usr/sbin/nologin spotter-mentra-app
    quietly mentra-app/make.sh "$ROOT$MENTRA_APP"
    cp --no-preserve=ownership mentra-app/spotter-mentra-app.service "$ROOT/usr/lib/systemd/system/"
    in_system systemctl --quiet enable spotter-mentra-app.service
}

# finish_system: the files of image/rootfs and the board, what is in force, the initramfs; then what only the build needed goes.
finish_system() {
    local unit
    cp -r --no-preserve=ownership image/rootfs/. "$ROOT/"
    [[ ! -d $BOARD/rootfs ]] || cp -r --no-preserve=ownership "$BOARD/rootfs/." "$ROOT/"
    chmod 755 "$ROOT"/usr/lib/spotter-image/* "$ROOT"/usr/share/initramfs-tools/hooks/spotter \
        "$ROOT"/usr/share/initramfs-tools/scripts/*/spotter
    # spotter.service itself comes with the package.
    for unit in systemd/spotter-*.{service,path}; do
        [[ ! -e $unit ]] || cp --no-preserve=ownership "$unit" "$ROOT/usr/lib/systemd/system/"
    done
    write_configuration
    links_into_data
    in_system systemctl --quiet enable systemd-networkd systemd-resolved systemd-timesyncd ssh spotter-started.service \
        spotter-ready.service spotter-reboot.service spotter-network.timer
    for unit in spotter-setup.service spotter-wifi.path spotter-update.path spotter-describe.service \
        spotter-console.service spotter-console.path; do
        [[ ! -e $ROOT/usr/lib/systemd/system/$unit ]] || in_system systemctl --quiet enable "$unit"
    done
    in_system systemctl --quiet mask systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer \
        dpkg-db-backup.timer e2scrub_all.timer systemd-firstboot
    board_system
    make_initramfs
    room >"$OUT/packages.txt"
    prune
}

write_configuration() {
    local n
    cat >"$ROOT/etc/fstab" <<TEXT
# The data partition is mounted by the initramfs, and grows here when the card has room.
$(partition data)  /var            ext4  x-initrd.mount,x-systemd.growfs  0 0
$(partition card)  /boot/firmware  vfat  ro,nofail,umask=0077  0 0
tmpfs  /tmp  tmpfs  mode=1777,nosuid,nodev,size=25%  0 0
TEXT
    mkdir -p "$ROOT/boot/firmware" "$ROOT/etc/rauc"
    cat >"$ROOT/usr/lib/spotter-image/board.conf" <<TEXT
BOARD=$BOARD
BOOTLOADER=$BOOTLOADER
CARD=$(partition_device card)
DATA=$(partition_device data)
READY_WITHIN_S=${READY_WITHIN_S:-180}
TEXT
    sed -i '/^IMAGE_/d' "$ROOT/usr/lib/os-release"
    printf 'IMAGE_ID=spotter\nIMAGE_VERSION=%s\n' "$VERSION" >>"$ROOT/usr/lib/os-release"
    {
        printf '[system]\ncompatible=%s\nbundle-formats=-plain\ndata-directory=/var/lib/rauc\n' "$COMPATIBLE"
        if [[ $BOOTLOADER == grub ]]; then
            printf 'bootloader=grub\ngrubenv=/boot/firmware/EFI/debian/grubenv\n'
        else
            printf 'bootloader=custom\n'
        fi
        printf '\n[keyring]\npath=/etc/rauc/keyring.pem\n\n[handlers]\n'
        printf '%s-install=/usr/lib/spotter-image/rauc-%s-install\n' pre pre post post
        [[ $BOOTLOADER == grub ]] || printf 'bootloader-custom-backend=/usr/lib/spotter-image/boot-slots\n'
        for n in 0 1; do
            printf '\n[slot.root.%d]\ndevice=%s\ntype=raw\nbootname=%s\n' $n "$(partition_device root-$n)" "$(bootname $n)"
            printf '\n[slot.boot.%d]\ndevice=%s\ntype=vfat\nparent=root.%d\n' $n "$(partition_device boot-$n)" $n
        done
    } >"$ROOT/etc/rauc/system.conf"
    cp "$KEYRING" "$ROOT/etc/rauc/keyring.pem"
}

# links_into_data: /etc is read-only; what a box may change there lies on its data partition.
links_into_data() {
    rm -rf "$ROOT/etc/ssh"/ssh_host_* "$ROOT/etc/spotter/spotter.toml" "$ROOT/etc/hostname" "$ROOT/etc/resolv.conf"
    mkdir -p "$ROOT/etc/spotter" "$ROOT/etc/wpa_supplicant"
    ln -s /var/lib/spotter-box/spotter.toml "$ROOT/etc/spotter/spotter.toml"
    ln -s /var/lib/spotter-box/wpa_supplicant.conf "$ROOT/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"
    ln -sf /var/lib/spotter-box/localtime "$ROOT/etc/localtime"
    ln -sf /var/lib/spotter-box/timezone "$ROOT/etc/timezone"
    ln -s /run/systemd/resolve/stub-resolv.conf "$ROOT/etc/resolv.conf"
    # Bound from the data partition by the initramfs.
    : >"$ROOT/etc/machine-id"
    rm -f "$ROOT/var/lib/dbus/machine-id"
}

# make_initramfs: kept, too: emulated it takes minutes, and seldom anything in it changes.
make_initramfs() {
    local release kept
    release=$(basename "$ROOT"/lib/modules/*)
    kept=$CACHE/initrd-$BOARD-$(key "$ARCHIVE" "$ROOT"/etc/initramfs-tools/{modules,conf.d/*} "$ROOT"/usr/lib/spotter-image/board.conf \
        "$ROOT"/usr/share/initramfs-tools/hooks/spotter "$ROOT"/usr/share/initramfs-tools/scripts/*/spotter).img
    mkdir -p "$OUT/boot"
    if [[ ! -e $kept ]]; then
        say "making the initramfs (some minutes, emulated)"
        # Debian's newer kernels lie beside their modules; mkinitramfs looks for what they can unpack in /boot.
        [[ -e $ROOT/boot/config-$release ]] || cp "$ROOT/lib/modules/$release/config" "$ROOT/boot/config-$release"
        quietly in_system mkinitramfs -o /tmp/initrd.img "$release"
        mv "$ROOT/tmp/initrd.img" "$kept"
    fi
    cp "$kept" "$OUT/boot/initrd.img"
    if [[ -e $ROOT/boot/vmlinuz-$release ]]; then
        cp "$ROOT/boot/vmlinuz-$release" "$OUT/boot/vmlinuz"
    else
        mv "$ROOT/lib/modules/$release/vmlinuz" "$OUT/boot/vmlinuz"
    fi
}

# room: the packages of the image with versions and installed KiB, the largest first; the app for MentraOS among them.
room() {
    {
        in_system dpkg-query -W -f='${Installed-Size}\t${Package}\t${Version}\n'
        [[ ! -d $ROOT$MENTRA_APP ]] || printf '%s\t%s\t%s\n' "$(du -sk --apparent-size "$ROOT$MENTRA_APP" | cut -f1)" "${MENTRA_APP##*/}" "$VERSION"
    } | sort -rn
}

# prune: what only the build needed, and all that changes from build to build for no reason.
prune() {
    leave_system
    cp "$OUT/packages.txt" "$ROOT/usr/share/spotter-image-packages.txt"
    rm -rf "$ROOT"/{fetched,boot/*-arm64,boot/*.old,vmlinuz*,initrd*,usr/sbin/policy-rc.d,var/cache/*,var/lib/apt,var/lib/dpkg,var/log/*} \
        "$ROOT"/{etc/apt/sources.list,etc/dpkg/dpkg.cfg.d/image,usr/share/doc/*/changelog*,usr/share/bug,usr/share/lintian,var/backups/*} \
        "$ROOT"/{etc/machine-id.*,tmp/*,var/tmp/*,root/.*rc,usr/lib/aarch64-linux-gnu/gstreamer-1.0/gst-plugin-scanner.old}
    # The data partition is /var: what packages put there is copied into it at the start where it is missing.
    mkdir -p "$ROOT/usr/share/factory"
    rm -rf "$ROOT/usr/share/factory/var"
    mv "$ROOT/var" "$ROOT/usr/share/factory/var"
    mkdir "$ROOT/var"
}
