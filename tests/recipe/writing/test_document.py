"""Changes to a text leave all else as it is, in block and in flow style."""

from __future__ import annotations

import pytest
import yaml

from svc_dist.recipe.origin import KeyPath
from svc_dist.recipe.writing.document import Document

TEXT = """\
a: 1  # one
# about b
b:
  - x: 1
    y: 2   # two
    # about z
    z: {p: 1, q: 2}
  - x: |
      text
    y: 'quoted'
c: {one: 1, two: [1,
    2]}
"""


@pytest.mark.parametrize(
    "path",
    [("a",), ("b", 0, "x"), ("b", 0, "y"), ("b", 0, "z"), ("b", 0, "z", "p"), ("b", 0, "z", "q"), ("b", 1, "x"),
     ("b", 1, "y"), ("c", "one"), ("c", "two"), ("b",), ("c",)],
)  # fmt: skip
def test_remove(path: KeyPath) -> None:
    document = Document(TEXT)
    document.remove(path, ["fix: why"])
    expected = yaml.safe_load(TEXT)
    holder = expected
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    assert yaml.safe_load(document.changed()) == expected
    assert "# fix: why\n" in document.changed()


def test_the_only_key() -> None:
    document = Document("a:\n  b: 1\nc: 2\n")
    assert document.is_alone(("a", "b"))
    document.remove(("a", "b"), ["fix: why"])
    assert yaml.safe_load(document.changed()) == {"a": {}, "c": 2}


def test_replace_rename_and_comment() -> None:
    document = Document(TEXT)
    document.replace(("b", 1, "y"), "3", "fix: number")
    document.rename(("b", 0, "z", "q"), "r", "fix: name")
    document.comment(("b", 0), ["fix: item"])
    document.append(["fix: end"])
    text = document.changed()
    assert yaml.safe_load(text)["b"] == [{"x": 1, "y": 2, "z": {"p": 1, "r": 2}}, {"x": "text\n", "y": 3}]
    assert "    # about z\n    # fix: name\n    z: {p: 1, r: 2}\n" in text
    assert "b:\n  # fix: item\n  - x: 1\n" in text
    assert text.endswith("# fix: end\n")
    assert text.startswith("a: 1  # one\n# about b\n")


def test_long_comments_are_wrapped_and_code_is_not() -> None:
    document = Document("a: 1\n")
    document.comment(("a",), ["word " * 40, "    " + "code" * 40])
    lines = document.changed().splitlines()
    assert [len(line) < 121 for line in lines] == [True, True, False, True]


def test_a_text_without_a_newline_at_its_end() -> None:
    document = Document("a: 1\nb: 2")
    document.remove(("b",), ["fix: why"])
    document.append(["fix: end"])
    assert yaml.safe_load(document.changed()) == {"a": 1}
