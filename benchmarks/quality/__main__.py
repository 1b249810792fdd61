"""``python -m benchmarks.quality``: run all steps, or the given ones. Results in the work folder are reused."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.quality import command
from benchmarks.quality.lm import command as lm
from benchmarks.quality.lm import scores
from benchmarks.quality.processes import PROCESSES
from benchmarks.quality.sources import SourceMissingError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--benchmark", choices=("encoder", "lm"), default="encoder", help="which base and tasks (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=Path("benchmark-work/quality"), help="folder for all results")
    parser.add_argument("--seeds", type=int, default=3, help="number of sets of experts")
    parser.add_argument("--brief", action="store_true", help="one set of experts, the main methods: within an hour")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder for tables and figures")
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="of the language model's benchmark, in parallel"
    )
    parser.add_argument(
        "--recorded", action="store_true",
        help="of the language model's benchmark: begin with the scores in the repository, measure what they lack",
    )  # fmt: skip
    parser.add_argument("steps", nargs="*", help="steps by name; default: all")
    chosen = parser.parse_args()
    work = chosen.work.absolute()
    if chosen.recorded:
        scores.unpack(work / "lm")
    if chosen.benchmark == "lm":
        actions = lm.actions(work / "lm", chosen.seeds, chosen.brief, chosen.docs, chosen.processes)
        names = chosen.steps or tuple(actions)
    else:
        actions = command.actions(work, chosen.seeds, chosen.brief, chosen.docs)
        names = chosen.steps or (command.BRIEF if chosen.brief else tuple(actions))
    unknown = set(chosen.steps) - set(actions)
    if unknown:
        parser.error(f"unknown step: {', '.join(sorted(unknown))}; the steps are {', '.join(actions)}")
    if "write" in names and not (chosen.docs / "choosing.md").is_file():
        parser.error(f"no choosing.md in {chosen.docs}: --docs must be the folder of the page whose tables are updated")
    try:
        for name in names:
            print(f"{name} ...", flush=True)
            actions[name]()
    except SourceMissingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
