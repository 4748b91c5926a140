#!/usr/bin/env bash
# Makes demo/clip.mp4 and demo/photos/ from five photographs of real animals; it publishes nothing.
#
# The photographs are fetched, not kept in the repository: four out of Debian's package `darknet`
# and the cat out of the Python wheel of scikit-image. Each is pinned by its sha256.
#
# The clip is what a pair of glasses sends: 1280x720 at 30 frames a second, H.264 without B-frames,
# an IDR every 2 s, about 2.5 Mbit/s, AAC mono at 44.1 kHz. Each photograph has 150 frames. It is
# fitted into the picture at scale s = min(1280/w, 720/h), its margins filled with its own blurred
# copy. Then the camera zooms: in frame n (0..149) by z = 1 + 0.15 n/149 (or backwards, for every
# second photograph), so that a point (x, y) of the fitted picture is shown at
# (z x - 1280 p (z - 1), z y - 720 q (z - 1)), with the p and q of the table below.
set -euo pipefail
cd "$(dirname "$0")"

[[ clip.mp4 -nt make-clip.sh ]] && exit

readonly CAT_WHEEL=scikit-image==0.25.2
readonly CAT_WHEEL_SHA256=24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641
readonly FRAMES=150

#        file          p     q    zoom  sha256
readonly PHOTOS="
         dog.jpg       0.30  0.60 in    5a9522051c3cec2bbd2f6323fccba32e8fbf3ddcc2b3e2fd46b04c720bc6f866
         eagle.jpg     0.50  0.40 out   f95f57297fd51a6c5ddceb5ed6916fa759d1d65f402fee34c05b31a9608755c0
         giraffe.jpg   0.50  0.40 in    00dc48a9b2af8a1fe4c4b79319726591f1033c7e1150f21e7577a79f3b6659f1
         horses.jpg    0.50  0.60 out   c8f0a677a1356569e2ce71d2fa88c1030c0ae57ecf5e14170e02d9a86a20dcb4
         chelsea.png   0.50  0.50 in    596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb
"

die() {
    printf 'make-clip: %s\n' "$*" >&2
    exit 1
}

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

# genuine FILE SHA256
genuine() { echo "$2  $1" | sha256sum --check --status 2>/dev/null; }

fetch_photos() {
    echo "make-clip: fetching the photographs (Debian's darknet, PyPI's $CAT_WHEEL)"
    (cd "$temp" && apt-get download darknet >apt.log 2>&1) ||
        die "failed: apt-get download darknet -- run 'apt-get update' as root: $(tail -n 1 "$temp/apt.log")"
    dpkg-deb --extract "$temp"/darknet_*.deb "$temp/darknet"
    echo "$CAT_WHEEL --hash=sha256:$CAT_WHEEL_SHA256" >"$temp/pin.txt"
    ../.venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
        --platform manylinux2014_x86_64 --python-version 311 --implementation cp --abi cp311 \
        --requirement "$temp/pin.txt" --dest "$temp" ||
        die "failed: pip download $CAT_WHEEL -- run ./setup.sh and check that PyPI can be reached"
    ../.venv/bin/python -m zipfile -e "$temp"/scikit_image-*.whl "$temp/wheel"
    mkdir -p photos
    cp "$temp"/darknet/usr/share/darknet/data/{dog,eagle,giraffe,horses}.jpg \
        "$temp"/wheel/skimage/data/chelsea.png photos/
}

# A chain of filters that fits a photograph into 3840x2160 over its own blurred copy.
# Three times the clip's size, because zoompan moves by whole pixels of its input.
readonly FITTED="split[wide][whole];
    [wide]scale=320:180:force_original_aspect_ratio=increase,crop=320:180,gblur=sigma=6,scale=3840:2160[back];
    [whole]scale=3840:2160:force_original_aspect_ratio=decrease:flags=lanczos[front];
    [back][front]overlay=(W-w)/2:(H-h)/2,setsar=1"

for try in first second; do
    bad=
    while read -r file _ _ _ sum; do
        [[ -z $file ]] || genuine "photos/$file" "$sum" || bad=$file
    done <<<"$PHOTOS"
    [[ -n $bad ]] || break
    [[ $try == first ]] || die "demo/photos/$bad is not the photograph that was pinned; remove it and try again"
    fetch_photos
done

echo "make-clip: making demo/clip.mp4"
inputs=() filters='' joined='' count=0
while read -r file p q zoom _; do
    [[ -n $file ]] || continue
    ramp="on/($FRAMES-1)"
    [[ $zoom == in ]] || ramp="(1-on/($FRAMES-1))"
    inputs+=(-i "photos/$file")
    filters+="[$count:v]$FITTED,zoompan=z='1+0.15*$ramp':x='(iw-iw/zoom)*$p':y='(ih-ih/zoom)*$q'"
    filters+=":d=$FRAMES:s=1280x720:fps=30[v$count];"
    joined+="[v$count]"
    count=$((count + 1))
done <<<"$PHOTOS"
# A little moving noise, as every camera has it: without it the encoder would need far less than 2.5 Mbit/s.
filters+="${joined}concat=n=$count:v=1:a=0,noise=alls=7:allf=t,format=yuv420p[video]"

nice ffmpeg -nostdin -v error -y "${inputs[@]}" \
    -f lavfi -i "anoisesrc=color=pink:amplitude=0.02:sample_rate=44100:seed=1" \
    -filter_complex "$filters" -map '[video]' -map "$count:a" -t $((count * FRAMES / 30)) \
    -c:v libx264 -preset veryfast -profile:v main -bf 0 -g 60 -keyint_min 60 -sc_threshold 0 \
    -b:v 2500k -maxrate 2500k -bufsize 2500k \
    -c:a aac -b:a 64k -ac 1 -ar 44100 -movflags +faststart "$temp/clip.mp4" ||
    die "failed: ffmpeg -- its message is above; the package ffmpeg of Debian 12 and 13 can do this"
mv "$temp/clip.mp4" clip.mp4
