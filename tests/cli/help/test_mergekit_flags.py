"""A command that is given mergekit's flags says what replaces each of them."""

from __future__ import annotations

import pytest

from svc_dist.cli.app import app
from svc_dist.cli.help.mergekit_flags import FLAGS, replacements
from svc_dist.errors import ExitCode, RecipeError

#: The options of mergekit-yaml 0.1.5; of a pair of yes and no, the first.
OPTIONS = (
    "--allow-crimes --unsafe-truncate-embeddings --transformers-cache --lora-merge-cache --lora-merge-dtype --cuda "
    "--device --low-cpu-memory --out-shard-size --copy-tokenizer --clone-tensors --trust-remote-code --random-seed "
    "--lazy-unpickle --write-model-card --safe-serialization -v --quiet --read-to-gpu --multi-gpu --num-threads -j "
    "--gpu-rich --async-write --write-threads"
)


def test_every_flag_of_mergekit_has_a_replacement_or_is_a_flag_here_too() -> None:
    assert set(OPTIONS.split()) - set(FLAGS) == {"--device"}


@pytest.mark.parametrize(("command", "own"), [("merge", {"-v"}), ("plan", {"-v"}), ("doctor", set())])
def test_all_flags_of_a_command_line_are_named_at_once(command: str, own: set[str]) -> None:
    arguments = [command, "recipe.yaml", "merged", "--cuda", "--copy-tokenizer", "--out-shard-size=1B", "-vv", "--cuda"]
    with pytest.raises(RecipeError) as raised:
        app(arguments)
    assert raised.value.exit_code == ExitCode.USAGE
    lines = (raised.value.hint or "").splitlines()
    flags = ["--cuda", "--copy-tokenizer", "--out-shard-size", "-v"]
    assert [line.strip().partition(": ")[0] for line in lines] == [flag for flag in flags if flag not in own]
    assert "--max-shard-size" in lines[2]


def test_a_negated_flag_and_words_after_a_double_dash() -> None:
    assert list(replacements(["--no-cuda", "--", "--multi-gpu"], set())) == ["--no-cuda: no option: leave it out"]
    assert not list(replacements(["--device", "cuda", "--slots=2", "-j"], {"--device", "--slots", "-j"}))
