#!/usr/bin/env python3
"""Says whether programs and libraries run on the oldest systems that spotter's packages are for; it changes nothing.

Versioned symbols (glibc, libstdc++) carry their age in the file. GStreamer's and GLib's do not: Debian's symbols files, which come
with the installed libraries, say since when each is there.

usage: check-symbols.py DEBIAN-ARCHITECTURE FILE...
"""

import pathlib
import re
import subprocess
import sys

# What the oldest of Debian 12, Raspberry Pi OS 12 and JetPack 6 (Ubuntu 22.04) has.
VERSIONS = {"GLIBC": "2.35", "GLIBCXX": "3.4.30", "CXXABI": "1.3.13", "GCC": "12.0.0"}
PACKAGES = {"libgstreamer1.0-0": "1.20", "libgstreamer-plugins-base1.0-0": "1.20", "libglib2.0-0": "2.72"}
# GLib's package has another name since Debian 13.
RENAMED = {"libglib2.0-0": "libglib2.0-0t64"}


def number(version):
    """For comparing; 1.20 and 1.20.0 are the same."""
    return tuple(int(part) for part in re.findall(r"\d+", re.sub(r"(\.0)+$", "", version)))


def since(package, arch):
    """Symbol -> version since which the package has it."""
    names = [name for name in (package, RENAMED.get(package)) if name]
    files = [pathlib.Path(f"/var/lib/dpkg/info/{name}:{arch}.symbols") for name in names]
    for file in files:
        if file.exists():
            found = re.findall(r"^ (\S+?)@\S+ (\S+)", file.read_text(), re.MULTILINE)
            return {symbol: version.split("-")[0] for symbol, version in found}
    sys.exit(f"check-symbols: no {files[0]}; install {names[0]}:{arch} (./setup.sh --cross)")


def undefined(file):
    """Symbols that the file wants of others, as (name, version node or None)."""
    run = subprocess.run(["readelf", "--dyn-syms", "--wide", file], capture_output=True, text=True, check=False)
    if run.returncode or "Symbol table" not in run.stdout:
        sys.exit(f"check-symbols: {file} is no program or library: {run.stderr.strip()}")
    for line in run.stdout.splitlines():
        parts = line.split()
        if len(parts) >= 8 and parts[6] == "UND":
            name, _, node = parts[7].partition("@")
            yield name, node.lstrip("@") or None


def main(arch, files):
    known = {package: since(package, arch) for package in PACKAGES}
    faults, newest = [], {}

    def judge(file, symbol, what, version, limit):
        if number(version) > newest.get(what, ((), ""))[0]:
            newest[what] = (number(version), version)
        if number(version) > number(limit):
            faults.append(f"{file}: {symbol} needs {what} {version}, newer than {limit}")

    for file in files:
        for symbol, node in undefined(file):
            if node:
                what, _, version = node.partition("_")
                if what in VERSIONS and version:
                    judge(file, symbol, what, version, VERSIONS[what])
                continue
            for package, symbols in known.items():
                if symbol in symbols:
                    judge(file, symbol, package, symbols[symbol], PACKAGES[package])
                    break
            else:
                if symbol.startswith(("gst_", "g_")):
                    faults.append(f"{file}: {symbol} is in no library that is known here")
    print("check-symbols: needs " + ", ".join(f"{what} {version}" for what, (_, version) in sorted(newest.items())))
    if faults:
        sys.exit("\n".join(f"check-symbols: {fault}" for fault in faults) +
                 "\ncheck-symbols: Debian 12 or JetPack 6 could not run this; avoid these functions, or drop the system in README.md")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
