"""What each code of an error or a warning means: the texts of ``codes.md``, the one table of codes.

An entry of that file begins with ``## code``. Its lines are the kind and what happened, then ``Why``, ``Do``,
``Example`` and ``mergekit``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import nearest

_LINE = re.compile(r"\*(?:\*(?P<label>\w+):\*|(?P<kind>\w+)\.)\* (?P<text>.+)")


@dataclass(frozen=True)
class Explanation:
    """A code: whether an ``Error`` or a ``Warning``, what it means, why svc_dist stops or warns, what to do, an
    example, and what mergekit does."""

    code: str
    kind: str
    what: str
    why: str
    do: str
    example: str
    mergekit: str

    def text(self) -> str:
        """For a terminal."""
        why = "Why svc_dist stops" if self.kind == "Error" else "Why svc_dist warns"
        lines = {why: self.why, "What to do": self.do, "Example": self.example, "mergekit": self.mergekit}
        about = "\n".join(f"{label}: {text}" for label, text in lines.items())
        return f"{self.code} ({self.kind.lower()})\n{self.what}\n\n{about}"

    def markdown(self) -> list[str]:
        """For a page of the documentation."""
        lines = {"Why": self.why, "What to do": self.do, "Example": self.example, "mergekit": self.mergekit}
        return [f"### {self.code}", "", self.what, "", *(f"- **{name}:** {text}" for name, text in lines.items()), ""]


@functools.cache
def explanations() -> dict[str, Explanation]:
    """Every code with its explanation, in the file's order. Raises ValueError for an entry that is not complete."""
    text = resources.files("svc_dist.recipe.writing").joinpath("codes.md").read_text(encoding="utf-8")
    found: dict[str, Explanation] = {}
    for entry in text.split("## ")[1:]:
        code, *lines = entry.strip().splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        parts = {match["label"] or "what": match["text"] for match in matches if match is not None}
        kinds = [match["kind"] for match in matches if match is not None and match["kind"]]
        if list(parts) != ["what", "Why", "Do", "Example", "mergekit"] or len(kinds) != 1 or len(lines) != len(parts):
            raise ValueError(f"codes.md: the entry {code} is not complete: {list(parts)}")
        if code in found:
            raise ValueError(f"codes.md: two entries {code}")
        found[code] = Explanation(code, kinds[0], *parts.values())
    return found


def explain(code: str) -> Explanation:
    """The explanation of a code. Raises RecipeError for an unknown one."""
    known = explanations()
    if code not in known:
        raise RecipeError(f"there is no code '{code}'", nearest(code, known), code="value-not-allowed")
    return known[code]


def page() -> str:
    """The page with all codes, as Markdown."""
    lines = [
        "# Errors and warnings",
        "",
        "An error of a recipe, a plan or a run ends with `explain: svc-dist recipe explain CODE`, and a warning with",
        "its code in brackets. With `--log-format json` the code is the field `code`; in Python it is `error.code`.",
        "Codes keep their names.",
        "",
    ]
    for kind, title in (("Error", "Errors"), ("Warning", "Warnings")):
        lines += [f"## {title}", ""]
        for one in sorted(explanations().values(), key=lambda one: one.code):
            lines += one.markdown() if one.kind == kind else []
    return "\n".join(lines).rstrip() + "\n"
