#!/usr/bin/env bash
# Prints one hash over all that images are made of, but the program itself: by it ci-image.sh knows whether they have to be tried anew.
#
# The program has tests of its own, and changes far more often than what carries it.
set -euo pipefail
cd "$(dirname "$0")/.."
{
    git ls-files board docs/spotter.toml docs/mentra-app.env mentra-app/{package.json,package-lock.json,tsconfig.json,src,page} | grep -vx board/tested-inputs | sort | while read -r file; do
        [[ ! -f $file ]] || sha256sum "$file"
    done
    # Only what setup.sh does for images, and what the package says of itself.
    sed -n '/^apt_line()/,/^want_test=/p' setup.sh
    sed -n '/^\[package\.metadata/,$p' Cargo.toml
} | sha256sum | cut -c1-32
