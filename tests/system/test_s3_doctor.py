"""doctor finds what a merge would fail on, and clean removes what one has left: that, and nothing else."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import ExitCode
from svc_dist.run.executors import inline
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import tree_state, write_llamas, write_recipe
from tests.support.command import Run, started
from tests.support.gateway import Gateway
from tests.support.s3_files import begin_upload, listing, moto_is_slow, put, put_models, stopping_after, uploads
from tests.support.s3_servers import Bucket
from tests.system.test_hostile import tmpfs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("models"), vocabulary=4000)


@pytest.fixture
def recipe(s3: Bucket, models: list[Path], tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", put_models(s3, models), max_shard_size="700B")


def problems(said: str) -> list[str]:
    lines = said.splitlines()
    assert all(line.startswith(("ok     ", "WRONG  ")) for line in lines), said
    return [line for line in lines if line.startswith("WRONG")]


@moto_is_slow
def test_all_is_well(s3: Bucket, recipe: Path, run: Run, tmp_path: Path) -> None:
    before = listing(s3)
    for output in (f"{s3.url}/out", s3.url, str(tmp_path / "new" / "deeper" / "out")):
        ended = run("doctor", recipe, output, "--scratch", tmp_path / "scratch")
        assert (ended.code, problems(ended.out)) == (ExitCode.DONE, []), ended.out
        assert "honoured: the lock is exact" in ended.out or not output.startswith("s3")
        assert "scratch space" in ended.out
        assert "torch " in ended.out
    assert (listing(s3), uploads(s3)) == (before, set())
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "scratch").exists()


@moto_is_slow
def test_it_leaves_a_run_alone(s3: Bucket, recipe: Path, run: Run, tmp_path: Path) -> None:
    with stopping_after(3):
        svc_dist.merge(recipe, f"{s3.url}/out", slots=1)
    before = listing(s3), uploads(s3)
    assert run("doctor", recipe, f"{s3.url}/out").code == ExitCode.DONE
    assert (listing(s3), uploads(s3)) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    state = {name: value for name, value in tree_state(tmp_path / "out").items() if name != "."}
    assert run("doctor", recipe, tmp_path / "out").code == ExitCode.DONE
    assert {name: value for name, value in tree_state(tmp_path / "out").items() if name != "."} == state


def test_wrong_credentials(
    disk_s3: Bucket, models: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", [*put_models(disk_s3, models[:2]), models[2]])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
    forget_clients()
    ended = run("doctor", recipe, f"{disk_s3.url}/out")
    assert ended.code == ExitCode.STORAGE
    found = problems(ended.out)
    assert [line.split(": ")[0].split(" ", 2)[2].strip() for line in found] == [
        f"input {disk_s3.url}/models/base", f"input {disk_s3.url}/models/expert0", f"output {disk_s3.url}/out"
    ]  # fmt: skip
    for line in found:
        assert "SignatureDoesNotMatch" in line
        assert "; check the credentials" in line
    assert f"ok     input {models[2]}" in ended.out
    assert listing(disk_s3, "out") == {}


@moto_is_slow
def test_uploads_in_flight_must_not_be_listed(
    s3: Bucket, recipe: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission of its own (s3:ListBucketMultipartUploads), without which a merge ends at once."""

    def refuse(method: str, path: str) -> tuple[int, str, str] | None:
        return (403, "AccessDenied", "Access Denied") if method == "GET" and "uploads" in path else None

    with Gateway(s3.server.endpoint, refuse) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        forget_clients()
        ended = run("doctor", recipe, f"{s3.url}/out")
    assert ended.code == ExitCode.STORAGE
    (line,) = problems(ended.out)
    assert "multipart upload" in line
    assert "AccessDenied" in line
    assert "(list_multipart_uploads)" in line
    assert "; check the credentials" in line
    assert uploads(s3) == set()


def test_no_bucket(s3: Bucket, recipe: Path, run: Run) -> None:
    ended = run("doctor", recipe, f"s3://no-{s3.name}/out")
    assert ended.code == ExitCode.STORAGE
    (line,) = problems(ended.out)
    assert f"s3://no-{s3.name}/out" in line
    assert "NoSuchBucket" in line
    assert "; check the bucket's name and the endpoint" in line
    assert "ok     versions" in ended.out, "the rest is checked all the same"
    assert f"no-{s3.name}" not in [entry["Name"] for entry in s3.client().list_buckets()["Buckets"]]


@moto_is_slow
def test_no_model_and_a_recipe_that_is_wrong(s3: Bucket, recipe: Path, run: Run) -> None:
    recipe.write_text(recipe.read_text().replace("models/expert1", "models/expert9"))
    ended = run("doctor", recipe, f"{s3.url}/out")
    assert ended.code == ExitCode.STORAGE
    (line,) = problems(ended.out)
    assert "models/expert9: no such model" in line
    recipe.write_text(recipe.read_text() + "paramters: {}\n")
    assert run("doctor", recipe, f"{s3.url}/out").code == ExitCode.USAGE


def test_too_little_scratch_space(
    disk_s3: Bucket, models: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "window_memory", lambda: 0)  # no memory for ranges: all of them land in scratch space
    recipe = write_recipe(tmp_path / "recipe.yaml", put_models(disk_s3, models))
    with tmpfs(tmp_path / "disk", "size=64k") as disk:
        ended = run("doctor", recipe, f"{disk_s3.url}/out", "--scratch", disk)
        assert ended.code == ExitCode.STORAGE
        (line,) = problems(ended.out)
        assert "scratch space" in line
        assert "name a folder on a larger disk with --scratch" in line
        merged = run("merge", recipe, f"{disk_s3.url}/out", "--scratch", disk)
        assert merged.code == ExitCode.STORAGE, "as it said"
        assert "No space left on device" in merged.err
        assert str(disk) in merged.err
        assert list(disk.iterdir()) == []


def test_too_little_memory_and_room(
    disk_s3: Bucket, models: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    monkeypatch.setattr("svc_dist.checks.room.available_memory", lambda: 1000)
    with tmpfs(tmp_path / "disk", "size=64k") as disk:
        ended = run("doctor", recipe, disk / "out")
        assert ended.code == ExitCode.STORAGE
        writing, room, memory = problems(ended.out)
        assert "No space left on device" in writing
        assert "the model needs" in room
        assert "run the merge on a machine with more memory" in memory
        assert list(disk.iterdir()) == []


# clean


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


@moto_is_slow
def test_clean_asks_first_and_removes_what_the_run_left(
    s3: Bucket, recipe: Path, run: Run, tmp_path: Path, answer: Callable[[str], None]
) -> None:
    output = f"{s3.url}/out"
    put(s3, "out/notes.txt", b"mine")
    put(s3, "out/deeper/.svc_dist/plan.json", b"mine")
    before = listing(s3)
    foreign = {begin_upload(s3, "out/model-00001-of-00021.safetensors"), begin_upload(s3, "out/.svc_dist-not")}
    with started("merge", recipe, output, "--slots", "1", home=tmp_path) as process:
        while len(listing(s3, "out/.svc_dist/receipts/")) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # it stays alive
        live = run("clean", output, "--yes")
        assert live.code == ExitCode.LOCKED
        assert f"process {process.pid}" in live.err
    left = listing(s3), uploads(s3)
    assert left[1] > foreign
    answer("n\n")
    asked = run("clean", output)
    assert asked.code == ExitCode.DONE
    assert "units are done" in asked.out
    for key in set(listing(s3, "out/model-")):
        assert f"remove s3://{s3.name}/{key}\n" in asked.out
    assert f"remove its partial uploads or pieces and {output}/.svc_dist" in asked.out
    assert "notes" not in asked.out
    assert "nothing was removed" in asked.out
    answer("")
    unanswered = run("clean", output)
    assert unanswered.code == ExitCode.USAGE
    assert "add --yes" in unanswered.err
    assert (listing(s3), uploads(s3)) == left
    answer("y\n")
    assert run("clean", output).code == ExitCode.DONE
    assert (listing(s3), uploads(s3)) == (before, foreign)
    again = run("clean", output, "--yes")
    assert again.code == ExitCode.USAGE
    assert "holds no merge" in again.err


@moto_is_slow
def test_clean_drops_the_uploads_of_a_run_whose_plan_is_damaged_or_gone(s3: Bucket, recipe: Path, run: Run) -> None:
    output = f"{s3.url}/out"
    for plan in (b"{", None):
        foreign = {begin_upload(s3, "out/model-00004-of-00021.safetensors")}
        with stopping_after(3):
            svc_dist.merge(recipe, output, slots=1)
        assert listing(s3, "out/model-")
        put(s3, "out/model-00020-of-00021.safetensors", b"theirs")
        assert uploads(s3) > foreign
        if plan is None:
            s3.client().delete_object(Bucket=s3.name, Key="out/.svc_dist/plan.json")
        else:
            put(s3, "out/.svc_dist/plan.json", plan)
        cleaned = run("clean", output, "--yes")
        assert cleaned.code == ExitCode.DONE, cleaned.err
        assert "its plan is gone or damaged: only shards that it finished and recorded can be removed" in cleaned.out
        assert uploads(s3) == foreign
        assert set(listing(s3, "out/")) == {"out/model-00020-of-00021.safetensors"}
        s3.client().delete_object(Bucket=s3.name, Key="out/model-00020-of-00021.safetensors")
        (theirs,) = foreign
        s3.client().abort_multipart_upload(Bucket=s3.name, Key=theirs[0], UploadId=theirs[1])
    assert "holds no merge" in run("clean", output, "--yes").err
