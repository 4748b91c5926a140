#!/usr/bin/env python3
"""Writes the list of crates that the recipe fetches, from Cargo.lock; it fetches nothing.

usage: yocto/crates.py           writes meta-spotter/recipes-spotter/spotter/spotter-crates.inc
       yocto/crates.py --check   says whether that file is as Cargo.lock has it, and writes nothing
"""

import pathlib
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
LOCK = HERE.parent / "Cargo.lock"
LIST = HERE / "meta-spotter/recipes-spotter/spotter/spotter-crates.inc"
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def git_entry(package):
    """A crate from git in BitBake's words; the cargo classes patch it in by name and destsuffix."""
    url, _, revision = package["source"].removeprefix("git+").rpartition("#")
    url = url.partition("?")[0]
    protocol, _, rest = url.partition("://")
    name = package["name"]
    uri = f"git://{rest};protocol={protocol};nobranch=1;name={name};destsuffix={name}"
    return uri, f'SRCREV_{name} = "{revision}"'


def render(lock):
    """The text of the list. A source that is neither crates.io nor git is a ValueError."""
    uris, pins, git = [], [], []
    for package in lock["package"]:
        source = package.get("source")
        label = f"{package['name']}-{package['version']}"
        if source is None:
            continue
        if source == CRATES_IO:
            uris.append(f"crate://crates.io/{package['name']}/{package['version']}")
            pins.append(f'SRC_URI[{label}.sha256sum] = "{package["checksum"]}"')
        elif source.startswith("git+"):
            uri, revision = git_entry(package)
            uris.append(uri)
            git.append((package["name"], revision))
        else:
            raise ValueError(f"{label} comes from {source}; the recipe can fetch from crates.io and git only")
    lines = ["# Made of Cargo.lock by yocto/crates.py: change that, not this.", "", 'SRC_URI += " \\']
    lines += [f"    {uri} \\" for uri in uris]
    lines += ['"', ""]
    lines += [revision for _, revision in git]
    if git:
        lines.append(f'SRCREV_FORMAT = "{"_".join(name for name, _ in git)}"')
    return "\n".join(lines + pins) + "\n"


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    text = render(tomllib.loads(LOCK.read_text()))
    if not arguments:
        LIST.write_text(text)
    elif not LIST.exists() or LIST.read_text() != text:
        sys.exit(f"crates: {LIST.name} is not what Cargo.lock says; run yocto/crates.py")


if __name__ == "__main__":
    main(sys.argv[1:])
