# What an image is on the disk: keys, slots, the bundle and the partitions; sourced by build-image.sh after image/system.sh.
# Which files a board's firmware wants is the board's own hooks.sh.
#
#   card     FAT, label SPOTTER: what the firmware reads first, and where the owner puts spotter.toml and mentra-app.env
#   boot-0,1 FAT: kernel, initramfs and what starts them, for slot A and B
#   root-0,1 squashfs: the system, for slot A and B
#   data     ext4, mounted at /var: all that a box remembers; grows to the end of the card
# shellcheck shell=bash disable=SC2034,SC2154

readonly CARD_MIB=64 BOOT_MIB=128 ROOT_MIB=768 DATA_MIB=64
# "SPOT": the same on every card, so that one bundle fits all boxes.
readonly DISK_ID=53504f54

bootname() { [[ $1 == 0 ]] && echo A || echo B; }

partition_uuid() {
    local number
    case $1 in
    card) number=1 ;;
    boot-0) number=2 ;;
    boot-1) number=3 ;;
    root-0) number=4 ;;
    root-1) number=5 ;;
    data) number=6 ;;
    esac
    if [[ $PARTITION_TABLE == gpt ]]; then
        echo $DISK_ID-0000-4000-8000-00000000000$number
    else
        # The fourth is the extended partition that holds the rest.
        [[ $number -lt 4 ]] || number=$((number + 1))
        echo $DISK_ID-0$number
    fi
}
partition() { echo "PARTUUID=$(partition_uuid "$1")"; }
partition_device() { echo "/dev/disk/by-partuuid/$(partition_uuid "$1")"; }

# update_keys: sets KEY, CERT and KEYRING; without real ones it makes development keys, once.
update_keys() {
    local dir=$PWD/keys
    if [[ -n ${SPOTTER_UPDATE_KEY:-} ]]; then
        KEY=$SPOTTER_UPDATE_KEY
        CERT=${SPOTTER_UPDATE_CERT:?set it to the certificate of SPOTTER_UPDATE_KEY}
        KEYRING=${SPOTTER_UPDATE_KEYRING:?set it to the certificate that boxes are to trust}
        return
    fi
    KEY=$dir/development.key.pem CERT=$dir/development.cert.pem KEYRING=$dir/development-ca.cert.pem
    [[ ! -e $KEY ]] || return 0
    say "making development keys in $dir; whoever has them can update every box that was flashed with this image"
    make_keys "$dir" development
}

# make_keys DIR NAME: a certificate authority and a key that it vouches for.
make_keys() {
    local dir=$1 name=$2
    mkdir -p "$dir"
    chmod 700 "$dir"
    quietly openssl req -x509 -newkey rsa:3072 -nodes -days 7300 -subj "/O=spotter/CN=spotter $name authority" \
        -keyout "$dir/$name-ca.key.pem" -out "$dir/$name-ca.cert.pem"
    quietly openssl req -newkey rsa:3072 -nodes -subj "/O=spotter/CN=spotter $name" \
        -keyout "$dir/$name.key.pem.new" -out "$dir/$name.request.pem"
    quietly openssl x509 -req -days 7300 -in "$dir/$name.request.pem" -CA "$dir/$name-ca.cert.pem" \
        -CAkey "$dir/$name-ca.key.pem" -CAcreateserial -out "$dir/$name.cert.pem"
    rm "$dir/$name.request.pem"
    mv "$dir/$name.key.pem.new" "$dir/$name.key.pem"
}

# fat FILE MIB LABEL DIR: a FAT filesystem with what is in DIR.
fat() {
    local file=$1 mib=$2 label=$3 dir=$4
    rm -f "$file"
    find "$dir" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    quietly mkfs.vfat --invariant -F 32 -s 1 -i "$DISK_ID" -n "$label" -C "$file" $((mib * 1024))
    quietly mcopy -s -m -i "$file" "$dir"/* ::/ ||
        die "the files for $label do not fit into $mib MiB: $(du -sh "$dir" | cut -f1)"
}

# pack_system DIR FILE: the squashfs of a system.
pack_system() {
    rm -f "$2"
    quietly mksquashfs "$1" "$2" -comp zstd -Xcompression-level "${SPOTTER_IMAGE_LEVEL:-15}" -noappend -quiet -no-progress
}

# make_slots: root.img and boot.img, which are in the image once and in the bundle too.
make_slots() {
    local size
    say "packing the system"
    pack_system "$ROOT" "$OUT/work/root.img"
    size=$(stat --format=%s "$OUT/work/root.img")
    [[ $size -le $((ROOT_MIB << 20)) ]] || die "the system, $((size >> 20)) MiB, does not fit into its slot of $ROOT_MIB MiB"
    board_boot_files "$OUT/boot"
    fat "$OUT/work/boot.img" $BOOT_MIB BOOT "$OUT/boot"
}

# make_bundle FILE VERSION ROOT_IMG BOOT_IMG: root before boot, so that a slot that can be started is always one that is complete.
make_bundle() {
    local file=$1 version=$2 root=$3 boot=$4 dir
    dir=$(mktemp --directory "${file%/*}/bundle.XXXXXX")
    rm -f "$file"
    ln "$root" "$dir/root.img"
    ln "$boot" "$dir/boot.img"
    {
        printf '[update]\ncompatible=%s\nversion=%s\n\n[bundle]\nformat=verity\n' "$COMPATIBLE" "$version"
        [[ ! -e $BOARD/bundle-hook ]] || printf '\n[hooks]\nfilename=hook\n'
        printf '\n[image.root]\nfilename=root.img\n\n[image.boot]\nfilename=boot.img\n'
        [[ ! -e $BOARD/bundle-hook ]] || printf 'hooks=post-install\n'
    } >"$dir/manifest.raucm"
    [[ ! -e $BOARD/bundle-hook ]] || install -m 755 "$BOARD/bundle-hook" "$dir/hook"
    quietly rauc --cert="$CERT" --key="$KEY" --keyring="$KEYRING" \
        --mksquashfs-args="-comp zstd -Xcompression-level ${SPOTTER_IMAGE_LEVEL:-9} -quiet -no-progress" bundle "$dir" "$file"
    rm -rf "$dir"
}

# entry NAME IMAGE MIB: one partition, in genimage's words.
entry() {
    local linux=0FC63DAF-8483-4772-8E79-3D69D8477DE4 efi=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
    printf '  partition %s {\n    size = %dM\n' "$1" "$3"
    [[ -z $2 ]] || printf '    image = "%s"\n' "$2"
    if [[ $PARTITION_TABLE == gpt ]]; then
        [[ $1 == card ]] && printf '    partition-type-uuid = %s\n' $efi || printf '    partition-type-uuid = %s\n' $linux
        printf '    partition-uuid = %s\n' "$(partition_uuid "$1")"
    else
        case $1 in
        card | boot-*) printf '    partition-type = 0x0c\n' ;;
        *) printf '    partition-type = 0x83\n' ;;
        esac
    fi
    printf '  }\n'
}

make_disk() {
    local dir=$OUT/work
    IMAGE=$OUT/spotter-$BOARD-$VERSION.img
    say "making the image"
    rm -rf "$dir/card" "$dir/tmp" "$dir/input" "$dir/data.img"
    mkdir -p "$dir/card" "$dir/input"
    cp ../docs/spotter.toml "$dir/card/spotter.toml.example"
    cp image/card-readme.txt "$dir/card/README.txt"
    [[ ! -d $ROOT$MENTRA_APP ]] || cp ../docs/mentra-app.env "$dir/card/mentra-app.env.example"
    board_card_files "$dir/card"
    fat "$dir/card.img" $CARD_MIB SPOTTER "$dir/card"
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH quietly mke2fs -q -t ext4 -b 4096 -i 16384 -m 1 -L data \
        -U $DISK_ID-0000-4000-8000-0000000000da \
        -E "hash_seed=$DISK_ID-0000-4000-8000-0000000000da,root_owner=0:0" "$dir/data.img" ${DATA_MIB}M
    {
        printf 'image %s {\n  hdimage {\n' "$(basename "$IMAGE")"
        if [[ $PARTITION_TABLE == gpt ]]; then
            printf '    partition-table-type = gpt\n    disk-uuid = %s\n' $DISK_ID-0000-4000-8000-000000000000
        else
            printf '    partition-table-type = mbr\n    disk-signature = 0x%s\n    extended-partition = 4\n' $DISK_ID
        fi
        printf '    align = 1M\n  }\n'
        entry card card.img $CARD_MIB
        entry boot-0 boot.img $BOOT_MIB
        entry boot-1 '' $BOOT_MIB
        entry root-0 root.img $ROOT_MIB
        entry root-1 '' $ROOT_MIB
        entry data data.img $DATA_MIB
        printf '}\n'
    } >"$dir/genimage.cfg"
    quietly genimage --config "$dir/genimage.cfg" --inputpath "$dir" --outputpath "$OUT" --rootpath "$dir/input" --tmppath "$dir/tmp"
    say "compressing the image"
    xz --threads=0 -2 --force --keep "$IMAGE"
    [[ $(stat --format=%s "$IMAGE.xz") -le $((500 * 1000 * 1000)) ]] || die "$IMAGE.xz is larger than 500 MB; $OUT/packages.txt tells what takes the room"
}

report() {
    local size file
    for file in ${IMAGE:+"$IMAGE.xz"} "$BUNDLE"; do
        size=$(stat --format=%s "$file")
        printf 'image: %s (%d MB)\n' "$file" $((size / 1000000))
    done
    printf 'image: what takes the room, of %d MB unpacked and %d MB packed (%s has all):\n' \
        "$(du -sm --apparent-size "$ROOT" | cut -f1)" $(($(stat --format=%s "$OUT/work/root.img") / 1000000)) "$OUT/packages.txt"
    head -n 12 "$OUT/packages.txt" | awk '{ printf "image: %7.1f MB  %s %s\n", $1 / 1024, $2, $3 }'
}
