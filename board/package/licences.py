#!/usr/bin/env python3
"""Prints the licences of the Rust libraries that are linked into spotter for one target; each text once.

usage: licences.py TARGET
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("licence", "license", "copying", "notice", "copyright", "unlicense")


def linked(metadata):
    """Ids of what the program is made of: normal dependencies, not those of builds and tests."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting, seen = [metadata["resolve"]["root"]], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [dep["pkg"] for dep in nodes[node]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return seen - {metadata["resolve"]["root"]}


def main(target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    wanted = linked(metadata)
    texts = {}
    print("Rust libraries that are part of spotter, and their licences. The texts follow.\n")
    for package in sorted((p for p in metadata["packages"] if p["id"] in wanted), key=lambda p: p["name"]):
        print(f"{package['name']} {package['version']}: {package['license'] or 'see its text'}")
        folder = pathlib.Path(package["manifest_path"]).parent
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name.lower().startswith(NAMES):
                text = file.read_text(errors="replace").strip()
                texts.setdefault(" ".join(text.split()), (text, []))[1].append(f"{package['name']} ({file.name})")
    for text, users in texts.values():
        print(f"\n{'=' * 100}\n{', '.join(users)}\n{'-' * 100}\n{text}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
