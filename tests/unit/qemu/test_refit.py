# SPDX-License-Identifier: GPL-2.0-or-later
"""The context of a hunk is cut to what several versions of QEMU share."""

from pathlib import Path

import pytest

from cvmlab.qemu.refit import Tree, refit


OLD = ["int a;", "int b;", "int c;", "int d;", "int e;", "int f;", "int g;"]
PATCH = """say why

---
diff --git a/x.c b/x.c
--- a/x.c
+++ b/x.c
@@ -1,6 +1,7 @@ heading
 int a;
 int b;
 int c;
+int new;
 int d;
 int e;
 int f;
"""


def trees(tmp_path: Path, *contents: list[str]) -> list[Tree]:
    made = []
    for number, lines in enumerate(contents):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "x.c").write_text("\n".join(lines) + "\n")
        made.append(Tree(root, f"1{number}.0"))
    return made


def hunk(text: str) -> list[str]:
    return text.split("+++ b/x.c\n")[1].rstrip("\n").split("\n")


def test_a_hunk_that_fits_everywhere_stays_as_it_is(tmp_path: Path) -> None:
    assert refit(PATCH, trees(tmp_path, OLD, ["int z;", *OLD])) == (PATCH, [])


@pytest.mark.parametrize(("renamed", "context"), [("int a;", 2), ("int e;", 1), ("int f;", 2)])
def test_the_context_is_as_large_as_all_versions_share(
    tmp_path: Path, renamed: str, context: int
) -> None:
    newer = [line.replace(renamed, "long x;") for line in OLD]
    text, misfits = refit(PATCH, trees(tmp_path, OLD, newer))
    first = 4 - context
    size = 2 * context
    assert misfits == []
    assert hunk(text) == [
        f"@@ -{first},{size} +{first},{size + 1} @@ heading",
        *(f" {line}" for line in OLD[3 - context : 3]),
        "+int new;",
        *(f" {line}" for line in OLD[3 : 3 + context]),
    ]


def test_a_hunk_that_a_version_has_no_place_for_stays_and_is_listed(tmp_path: Path) -> None:
    newer = [line.replace("int d;", "long d;") for line in OLD]
    assert refit(PATCH, trees(tmp_path, OLD, newer)) == (
        PATCH,
        ["x.c: @@ -1,6 +1,7 @@ heading does not fit 11.0"],
    )


def test_a_context_that_occurs_twice_is_none(tmp_path: Path) -> None:
    newer = ["int a;", "int X;", "int c;", "int d;", "int Y;", "int f;", "int c;", "int d;"]
    _, misfits = refit(PATCH, trees(tmp_path, OLD, newer))
    assert misfits == ["x.c: @@ -1,6 +1,7 @@ heading does not fit 11.0"]


def test_hunks_are_looked_for_after_the_one_before(tmp_path: Path) -> None:
    second = PATCH + "@@ -1,2 +2,3 @@\n int a;\n+int again;\n int b;\n"
    _, misfits = refit(second, trees(tmp_path, OLD))
    assert misfits == ["x.c: @@ -1,2 +2,3 @@ does not fit 10.0"]


def test_a_later_patch_sees_what_an_earlier_one_did(tmp_path: Path) -> None:
    (tree,) = trees(tmp_path, OLD)
    refit(PATCH, [tree])
    later = PATCH.replace("+int new;", "-int new;").replace("-1,6 +1,7", "-1,7 +1,6")
    assert refit(later, [tree]) == (later, [])
