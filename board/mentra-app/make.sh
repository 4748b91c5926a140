#!/usr/bin/env bash
# Makes the folder that the app for MentraOS runs from, on any machine that has Node.js: its compiled sources, its page, and the npm
# packages that it needs to run, as package-lock.json names them. It installs no Node.js and starts nothing.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: board/mentra-app/make.sh DIR

  DIR   what is made; it must not be there

./setup.sh --image installs what it needs. Start the app with: node DIR/dist/src/main.js
TEXT
}

case ${1:-} in
'' | -h | --help)
    usage
    [[ -n ${1:-} ]] && exit || exit 2
    ;;
esac
die() {
    printf 'mentra-app: %s\n' "$*" >&2
    exit 1
}

app=$(cd "$(dirname "$0")/../../mentra-app" && pwd)
dir=$1
[[ ! -e $dir ]] || die "$dir is there already: name one that is not"
[[ -x $app/node_modules/.bin/tsc ]] || die "no TypeScript compiler in mentra-app/node_modules; run ./setup.sh --image"

mkdir -p "$dir"
cp "$app/package.json" "$app/package-lock.json" "$dir/"
cp -r "$app/page" "$dir/page"
"$app/node_modules/.bin/tsc" --project "$app" --incremental false --tsBuildInfoFile null --outDir "$dir/dist"
rm -r "$dir/dist/test"
# No package may run anything here, and none needs to.
npm ci --prefix "$dir" --omit=dev --ignore-scripts --no-audit --no-fund --prefer-offline --loglevel=error
# Links to programs, and what npm remembers: with it this machine's registry, and nothing that the app reads.
rm -r "$dir/node_modules/.bin" "$dir/node_modules/.package-lock.json"

# What was compiled for one kind of machine would not run on the board, which is another kind.
native=$(cd "$dir/node_modules" && find . -name '*.node' -o -name binding.gyp | paste -sd' ')
[[ -z $native ]] || die "these npm packages want a native addon: $native. Take versions without one, or install them inside the image (board/image/system.sh)"

# Nobody debugs on a board: types and source maps are a third of it. Licences stay.
find "$dir/node_modules" -type f \( -name '*.map' -o -name '*.ts' -o -name '*.mts' -o -name '*.cts' \) -delete
find "$dir" -depth -type d -empty -delete
chmod -R u=rwX,go=rX "$dir"
