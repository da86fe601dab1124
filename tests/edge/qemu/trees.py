# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders that look like QEMU's source, and what pretends to build them."""

from pathlib import Path


CONFIGURE = """#!/bin/sh
echo "configured $*"
mkdir -p pyvenv/bin && ln -sf "$PYTHON_OF_TEST" pyvenv/bin/python3 && touch build.ninja
"""
# Makes the programs that it is told (-C DIR -jN PROGRAM...), each of which says its version.
NINJA = r"""
cd "$2"
shift 3
echo "[1/2] Compiling"
for name; do
    printf '#!/bin/sh\necho "QEMU emulator version %s (test)"\n' "$(cat ../src/VERSION)" >$name
    chmod +x $name
done
echo "[2/2] Linking"
"""


def tree_of(tree: Path, version: str) -> Path:
    for folder in ("qapi", "hw", "configs/devices"):
        (tree / folder).mkdir(parents=True)
    (tree / "qapi" / "qapi-schema.json").touch()
    (tree / "VERSION").write_text(f"{version}\n")
    (tree / "configure").write_text(CONFIGURE)
    (tree / "configure").chmod(0o755)
    return tree
