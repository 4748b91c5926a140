#!/usr/bin/env python3
"""Checks the Yocto layer without BitBake: names, files, licences, checksums, and all that is said here and elsewhere in the tree too.

usage: yocto/check.py

It knows no dependency between recipes and parses no class: yocto/check.sh has BitBake do that, where there are checkouts of it.
"""

import hashlib
import pathlib
import re
import sys
import tomllib

import crates

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
LAYER = HERE / "meta-spotter"

# Variables of BitBake, OE-core and the other layers that the layer reads. One that is neither here nor set in the layer is a slip.
KNOWN = set("""
    B BOOTFILES_DIR_NAME BPN CARGO_TARGET_SUBDIR D DEPLOYDIR DEPLOY_DIR_IMAGE HOST_CC_ARCH IMAGE_FSTYPES IMAGE_LINK_NAME
    IMAGE_ROOTFS IMGDEPLOYDIR KERNEL_IMAGETYPE LAYERDIR LICENSE_FLAGS_ACCEPTED MACHINE MACHINE_ARCH PN PV RAUC_KEYRING_FILE
    ROOTFS_BOOTSTRAP_INSTALL RPI_KERNEL_DEVICETREE S STAGING_LIBDIR_NATIVE TARGET_ARCH TARGET_SYS TEGRA_PKGARCH THISDIR
    TOOLCHAIN_OPTIONS UNPACKDIR VIRTUAL-RUNTIME_base-utils base_libdir bindir datadir libdir localstatedir mandir
    nonarch_base_libdir nonarch_libdir sbindir sysconfdir systemd_system_unitdir
""".split())
# Classes of OE-core and meta-rauc.
CLASSES = {"allarch", "bundle", "cargo", "core-image", "deploy", "nopackages", "pkgconfig", "systemd", "useradd"}
# What the Debian package has beside what a recipe installs: documentation, and the list of licences under another name.
NOT_IN_RECIPES = {"README.md", "CHANGELOG.md", "docs/boards.md", "board/package/spotter.sysusers"}

problems = []


def problem(path, text):
    problems.append(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {text}")


def read(path):
    """A BitBake file with continued lines joined and comments gone."""
    text = re.sub(r"\\\n", " ", path.read_text())
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def values(text, name):
    """Every value that a variable is given, whatever the operator and override."""
    return re.findall(rf'^(?:export )?{re.escape(name)}(?::[\w${{}}-]+)*\s*(?:[?:+.]|\?\?)?=[+.]?\s*"([^"]*)"', text, re.MULTILINE)


def metadata():
    kinds = ("*.bb", "*.bbappend", "*.bbclass", "*.inc", "*.conf", "*.wks.in")
    return sorted(path for kind in kinds for path in LAYER.rglob(kind) if "files" not in path.parts or kind == "*.wks.in")


def check_variables():
    """A name that is read must be set in the layer or be known; old override syntax is refused."""
    texts = {path: read(path) for path in metadata()}
    # Functions of the shell have variables of their own: ${NAME} is BitBake's there too, $name is not.
    defined = {name for text in texts.values() for name in re.findall(r"^(?:export )?([A-Za-z][\w.-]*)(?:[:\[ ?+.=])", text, re.MULTILINE)}
    for path, text in texts.items():
        read_here = set(re.findall(r"\$\{([A-Za-z][\w.-]*)\}", text)) | set(re.findall(r"getVar\([\"'](\w[\w-]*)[\"']", text))
        for name in sorted(read_here - defined - KNOWN):
            problem(path, f"reads {name}, which nothing sets; if another layer does, add it to KNOWN in yocto/check.py")
        for name in re.findall(r"^(\w+_(?:append|prepend|remove)(?:_\w+)?)\s*\+?=", text, re.MULTILINE):
            problem(path, f"{name} has the override syntax of before 2021: a colon, not an underscore")


def check_recipes():
    for path in sorted(LAYER.rglob("*.bb")):
        text = read(path)
        for name in ("SUMMARY", "LICENSE"):
            if not values(text, name):
                problem(path, f"has no {name}")
        if "core-image" not in text and "inherit bundle" not in text and not values(text, "LIC_FILES_CHKSUM"):
            problem(path, "has no LIC_FILES_CHKSUM")
        if not re.fullmatch(r"[a-z0-9-]+(_[0-9][\w.+-]*)?\.bb", path.name):
            problem(path, "is not named NAME.bb or NAME_VERSION.bb")
        check_licence(path, text)
    for path in metadata():
        text = read(path)
        for line in re.findall(r"^inherit (.*)$", text, re.MULTILINE):
            for name in line.split():
                if name not in CLASSES and not (LAYER / f"classes-recipe/{name}.bbclass").exists():
                    problem(path, f"inherits {name}, a class that is neither here nor known; see CLASSES in yocto/check.py")
        for name in re.findall(r"^(?:require|include) (\S+)$", text, re.MULTILINE):
            if not (path.parent / name).exists():
                problem(path, f"requires {name}, which is not there")
        if path.suffix in (".bb", ".bbappend"):
            check_files(path, text)


def check_licence(path, text):
    for entry in " ".join(values(text, "LIC_FILES_CHKSUM")).split():
        found = re.fullmatch(r"file://([^;]+);md5=([0-9a-f]{32})", entry)
        if not found:
            problem(path, f"{entry} is no licence's file and MD5")
            continue
        file = ROOT / found[1]
        # Of a file in a download the checksum is BitBake's matter.
        if file.exists() and hashlib.md5(file.read_bytes()).hexdigest() != found[2]:
            problem(path, f"the MD5 of {found[1]} is {hashlib.md5(file.read_bytes()).hexdigest()} by now; read what changed, then take it over")


def check_files(path, text):
    """Each file:// is where BitBake looks: in spotter's tree, beside the recipe, or where FILESEXTRAPATHS says."""
    name = path.stem.partition("_")[0]
    places = [path.parent / "files", path.parent / name]
    for value in re.findall(r'^FILESEXTRAPATHS:\S+ := "([^"]*)"', text, re.MULTILINE):
        value = value.replace("${THISDIR}", str(path.parent)).replace("${SPOTTER_SOURCE}", str(ROOT))
        places += [pathlib.Path(place) for place in value.split(":") if place]
    if "spotter-source" in text or "spotter-board" in text:
        places.append(ROOT)
    if ROOT in places:
        for file in re.findall(r"\$\{S\}/([\w./*-]+)", text):
            if not list(ROOT.glob(file)):
                problem(path, f"installs {file}, which is not in spotter's tree")
    for uri in " ".join(values(text, "SRC_URI")).split():
        if uri.startswith("file://"):
            file, *parameters = uri.removeprefix("file://").split(";")
            if not any((place / file).exists() for place in places):
                problem(path, f"{file} is in none of {', '.join(str(place) for place in places)}")
            if (ROOT / file).exists() and "subdir=source" not in parameters and not any((place / file).exists() for place in places[:2]):
                if "SPOTTER_SOURCE" not in text:
                    problem(path, f"{file} is of spotter's tree: it wants ;subdir=source")
        elif uri.startswith("http"):
            label = dict(p.split("=", 1) for p in uri.split(";")[1:]).get("name", "")
            pins = re.findall(r'^SRC_URI\[[\w.-]*sha256sum\] = "([0-9a-f]{64})"', text, re.MULTILINE)
            if not label or not pins:
                problem(path, f"{uri} has no SHA-256")


def check_dynamic_layers():
    patterns = re.findall(r"\$\{LAYERDIR\}/(dynamic-layers/\S+)", read(LAYER / "conf/layer.conf"))
    found = {file for pattern in patterns for file in LAYER.glob(pattern)}
    for file in (LAYER / "dynamic-layers").rglob("*.bb*"):
        if file not in found:
            problem(file, "is in no pattern of BBFILES_DYNAMIC")


def one(path, text, name):
    got = values(text, name)
    if len(got) != 1:
        problem(path, f"sets {name} {len(got)} times instead of once")
    return got[0] if got else ""


def check_versions():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    layer = LAYER / "conf/layer.conf"
    if one(layer, layer.read_text(), "SPOTTER_VERSION") != package["version"]:
        problem(layer, f"SPOTTER_VERSION is not Cargo.toml's {package['version']}")
    try:
        text = crates.render(tomllib.loads(crates.LOCK.read_text()))
        if not crates.LIST.exists() or crates.LIST.read_text() != text:
            problem(crates.LIST, "is not what Cargo.lock says; run yocto/crates.py")
    except ValueError as error:
        problem(crates.LOCK, str(error))


def check_wheel():
    """The library is the one that setup.sh fetches."""
    setup = (ROOT / "setup.sh").read_text()
    wheel, version = re.search(r"RUNTIME_WHEEL=([\w-]+)==([\d.]+)", setup).groups()
    pins = re.search(r"RUNTIME_WHEEL_SHA256=\((.*?)\)", setup, re.DOTALL)[1]
    (recipe,) = LAYER.glob("recipes-spotter/tensorflow-lite/*.bb")
    text = read(recipe)
    if f"{wheel.replace('-', '_')}-{version}-" not in one(recipe, text, "WHEEL"):
        problem(recipe, f"WHEEL is not setup.sh's {wheel} {version}")
    for arch, pin in re.findall(r"\[(\w+)\]=([0-9a-f]{64})", pins):
        if f'SRC_URI[{arch}.sha256sum] = "{pin}"' not in text:
            problem(recipe, f"the SHA-256 for {arch} is not setup.sh's")


def check_partitions():
    """The .wks files have the sizes, numbers and order of board/image/disk.sh."""
    disk = (ROOT / "board/image/disk.sh").read_text()
    size = {name: number for name, number in re.findall(r"\b(\w+)_MIB=(\d+)", disk)}
    order = re.findall(r"^ +entry (\S+)", disk, re.MULTILINE)
    identity = re.search(r"^readonly DISK_ID=(\w+)", disk, re.MULTILINE)[1]
    for path in sorted((LAYER / "files/wic").glob("*.wks.in")):
        lines = [line for line in path.read_text().splitlines() if line.startswith("part ")]
        if len(lines) != len(order):
            problem(path, f"has {len(lines)} partitions, disk.sh {len(order)}")
        for number, (line, name) in enumerate(zip(lines, order), 1):
            mib = size[name.partition("-")[0].upper()]
            if f"--fixed-size {mib}M " not in line:
                problem(path, f"partition {number} is {name}: {mib} MiB")
            if "--uuid" in line and f"--uuid {identity}-0000-4000-8000-00000000000{number}" not in line:
                problem(path, f"partition {number} has not disk.sh's PARTUUID")
            if "--part-name" in line and f"--part-name {name} " not in line:
                problem(path, f"partition {number} is not named {name}")
        if "ptable msdos" in path.read_text() and f"--diskid 0x{identity}" not in path.read_text():
            problem(path, f"the disk's number is not {identity}")


def check_boards():
    """Who a bundle is for, and the machines of the kas files."""
    board_class = LAYER / "classes-recipe/spotter-board.bbclass"
    machines = dict(re.findall(r'^SPOTTER_BOARD:(\S+) = "(\S+)"', board_class.read_text(), re.MULTILINE))
    for board in sorted(set(machines.values())):
        metas = [ROOT / f"board/{board}/meta", *LAYER.glob(f"dynamic-layers/*/recipes-spotter/spotter-box/files/{board}.sh")]
        meta = next((file for file in metas if file.exists()), None)
        if meta is None:
            problem(board_class, f"there is no board {board}")
        elif f"COMPATIBLE=spotter-{board}\n" not in meta.read_text():
            problem(meta, f"COMPATIBLE is not spotter-{board}, as bundles of the layer have it")
    for file in sorted((HERE / "kas").glob("*.yml")):
        for machine in re.findall(r"^machine: (\S+)", file.read_text(), re.MULTILINE):
            # A Jetson's machine has its module's override.
            if machine not in machines and not ("orin-nano" in machine and "orin-nano" in machines):
                problem(file, f"the machine {machine} has no board in spotter-board.bbclass")
        for other in re.findall(r"^ +- (\S+\.yml)$", file.read_text(), re.MULTILINE):
            if not (file.parent / other).exists():
                problem(file, f"includes {other}, which is not there")


def check_box():
    """Units, user and files as the SD images and the Debian package have them."""
    box = LAYER / "recipes-spotter/spotter-box/spotter-box.bb"
    listed = set(one(box, read(box), "SYSTEMD_SERVICE:${PN}").split())
    places = (ROOT / "board/systemd", ROOT / "board/image/rootfs/etc/systemd/system")
    units = {file.name: file for place in places for file in place.glob("spotter-*.*")}
    wanted = {name for name, file in units.items() if file.is_file() and "[Install]" in file.read_text()}
    for name in sorted(wanted - listed):
        problem(box, f"{name} has an [Install] section and is not in SYSTEMD_SERVICE")
    for name in sorted(listed - wanted):
        problem(box, f"{name} is in SYSTEMD_SERVICE, and no unit of board/ that can be enabled")

    recipe = LAYER / "recipes-spotter/spotter/spotter.bb"
    text = read(recipe)
    user, comment, home = re.search(r'^u (\S+) - "([^"]*)" (\S+)', (ROOT / "board/package/spotter.sysusers").read_text(), re.MULTILINE).groups()
    added = one(recipe, text, "USERADD_PARAM:${PN}")
    for part in (f"--comment '{comment}'", f"--home-dir {home} ", f" {user}"):
        if part not in added + " ":
            problem(recipe, f"the user has not {part.strip()}, as board/package/spotter.sysusers has it")

    models = (LAYER / "recipes-spotter/spotter/spotter-models.bb").read_text()
    for source, *_ in tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["deb"]["assets"]:
        if source in NOT_IN_RECIPES or source.startswith(("target/", "runtime/")):
            continue
        if source.startswith("models/"):
            if not any(f"${{S}}/models/{name}" in models for name in ("*" + pathlib.Path(source).suffix, pathlib.Path(source).name)):
                problem(recipe, f"{source} is in the Debian package and in no recipe")
        elif f"${{S}}/{source}" not in text:
            problem(recipe, f"{source} is in the Debian package and in no recipe")


def main():
    for check in (check_variables, check_recipes, check_dynamic_layers, check_versions, check_wheel, check_partitions, check_boards, check_box):
        check()
    for line in problems:
        print(f"yocto: {line}", file=sys.stderr)
    if problems:
        sys.exit(f"yocto: {len(problems)} problems")
    print(f"yocto: the layer's {len(metadata())} files, its crates and what it shares with board/ and setup.sh are in order")


if __name__ == "__main__":
    main()
