"""Every error that a user can meet, with the exit code of the command; and text made harmless before it leaves.

Names from files must not move a terminal's cursor, colour a log or forge a line of it. All errors but
:class:`Interrupted` derive from :class:`SvcDistError`, can be pickled (Ray sends them between processes) and state the
problem, its location and the remedy.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import NewType


class ExitCode:
    """Exit codes of the command line, for batch schedulers."""

    DONE = 0
    USAGE = 2
    INPUT = 3
    STORAGE = 4
    LOCKED = 5
    UNITS_FAILED = 6
    INTERNAL = 70
    TRY_AGAIN = 75


#: What is said of an exception that is none of these errors, above its trace.
INTERNAL_ERROR = "internal error in svc-dist; please report it with its trace"


class SvcDistError(Exception):
    """Base of all errors of this package: a message, and optionally what to do (``hint``), both harmless to print.

    ``code``: the stable name of what is wrong, which ``svc-dist recipe explain`` explains.
    """

    exit_code = ExitCode.INTERNAL
    code: str | None = None

    def __init__(self, message: str, hint: str | None = None, *, code: str | None = None) -> None:
        self.code = code or self.code
        self.message = printable_lines(message)
        self.hint = None if hint is None else printable_lines(hint)
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class RecipeError(SvcDistError):
    """The recipe, an option or an argument is wrong. What is wrong with a recipe has a code of its own."""

    exit_code = ExitCode.USAGE
    code = "arguments-refused"


class PlanError(SvcDistError):
    """Some tensors of the inputs do not match, and no rule of the recipe decides about them."""

    exit_code = ExitCode.USAGE


class OutputError(SvcDistError):
    """The output has files that this run did not write, or cannot be an output."""

    exit_code = ExitCode.USAGE
    code = "output-refused"


class DamagedInputError(SvcDistError):
    """An input file is truncated, malformed or contradictory, or contains NaN or Inf."""

    exit_code = ExitCode.INPUT
    code = "input-damaged"


class ChangedInputError(SvcDistError):
    """An input or the recipe has changed since the run was planned."""

    exit_code = ExitCode.INPUT
    code = "input-changed"


class OtherMergeError(ChangedInputError):
    """The output holds a merge, unfinished or complete, that was made from something else than this one."""


class StorageError(SvcDistError):
    """Reading or writing failed: no space, no permission, not found, a device error."""

    exit_code = ExitCode.STORAGE
    code = "storage-failed"


class TransientStorageError(StorageError):
    """A transient storage failure: a retry may succeed."""


class MissingExtraError(SvcDistError):
    """An optional dependency that this command needs is not installed."""

    exit_code = ExitCode.USAGE
    code = "extra-missing"


class ResourceError(SvcDistError):
    """This machine has too little memory for a unit; the merge needs a larger machine."""

    exit_code = ExitCode.UNITS_FAILED
    code = "too-little-memory"


class LockedError(SvcDistError):
    """Another live run uses the output."""

    exit_code = ExitCode.LOCKED
    code = "output-in-use"


class NumericsError(SvcDistError):
    """A decomposition did not converge, or a result is not finite although the inputs are."""

    exit_code = ExitCode.UNITS_FAILED
    code = "numerics-failed"


class DeviceFailedError(SvcDistError):
    """A GPU failed: nothing more can be computed on it in this process. Another process or device can run the unit."""

    exit_code = ExitCode.UNITS_FAILED
    code = "device-failed"


class DeviceTooSmallError(SvcDistError):
    """A unit does not fit onto its GPU on any path: it can run on the cores of a host."""

    exit_code = ExitCode.UNITS_FAILED
    code = "device-too-small"


class UnitsFailedError(SvcDistError):
    """Some units failed for good; the run can be resumed."""

    exit_code = ExitCode.UNITS_FAILED
    code = "units-failed"


class VerificationError(SvcDistError):
    """The output is incomplete, malformed, or differs from what was recorded."""

    exit_code = ExitCode.INPUT
    code = "verification-failed"


class EvaluationError(SvcDistError):
    """A command that scores a merged model failed; the model is complete, and the command can be repeated."""

    exit_code = ExitCode.UNITS_FAILED
    code = "evaluation-failed"


class DrainedError(SvcDistError):
    """The run stopped gracefully on request; run the same command again to resume."""

    exit_code = ExitCode.TRY_AGAIN
    code = "stopped"


class ClusterLostError(SvcDistError):
    """The cluster of the run is gone or unreachable; run the same command again, on any cluster, to resume."""

    exit_code = ExitCode.TRY_AGAIN
    code = "cluster-lost"


class Interrupted(BaseException):
    """SIGTERM or Ctrl-C outside of a merge that could drain. Not an Exception, so that no handler catches it."""


#: A warning: text that ends with its code in brackets. ``warned`` makes it, so that none is without a code.
Warned = NewType("Warned", str)


def warned(code: str, text: str) -> Warned:
    """A warning with the stable name of what it is about, which ``svc-dist recipe explain`` explains."""
    return Warned(f"{text} [{code}]")


def warning_code(text: str) -> str | None:
    """The code at the end of a warning."""
    code = re.search(r" \[([a-z]+(?:-[a-z]+)*)\]$", text)
    return code and code[1]


def require_choice(option: str, value: object, allowed: Iterable[str]) -> None:
    """Raise RecipeError, with the nearest allowed value, when an option's value is none of those ``allowed``."""
    names = [str(name) for name in allowed]
    if value not in names:
        close = difflib.get_close_matches(str(value), names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else None
        raise RecipeError(f"{option} is {value!r}, but must be one of {', '.join(names)}", hint)


def require_count(option: str, value: object) -> None:
    """Raise RecipeError when an option's value is not a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RecipeError(f"{option} is {value!r}, but must be a whole number, at least 1")


def is_installed(*modules: str) -> bool:
    """Whether these top-level modules can be imported. Imports none of them."""

    def there(module: str) -> bool:
        if module in sys.modules:
            return sys.modules[module] is not None
        spec = importlib.util.find_spec(module)
        return spec is not None and spec.origin is not None  # a folder of that name has no origin

    return all(map(there, modules))


def require_extra(extra: str, what: str, *modules: str) -> None:
    """Raise MissingExtraError, with the command to type, unless ``what`` finds the modules that an extra installs."""
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed", f"pip install 'svc-dist[{extra}]'"
        )


_LONGEST = 500  # characters of a name in a message


def printable(name: str) -> str:
    """A name for a message, in one line: control, format and unpaired characters as escapes, the middle cut out."""
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}...{name[-_LONGEST // 2 :]}"
    return _escaped(name)


def printable_lines(text: str) -> str:
    """A whole message, which may have lines and tabs of its own: all else is escaped as in a name."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in text.split("\n"))


def printable_json(text: str) -> str:
    """JSON with everything but ASCII escaped: the same values, harmless on a terminal."""
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    utf16 = text.encode("utf-16-be", "surrogatepass")
    units = (int.from_bytes(utf16[at : at + 2], "big") for at in range(0, len(utf16), 2))
    return "".join(chr(unit) if unit < 0x7F else f"\\u{unit:04x}" for unit in units)


def has_control(text: str) -> bool:
    """Whether a text holds control or unpaired characters, which no path or URL of a person has."""
    return not text.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def has_unpaired(text: str) -> bool:
    """Whether a text holds unpaired surrogates, which stand for bytes that are no Unicode."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


class PrintableRecords(logging.Filter):
    """Makes the messages of a logger printable, whatever handler writes them."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable_lines(record.getMessage()), ()
        return True


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else ascii(letter)[1:-1]
        for letter in text
    )
