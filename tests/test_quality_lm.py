"""The language model's benchmark on a tiny random model: tasks, scores, training that resumes, merges and tables."""

from __future__ import annotations

import datetime
import itertools
import json
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.quality import results
from benchmarks.quality.lm import data, grid, model, record, rules, scores, steps, tables, translations
from benchmarks.quality.lm.data import TASKS, Item
from benchmarks.quality.lm.kinds import KINDS
from benchmarks.quality.lm.training import Budget, Training, train
from benchmarks.quality.merging import Place, outputs, write_recipe

WORDS, WIDTH = 48, 32
STEPS = 6


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a tiny base, and items that need no tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base-model")
    draw = random.Random(0)
    for shift, name in enumerate(TASKS):
        parts = {part: [_entry(draw, shift) for _ in range(24)] for part in data.SIZES}
        results.write(folder / "data" / f"{name}.json", parts)
    abilities = {kind: [_entry(draw, 9) for _ in range(3)] for kind in ("prose", "facts", "instructions")}
    results.write(folder / "data" / "abilities.json", abilities)
    return folder


def _entry(draw: random.Random, shift: int) -> list[list[int]]:
    """A prompt that begins with its task; the answer is its last token, shifted."""
    words = [draw.randrange(WORDS) for _ in range(draw.randrange(2, 5))]
    return [[shift, *words], [(words[-1] + shift + 1) % WORDS, 0]]


@pytest.mark.parametrize("name", ["sql", "dates", "numbers", "shell"])
def test_splits_share_no_prompt_and_a_prompt_has_one_answer(name: str) -> None:
    parts = data.splits(TASKS[name])
    assert {part: len(pairs) for part, pairs in parts.items()} == data.SIZES
    prompts = [prompt for pairs in parts.values() for prompt, _ in pairs]
    assert len(set(prompts)) == len(prompts)
    assert parts == data.splits(TASKS[name])
    answers: dict[str, set[str]] = {}
    for prompt, answer in itertools.islice(TASKS[name].pairs(), 3000):
        answers.setdefault(prompt, set()).add(answer)
    assert all(len(found) == 1 for found in answers.values())


def test_queries_find_rows() -> None:
    pairs = list(itertools.islice(rules.sql(random.Random(1)), 300))
    assert all(rules.rows(query) for _, query in pairs)
    assert rules.rows("SELECT COUNT(*) FROM books;") == [(60,)]
    assert len({query.split("(")[0] for _, query in pairs}) > 20


def test_dates_are_those_of_the_calendar() -> None:
    for prompt, answer in itertools.islice(rules.dates(random.Random(1)), 300):
        asked = prompt.partition(": ")[2]
        if " after " in asked:
            count, _, start = asked.split(" ", 1)[0], *asked.rsplit(" ", 1)
            assert datetime.date.fromisoformat(start) + datetime.timedelta(int(count)) == datetime.date.fromisoformat(
                answer
            )
        elif asked.endswith("m"):
            assert datetime.datetime.strptime(asked, "%I:%M %p").time() == datetime.time.fromisoformat(answer)
        elif "/" in asked:
            assert datetime.datetime.strptime(asked, "%m/%d/%Y").date() == datetime.date.fromisoformat(answer)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety-nine"), (305, "three hundred and five"),
     (7000, "seven thousand"), (21316, "twenty-one thousand three hundred and sixteen")],
)  # fmt: skip
def test_numbers_in_words(number: int, text: str) -> None:
    assert rules.words(number) == text


def test_catalogue_is_read(tmp_path: Path) -> None:
    entries = [("", "header"), ("menu\4Save", "Sichern"), ("day\0days", "Tag\0Tage"), ("Show", "Zeigen")]
    texts = [[part.encode() for part in entry] for entry in entries]
    header, tables_size = 28, 8 * len(entries)
    position, places, body = header + 2 * tables_size, [], b""
    for column in (0, 1):
        for entry in texts:
            places.append((len(entry[column]), position + len(body)))
            body += entry[column] + b"\0"
    flat = [value for place in places for value in place]
    file = tmp_path / "django.mo"
    content = struct.pack("<7I", 0x950412DE, 0, len(entries), header, header + tables_size, 0, 0)
    file.write_bytes(content + struct.pack(f"<{len(flat)}I", *flat) + body)
    assert list(translations.messages(file)) == [("Save", "Sichern"), ("day", "Tag"), ("Show", "Zeigen")]


def test_scores_are_those_of_texts_one_by_one_and_of_greedy_decoding(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "bf16", lambda: False)  # whose rounding depends on the processor and on the batch
    tested = model.load(work / "base-model")
    items = data.read("sql", work)["test"]
    prompt = torch.tensor([items[0].prompt])
    decoded = tested.generate(
        prompt, max_new_tokens=3, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(prompt)
    )
    items = [*items, Item(items[0].prompt, decoded[0, prompt.shape[1] :].tolist())]
    losses = model.scores(tested, {"x": items}, {"x": model.loss})["x"]
    for item, loss in zip(items, losses, strict=True):
        logits = tested(torch.tensor([[*item.prompt, *item.answer]])).logits[0, len(item.prompt) - 1 : -1]
        assert loss == pytest.approx(model.loss(logits.detach(), torch.tensor(item.answer)), abs=1e-4)
    assert model.scores(tested, {"x": items}, {"x": model.exact})["x"][-1] == 1.0


def test_exact_needs_every_token_and_share_counts_them() -> None:
    logits = torch.eye(4)[[2, 1, 3]]
    assert (model.exact(logits, torch.tensor([2, 1, 3])), model.share(logits, torch.tensor([2, 1, 3]))) == (1.0, 1.0)
    assert model.exact(logits, torch.tensor([2, 0, 3])) == 0.0
    assert model.share(logits, torch.tensor([2, 0, 3])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_to_the_same_expert(work: Path, tmp_path: Path, kind: str) -> None:
    items = data.read("dates", work)["train"]
    arguments = (work / "base-model", items, KINDS[kind], 3, Budget(STEPS))
    train(*arguments, tmp_path / "whole")
    stopped = Training(*arguments, tmp_path / "parts.training")
    for _ in range(STEPS // 2):
        stopped.advance()
    stopped.save_state()
    train(*arguments, tmp_path / "parts")
    logs = [json.loads((tmp_path / name / "training_log.json").read_text())["losses"] for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == STEPS
    whole, parts = (_tensors(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert not (tmp_path / "parts.training").exists()


def test_kinds_change_what_they_should(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.quality.lm.kinds.ROWS", 20)
    base = _tensors(work / "base-model")
    items = data.read("dates", work)["train"]
    changed: dict[str, dict[str, int]] = {}
    for kind in ("full", "sparse"):
        train(work / "base-model", items, KINDS[kind], 0, Budget(STEPS), tmp_path / kind)
        rows = {
            name: int((tensor != base[name]).reshape(len(tensor), -1).any(1).sum())
            for name, tensor in _tensors(tmp_path / kind).items()
        }
        changed[kind] = {name: count for name, count in rows.items() if count}
    assert sum(changed["sparse"].values()) == 20
    matrices = {name for name, tensor in base.items() if tensor.ndim == 2}  # bfloat16 rounds changes of norms off
    assert matrices - set(changed["full"]) == {"model.embed_tokens.weight"}
    train(work / "base-model", items, KINDS["lora"], 0, Budget(STEPS), tmp_path / "lora")
    assert len(load_file(tmp_path / "lora" / "adapter_model.safetensors")) == 2 * 7 * 2


@pytest.mark.parametrize(("kind", "alike"), [("lora", True), ("lora-apart", False)])
def test_adapters_of_a_set_share_their_random_start_or_not(work: Path, tmp_path: Path, kind: str, alike: bool) -> None:
    items = data.read("dates", work)["train"]
    one, other = (
        Training(work / "base-model", items, KINDS[kind], 0, Budget(STEPS), tmp_path / str(number), number).parameters
        for number in (0, 1)
    )
    starts = [name for name in one if "lora_A" in name]
    assert starts
    assert all(torch.equal(one[name], other[name]) == alike for name in starts)


@pytest.mark.slow
def test_all_steps_with_tables(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEPS", STEPS)
    few = [*grid.AVERAGE, *grid.TASK_ARITHMETIC[2:], *grid.SVC[:2]]
    kinds = ["full", "lora"]
    steps.answer_base(work)
    for kind in kinds:
        for seed in (0, 1):
            steps.merge_rows(work, seed, kind, 3, few, 1)
    steps.merge_quantised(work, "full", 3, 1)
    page = tmp_path / "choosing.md"
    marked = ("lm methods", "lm inspected", "lm quantised")
    page.write_text("".join(f"before\n<!-- table: {name} -->\n<!-- end -->\nafter\n" for name in marked))
    found = tables.Results(work, [0, 1])
    tables.write_tables(found, tmp_path / "tables.md", page)
    by_method, inspected, quantised = (
        [line.split(" | ") for line in part.splitlines()] for part in page.read_text().split("after\n")[:3]
    )
    for kind in kinds:
        rows = [row for row in by_method if row[0] == f"| {kind}"]
        assert [row[2] for row in rows] == [
            "(base)", "(experts)", "average", "task arithmetic", "task arithmetic + SVC", "norms of SVC",
        ]  # fmt: skip
        assert all(row[-1] == "2 |" for row in rows[2:])
        ratios = list((work / "seed1" / kind / "K3" / "norm_ratios").glob("*.json"))
        assert len(json.loads(ratios[0].read_text())) == 14
        assert [row[2] for row in inspected if row[0] == f"| {kind}"] == ["0", "1"]
    assert "the rank correlation of SVC's gain is" in page.read_text()
    assert [row[2:4] for row in quantised if row[0] == "| full"] == [
        [name, row]
        for name in ("int4", "fp8")
        for row in ("(experts)", "task arithmetic", "task arithmetic + SVC")
    ]  # fmt: skip
    assert page.read_text().endswith("<!-- end -->\nafter\n")
    for folder in ("seed0/full/K3/merged", "seed1/lora/K3/merged", "seed0/full/K3/fp8/merged"):
        assert not list((work / folder).iterdir())
    alone = found.alone(0, "lora", "sql")
    assert alone is not None
    assert len(alone["sql"]) == 24
    from benchmarks.quality.lm import figures

    figures.draw(found, tmp_path / "figures")
    drawn = (tmp_path / "figures" / "choosing-lm.svg").read_text()
    assert all(text in drawn for text in ("full, K = 3", "lora, K = 3", "task arithmetic + SVC", "norms of SVC"))
    scores.pack(work, tmp_path / "scores.tar.xz")
    scores.pack(work, tmp_path / "again.tar.xz")
    assert (tmp_path / "scores.tar.xz").read_bytes() == (tmp_path / "again.tar.xz").read_bytes()
    for folder in ("data", "base-model"):
        shutil.copytree(work / folder, tmp_path / "elsewhere" / folder)
    scores.unpack(tmp_path / "elsewhere", tmp_path / "scores.tar.xz")
    from_scores = tables.Results(tmp_path / "elsewhere", [0, 1])
    assert tables.methods(from_scores) == tables.methods(found)
    assert tables.inspected(from_scores) == tables.inspected(found)
    assert tables.quantised(from_scores) == tables.quantised(found)
    record.write_record(found, tmp_path / "results.json")
    cases = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert [(case["experts"], case["count"]) for case in cases] == [("full", 3), ("lora", 3)]
    row = cases[0]["rows"][2]
    assert row["calibrate"] == {"method": "svc"} | ({"alpha": 0.5} if "alpha" in row["calibrate"] else {})
    assert row["over_task_arithmetic"][1] <= row["over_task_arithmetic"][0] <= row["over_task_arithmetic"][2]
    assert len(row["validation"]) == 2


def test_rank_correlation() -> None:
    assert tables.rank_correlation([1, 2, 3, 10], [4, 5, 60, 70]) == pytest.approx(1)
    assert tables.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert tables.rank_correlation([1, 1, 2, 3], [5, 6, 7, 7]) == pytest.approx(8 / 9)


def test_several_settings_are_one_merge_with_the_results_of_each(tmp_path: Path) -> None:
    """What a recipe with several results says of each of them is what a recipe of that one says."""
    from svc_dist.recipe.load import load_recipe

    where = Place(tmp_path / "base", tmp_path, ("a", "b"), (tmp_path / "a", tmp_path / "b"))
    for row in (grid.TASK_ARITHMETIC, grid.SVC, grid.TIES, grid.SWUDI_SVC, grid.MAGIC):
        several = load_recipe(write_recipe(row, where)).results
        for variant, result in zip(row, several, strict=True):
            (alone,) = load_recipe(write_recipe([variant], where)).results
            assert result.default == alone.default
            assert outputs(row, where)[1][row.index(variant)].name == result.path


def _tensors(folder: Path) -> dict[str, Any]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux only")
def test_jobs_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from benchmarks.quality.processes import together\n"
        "def job(name): (Path(sys.argv[1]) / name).write_text(str(os.getpid())); time.sleep(60)\n"
        "together(job, [('a',), ('b',), ('c',)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as run:
        while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    jobs = [int((tmp_path / name).read_text()) for name in "ab"]
    deadline = time.monotonic() + 20
    while any(_runs(job) for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "c").exists()


def _runs(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
