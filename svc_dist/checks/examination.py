"""What ``doctor`` saw: each of its findings, and all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svc_dist.errors import ExitCode, SvcDistError
from svc_dist.sizes import counted


@dataclass(frozen=True)
class Finding:
    """The result of a check. ``problem``: the error, with its remedy and the exit code, that a merge would meet."""

    subject: str
    seen: str
    problem: SvcDistError | None = None

    @property
    def exit_code(self) -> int:
        return ExitCode.DONE if self.problem is None else self.problem.exit_code

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        problem = self.problem
        return {
            "subject": self.subject,
            "state": "ok" if problem is None else "wrong",
            "seen": self.seen,
            "problem": None if problem is None else problem.message,
            "hint": None if problem is None else problem.hint,
            "code": None if problem is None else problem.code,
            "exit_code": self.exit_code,
        }

    def text(self) -> str:
        """One line: the subject, and what the check saw or the problem."""
        if self.problem is None:
            return f"{self.subject}: {self.seen}"
        remedy = f"; {self.problem.hint}" if self.problem.hint else ""
        return f"{self.subject}: {self.problem.message.removesuffix('.')}{remedy}".replace("\n", " ")


@dataclass(frozen=True)
class Examination:
    """The result of every check, in the order in which they ran."""

    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        wrong = [finding for finding in self.findings if finding.problem is not None]
        seen = f"{counted(len(wrong), 'problem')}: {wrong[0].text()}" if wrong else "ok"
        return f"<Examination: {seen}; {counted(len(self.findings), 'finding')}>"

    @property
    def ok(self) -> bool:
        """Whether a merge can run here."""
        return not self.exit_code

    @property
    def exit_code(self) -> int:
        """The exit code of the first problem; 0 for none."""
        return next((finding.exit_code for finding in self.findings if finding.problem is not None), ExitCode.DONE)

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        findings = [finding.data() for finding in self.findings]
        return {"state": "ok" if self.ok else "wrong", "exit_code": self.exit_code, "findings": findings}

    def text(self) -> str:
        """A line for each check."""
        return "\n".join(f"{'ok    ' if one.problem is None else 'WRONG '} {one.text()}" for one in self.findings)
