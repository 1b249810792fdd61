"""The terminal still of the README: a merge, Ctrl-C, and the same command again.

    python benchmarks/checkpoints.py models
    pip install pyte
    python docs/figures/terminal.py models

runs the commands in a terminal of its own and draws what is on its screen at the end as terminal.svg.
"""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

COLUMNS, LINES = 124, 40
RECIPE = """\
base_model: {models}/base
models:
  - {{model: {models}/expert0, parameters: {{weight: 0.4}}}}
  - {{model: {models}/expert1, parameters: {{weight: 0.4}}}}
  - {{model: {models}/expert2, parameters: {{weight: 0.4}}}}
merge_method: task_arithmetic
dtype: bfloat16
"""
COMMANDS = (("merge recipe.yaml merged/", 0.5), ("status merged/", None), ("merge recipe.yaml merged/", None))
TARGET = Path(__file__).with_name("terminal.svg")
#: rich's, without the fonts that it loads from another site.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def run(arguments: str, folder: Path, stream: pyte.Stream, stop_at: float | None) -> None:
    """Run a command of svc-dist on the screen; ``stop_at``: press Ctrl-C at this share of its progress."""
    stream.feed(f"\x1b[1;32m$\x1b[0m svc-dist {arguments}\r\n")
    master, slave = pty.openpty()
    environment = {
        **os.environ,
        "COLUMNS": str(COLUMNS),
        "LINES": str(LINES),
        "TERM": "xterm-256color",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "svc_dist", *arguments.split()]
    process = subprocess.Popen(
        command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    while True:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # the other end is closed
                break
            stream.feed(data.decode("utf-8", "replace"))
        elif process.poll() is not None:
            break
        shards = list((folder / "merged" / ".svc_dist" / "receipts").glob("*"))
        if stop_at is not None and len(shards) > 40:
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            stop_at = None
    process.wait()
    os.close(master)
    stream.feed("\r\n")


def main() -> None:
    models = Path(sys.argv[1]).resolve()
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE.format(models=models))
        for arguments, stop_at in COMMANDS:
            run(arguments, folder, stream, stop_at)
        hidden = str(folder)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    text = "\n".join(line.rstrip() for line in screen.display).rstrip()
    console.print(styled(screen, text.count("\n") + 1), soft_wrap=True)
    drawn = console.export_svg(title="svc-dist", theme=DIMMED_MONOKAI, code_format=FORMAT, unique_id="terminal")
    TARGET.write_text(drawn.replace(hidden + "/", ""), encoding="utf-8")


def styled(screen: pyte.Screen, lines: int) -> Text:
    """The screen's first lines with their colours."""
    result = Text()
    for row in range(lines):
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
            colour = f"#{colour}" if len(colour) == 6 and all(c in "0123456789abcdef" for c in colour) else colour
            result.append(cell.data, f"{'bold ' if cell.bold else ''}{colour}".strip())
        result.append("\n")
    return result


if __name__ == "__main__":
    main()
