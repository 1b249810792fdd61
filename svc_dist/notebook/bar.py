"""A bar of progress in a notebook: one output that is replaced, without scripts and widgets."""

from __future__ import annotations

import sys
from html import escape
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose outputs can be replaced. Imports nothing."""
    loaded = sys.modules.get("IPython")
    shell = None if loaded is None else loaded.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Shows a share and a text in the output of the cell that runs."""

    def __init__(self) -> None:
        self._handle: Any = None

    def start(self) -> None:
        pass  # the first update makes the output

    def update(self, share: float, text: str) -> None:
        """Show a share in [0, 1] in place of the one before."""
        from IPython.display import display

        line = f"{share:.0%} done: {text}"
        drawn = f'<progress max="1" value="{share:.4f}" style="width:16em;vertical-align:middle"></progress>'
        shown = {"text/plain": line, "text/html": f"<div>{drawn} {escape(line)}</div>"}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def stop(self) -> None:
        pass  # the last state stays
