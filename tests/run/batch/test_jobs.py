"""Which merges a batch has, and where they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import RecipeError
from svc_dist.run.batch.jobs import Job, read_jobs
from svc_dist.storage.access import DEFAULT_ACCESS


def listed(folder: Path, text: str, output: str | None = None) -> list[Job]:
    (folder / "list.yaml").write_text(text)
    return read_jobs(str(folder / "list.yaml"), output, DEFAULT_ACCESS)


def refused(folder: Path, text: str, output: str | None = "out") -> str:
    with pytest.raises(RecipeError) as caught:
        listed(folder, text, output)
    assert caught.value.code == "batch-refused"
    return str(caught.value)


def test_a_folder_gives_its_recipes_in_natural_order(tmp_path: Path) -> None:
    for name in ("10-code.yaml", "2-math.yml", "notes.txt", ".hidden.yaml", "config.json"):
        (tmp_path / name).write_text("")
    jobs = read_jobs(f"{tmp_path}/", "s3://bucket/{recipe}/{date}", DEFAULT_ACCESS)
    assert jobs == [
        Job("2-math", f"{tmp_path}/2-math.yml", "s3://bucket/2-math/{date}"),
        Job("10-code", f"{tmp_path}/10-code.yaml", "s3://bucket/10-code/{date}"),
    ]
    assert [job.output for job in read_jobs(str(tmp_path), "out/", DEFAULT_ACCESS)] == ["out/2-math", "out/10-code"]


def test_a_list_gives_its_entries_in_order_with_paths_beside_it(tmp_path: Path) -> None:
    text = """\
    - sub/math.yaml
    - {recipe: s3://b/code.yaml, output: "merged/{recipe}"}
    - {recipe: /r/math.yaml, name: strong, set: {parameters.lambda: 0.8}, output: "s3://b/{recipe}/{date}"}
    """
    assert listed(tmp_path, text, "out/{recipe}-x") == [
        Job("math", f"{tmp_path}/sub/math.yaml", "out/math-x"),
        Job("code", "s3://b/code.yaml", f"{tmp_path}/merged/code"),
        Job("strong", "/r/math.yaml", "s3://b/strong/{date}", {"parameters.lambda": 0.8}),
    ]


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("base_model: b", "a mapping, as a recipe is"),
        ("[]", "has no list of recipes"),
        ("- 3", "list.yaml:1 ([0]): an entry is a recipe's path"),
        ("- a.yaml\n- {recpie: b.yaml}", "list.yaml:2 ([1].recpie): unknown key 'recpie'\n  did you mean 'recipe'?"),
        ("- {name: a}", "`recipe` is missing"),
        ("- {recipe: 3}", "3 is no text"),
        ("- {recipe: a.yaml, name: ../b}", "'../b' is no name of a folder"),
        ("- {recipe: a.yaml, set: 3}", "must be a mapping"),
        ("- a.yaml\n- {recipe: sub/a.yaml, output: other}", "two merges are called a:"),
        ("- {recipe: a.yaml, output: o}\n- {recipe: b.yaml, output: o}", "a and b have the same output"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_line(tmp_path: Path, text: str, about: str) -> None:
    assert about in refused(tmp_path, text)


def test_an_output_must_be_given_for_each(tmp_path: Path) -> None:
    assert "list.yaml:2 ([1]): no output is given for b" in refused(
        tmp_path, "- {recipe: a.yaml, output: o}\n- b.yaml", None
    )
    with pytest.raises(RecipeError, match="OUTPUT is missing"):
        read_jobs(str(tmp_path), None, DEFAULT_ACCESS)


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_text("")
    for source, about in (
        (tmp_path, "has no recipe"),
        (tmp_path / "no", "does not exist"),
        (tmp_path / "recipe", "is a file"),
    ):
        with pytest.raises(RecipeError, match=about):
            read_jobs(str(source), "out", DEFAULT_ACCESS)
