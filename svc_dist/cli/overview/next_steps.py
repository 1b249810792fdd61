"""What to do with a model that was just merged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

_ADAPTER, _MODEL = "adapter_config.json", "config.json"


def next_steps(output: str) -> list[str]:
    """Commands, with what each does above it. ``output``: where the merge went; of several results, the first stands
    for all."""
    return ["next:", *(f"  {line}" for about, command in _steps(output) for line in (f"# {about}", command))]


def _steps(output: str) -> Iterator[tuple[str, str]]:
    local = "://" not in output
    model, several = _first_result(output) if local else (output, False)
    place = shlex.quote(model)
    rest = ", and so each of the results" if several else ""
    if local and not (Path(model) / _ADAPTER).exists():
        yield f"load it in transformers and run it once{rest}", f"svc-dist smoke {place}"
    if not local:
        yield "read it back: checksums, NaN and Inf", f"svc-dist verify {place} --deep"
    if not output.startswith("hf://"):  # a page is written beside the model
        yield "a page: what the experts share, and what the merge made of it", f"svc-dist report {place}"
    if local:
        yield "publish it; svc-dist verify COPY --deep checks a copy anywhere", f"hf upload OWNER/NAME {place}"


def _first_result(output: str) -> tuple[str, bool]:
    """The folder of the first model in a merge, and whether it is one of several."""
    folder = Path(output)
    if any((folder / name).exists() for name in (_MODEL, _ADAPTER)):
        return output, False
    found = sorted(file.parent for name in (_MODEL, _ADAPTER) for file in folder.glob(f"**/{name}"))
    return (str(found[0]), len(found) > 1) if found else (output, False)
