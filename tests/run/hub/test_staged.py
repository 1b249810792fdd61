"""A merge into ``hf://``: staged, uploaded, resumed, refused (svc_dist.run.hub.upload)."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import (
    DrainedError,
    ExitCode,
    OtherMergeError,
    OutputError,
    RecipeError,
    StorageError,
    VerificationError,
)
from svc_dist.run.hub import allowed, staged, upload
from svc_dist.run.options import Options
from svc_dist.run.series.nightly import Nightly, run_repeated
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import DEFAULT_ACCESS, Access, ClientOptions
from svc_dist.storage.hub.branch import HubBranch, Place
from svc_dist.storage.open import open_storage
from tests.run.hub.conftest import Merging
from tests.support.hub import TOKEN

INDEX = "model.safetensors.index.json"


class Killed(BaseException):
    """What stands for SIGKILL: no handler of the package catches it."""


def code(caught: pytest.ExceptionInfo[Any]) -> str | None:
    found: str | None = caught.value.code
    return found


def test_the_model_goes_to_a_private_repository_with_its_index_in_the_last_commit(merging: Merging) -> None:
    summary = merging.start()
    assert summary.output == "hf://acme/merged"
    assert merging.there() == merging.staged()
    assert sum(name.endswith(".safetensors") for name in merging.there()) > 2
    assert "acme/merged" in merging.hub.private
    assert merging.hub.log[0] == "create private"
    assert merging.hub.log[-1].endswith("svc_dist: the merge is complete")
    assert not [name for name in merging.there() if name.startswith(".svc_dist") or name == upload.UPLOAD_FILE]


def test_the_commands_read_it_there(merging: Merging) -> None:
    merging.start()
    assert svc_dist.status("hf://acme/merged", access=merging.access).state == "complete"
    checked = svc_dist.verify("hf://acme/merged", deep=True, access=merging.access)
    assert checked.ok, checked.problems
    assert svc_dist.read_report("hf://acme/merged", access=merging.access).verdict


def test_what_is_before_the_last_commit_never_looks_whole(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_BETWEEN", 0.0)
    seen: list[set[str]] = []
    merging.hub.before_commit = lambda: seen.append(set(merging.there()))
    merging.start()
    shards = {name for name in merging.there() if name.endswith(".safetensors")}
    assert len(seen) == len(shards)
    assert all(names < shards for names in seen)  # a shard is missing, and everything else


def test_a_second_start_does_nothing_even_without_the_staging_folder(merging: Merging) -> None:
    merging.start()
    before = list(merging.hub.log)
    assert merging.start().executor == "none"
    shutil.rmtree(merging.staging)
    assert merging.start().executor == "none"
    assert merging.hub.log == before
    assert not merging.staging.exists()


def test_a_branch_is_made_from_the_first_commit_so_that_it_holds_nothing_else(merging: Merging) -> None:
    merging.start()
    merging.recipe["merge_method"] = "linear"
    shutil.rmtree(merging.staging)
    merging.start("hf://acme/merged@linear")
    assert merging.there("linear") == merging.staged()
    assert merging.there() != merging.there("linear")


@pytest.mark.parametrize("at", [0, 3, 7])
def test_killed_anywhere_the_next_start_sends_what_is_missing_alone(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(upload, "_BETWEEN", 0.0)
    left = [at]

    def kill_in(name: str) -> None:
        method = getattr(HubBranch, name)

        def killing(self: HubBranch, *arguments: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return method(self, *arguments)

        monkeypatch.setattr(HubBranch, name, killing)

    kill_in("upload")
    kill_in("commit")
    with pytest.raises(Killed):
        merging.start()
    assert "acme/merged" not in merging.hub.commits or INDEX not in merging.there()
    left[0] = 1000
    summary = merging.start()
    assert summary.units_resumed == summary.units
    assert summary.executor == "upload"
    assert merging.there() == merging.staged()
    assert merging.hub.log.count("object") == len(merging.hub.objects)  # none was sent twice


def test_a_resume_hashes_no_file_that_is_there(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_BETWEEN", 0.0)
    commit, commits = HubBranch.commit, [2]

    def killing(self: HubBranch, *arguments: Any) -> str:
        if not commits[0]:
            raise Killed
        commits[0] -= 1
        return commit(self, *arguments)

    monkeypatch.setattr(HubBranch, "commit", killing)
    with pytest.raises(Killed):
        merging.start()
    commits[0] = 1000
    hashed: list[Path] = []

    def sha256_of(content: Path | bytes) -> str:
        if isinstance(content, Path):
            hashed.append(content)
        return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()

    monkeypatch.setattr("svc_dist.storage.hub.branch.sha256_of", sha256_of)
    merging.start()
    assert not hashed
    assert merging.there() == merging.staged()


def test_a_commit_whose_answer_is_lost_counts(merging: Merging) -> None:
    merging.hub.lose = 1
    merging.start()
    assert merging.there() == merging.staged()
    assert sum(line.startswith("commit") for line in merging.hub.log) == 1


def test_an_upload_that_fails_for_a_moment_is_repeated(merging: Merging) -> None:
    merging.hub.refuse = [503, 500]
    merging.start()
    assert merging.there() == merging.staged()


def intrude(merging: Merging, name: str, times: int) -> None:
    """Commit a file before each of the next commits, as another program."""
    left = [times]

    def commit() -> None:
        if left[0]:
            left[0] -= 1
            merging.hub.change("acme/merged", "main", {name: b"%d" % left[0]})

    merging.hub.before_commit = commit


def test_commits_of_others_in_between_stay_and_the_upload_goes_on(merging: Merging) -> None:
    intrude(merging, "notes.txt", 2)
    merging.start()
    assert merging.there() == merging.staged() | {"notes.txt": b"0"}


def test_a_file_of_the_same_name_that_another_program_commits_in_between_is_kept(merging: Merging) -> None:
    intrude(merging, "README.md", 1)
    with pytest.raises(OutputError, match="already holds README"):
        merging.start()
    assert merging.there() == {"README.md": b"0"}


def test_a_branch_that_never_rests_is_a_failure_and_not_another_start(merging: Merging) -> None:
    intrude(merging, "notes.txt", 100)
    with pytest.raises(StorageError, match="again and again") as caught:
        merging.start()
    assert caught.value.exit_code == ExitCode.STORAGE
    merging.hub.before_commit = lambda: None
    merging.start()
    assert set(merging.there()) == set(merging.staged()) | {"notes.txt"}


@pytest.mark.parametrize("name", ["README.md", INDEX, "sub/model.safetensors", "model-00009-of-00009.safetensors"])
def test_what_comes_last_is_refused_before_the_merge(merging: Merging, name: str) -> None:
    merging.hub.create("acme/merged", private=True)
    merging.hub.change("acme/merged", "main", {name: b"{}"})
    with pytest.raises(OutputError, match=f"already holds {name}"):
        merging.start()
    assert not merging.staging.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_token_that_may_not_write_is_refused_before_the_merge(merging: Merging, exists: bool) -> None:
    if exists:
        merging.hub.create("acme/merged", private=True)
    merging.hub.read_only = True
    with pytest.raises(StorageError, match="the token may not write there"):
        merging.start()
    assert not merging.staging.exists()


@pytest.mark.parametrize("name", ["README.md", "model-00001-of-00009.safetensors", INDEX, "sub/model.safetensors"])
def test_files_of_something_else_are_never_replaced(merging: Merging, name: str) -> None:
    merging.hub.create("acme/merged", private=True)
    merging.hub.change("acme/merged", "main", {name: b"{}"})
    with pytest.raises(OutputError, match=f"already holds {name}") as caught:
        merging.start()
    assert code(caught) == "hub-output-refused"
    assert merging.there() == {name: b"{}"}
    assert not merging.hub.objects


def test_another_merge_there_is_an_error_before_anything_is_merged(merging: Merging) -> None:
    merging.start()
    shutil.rmtree(merging.staging)
    merging.recipe["merge_method"] = "linear"
    with pytest.raises(OtherMergeError, match=r"hf://acme/merged holds a complete merge(?s:.*)@next"):
        merging.start()
    with pytest.raises(OutputError, match="--restart does not replace"):
        merging.start(restart=True)
    assert not merging.staging.exists()


def test_nothing_becomes_public_without_a_flag(merging: Merging) -> None:
    merging.hub.create("acme/merged", private=False)
    with pytest.raises(OutputError, match="acme/merged is public") as caught:
        merging.start()
    assert code(caught) == "hub-output-refused"
    assert not merging.staging.exists()  # before the hours of a merge
    merging.start(public=True)
    assert merging.there() == merging.staged()
    merging.start("hf://acme/other", public=True)
    assert "create public" in merging.hub.log


def test_the_token_is_in_no_message_and_no_file(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("svc_dist").propagate = True
    merging.hub.refuse = [400] * 50
    with pytest.raises(StorageError, match="the hub answered 400") as caught:
        merging.start()
    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    assert TOKEN not in caplog.text
    assert all(TOKEN.encode() not in data for data in merging.staged().values())
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(StorageError, match="there is no token for the hub"):
        merging.start()


def test_a_hub_that_cannot_be_reached_is_an_error_within_seconds(
    merging: Merging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowed, "SHORT", 0.2)
    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot look at hf://acme/merged"):
        merging.start(access=Access({"hf://": ClientOptions(endpoint_url="http://127.0.0.1:9")}))
    assert time.monotonic() - began < 60
    assert not merging.staging.exists()


def test_a_stop_while_a_file_is_sent_takes_effect_after_it(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_BETWEEN", 0.0)
    method = HubBranch.upload

    def interrupted(self: HubBranch, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        return method(self, *arguments)

    monkeypatch.setattr(HubBranch, "upload", interrupted)
    with pytest.raises(DrainedError, match="not yet uploaded to hf://acme/merged"):
        merging.start()
    monkeypatch.setattr(HubBranch, "upload", method)
    merging.start()
    assert merging.there() == merging.staged()


@pytest.mark.parametrize("size", ["3kB", "1GB"])
def test_what_a_stopped_upload_leaves_never_looks_whole(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    merging.recipe["max_shard_size"] = size
    small = HubBranch.small

    def stopping(self: HubBranch, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return small(self, *arguments)

    monkeypatch.setattr(HubBranch, "small", stopping)  # every weight was sent by then
    with pytest.raises(DrainedError):
        merging.start()
    shards = {name for name in merging.staged() if name.endswith(".safetensors")}
    assert set(merging.there()) == shards - {max(shards)}
    sent = merging.hub.log.count("object")
    monkeypatch.setattr(HubBranch, "small", small)
    merging.start()
    assert merging.there() == merging.staged()
    assert merging.hub.log.count("object") == sent == len(shards)


def test_a_stop_stays_one_where_its_commit_fails(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("svc_dist").propagate = True
    small = HubBranch.small

    def stopping(self: HubBranch, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return small(self, *arguments)

    def failing(self: HubBranch, *arguments: Any) -> str:
        raise StorageError("the hub is gone")

    monkeypatch.setattr(HubBranch, "small", stopping)
    monkeypatch.setattr(HubBranch, "commit", failing)
    with pytest.raises(DrainedError):
        merging.start()
    assert "the hub is gone" in caplog.text


def test_a_stop_that_the_merge_took_at_its_end_is_one_of_the_upload_too(
    merging: Merging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merged(*arguments: Any) -> Any:
        with signals(threading.Event()):
            signal.raise_signal(signal.SIGTERM)
        return run_repeated(*arguments)

    monkeypatch.setattr(staged, "run_repeated", merged)
    with pytest.raises(DrainedError, match="not yet uploaded"):
        merging.start()
    assert not merging.hub.objects
    monkeypatch.setattr(staged, "run_repeated", run_repeated)
    merging.start()


def test_a_time_limit_covers_the_upload(merging: Merging) -> None:
    svc_dist.merge(merging.recipe, merging.staging, executor="inline")
    with pytest.raises(DrainedError):
        merging.start(max_runtime=0)
    assert merging.start().executor == "upload"


@pytest.mark.parametrize("ignored", ["config.json", "model-00001-of-"])
def test_a_file_that_the_repository_ignores_is_found_missing_until_it_is_there(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    method = HubBranch.commit

    def without(self: HubBranch, additions: Any, message: str, parent: str) -> str:
        return method(self, [one for one in additions if not one.name.startswith(ignored)], message, parent)

    monkeypatch.setattr(HubBranch, "commit", without)
    for _ in range(2):
        with pytest.raises(VerificationError, match=f"such as {ignored}"):
            merging.start()
    monkeypatch.setattr(HubBranch, "commit", method)
    merging.start()
    assert merging.there() == merging.staged()
    assert merging.start().executor == "none"


def test_a_file_that_was_removed_is_sent_again_while_the_staging_folder_has_it(merging: Merging) -> None:
    merging.start()
    for name in ("README.md", "model-00001-of-00004.safetensors"):
        merging.hub.change("acme/merged", "main", {name: None})
        assert merging.start().executor == "upload"
        assert merging.there() == merging.staged()
    (merging.staging / upload.UPLOAD_FILE).write_bytes(b"{}")
    (merging.staging / INDEX).unlink()
    assert merging.start().executor == "none"  # what is left of a staging folder is no merge that could be sent
    merging.hub.change("acme/merged", "main", {"README.md": None})
    shutil.rmtree(merging.staging)
    with pytest.raises(VerificationError, match=r"no README\.md(?s:.*)@next"):
        merging.start()
    assert not merging.staging.exists()


def test_killed_before_the_check_the_next_start_checks(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> int:
        raise Killed

    finished = upload.Uploading._finished
    monkeypatch.setattr(upload.Uploading, "_finished", killed)
    with pytest.raises(Killed):
        merging.start()
    monkeypatch.setattr(upload.Uploading, "_finished", finished)
    assert upload.UPLOAD_FILE in merging.staged()
    merging.hub.change("acme/merged", "main", {"config.json": b"{}"})
    with pytest.raises(OutputError, match=r"already holds config\.json"):
        merging.start()
    merging.hub.change("acme/merged", "main", {"config.json": merging.staged()["config.json"]})
    merging.start()
    assert merging.there() == merging.staged()


@pytest.mark.parametrize("lost", ["strong/config.json", "strong/README.md", "strong/merge_report.json"])
def test_a_staged_merge_that_is_not_whole_is_not_uploaded(merging: Merging, lost: str) -> None:
    merging.recipe["outputs"] = [{"path": "weak", "lambda": 0.3}, {"path": "strong", "lambda": 0.9}]
    svc_dist.merge(merging.recipe, merging.staging, executor="inline")
    if lost.endswith("report.json"):
        (merging.staging / lost).write_bytes(b"{")
    else:
        (merging.staging / lost).unlink()
    with pytest.raises(VerificationError, match="is not whole: strong/"):
        merging.start()
    assert not merging.hub.objects


def test_from_a_remote_staging_folder_one_copy_at_a_time_lies_in_the_scratch_folder(
    merging: Merging, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    svc_dist.merge(merging.recipe, merging.staging, executor="inline")
    remote = open_storage("memory://staged", DEFAULT_ACCESS)
    for name, data in merging.staged().items():
        remote.put(name, data)
    scratch, copies = tmp_path / "scratch", []
    scratch.mkdir()
    method = HubBranch.upload

    def counting(self: HubBranch, name: str, content: Path) -> Any:
        copies.append((content.is_relative_to(scratch), len(list(scratch.iterdir()))))
        return method(self, name, content)

    monkeypatch.setattr(HubBranch, "upload", counting)
    branch = HubBranch(Place("acme/merged", "main"), merging.access)

    def send(folder: Path) -> None:
        options = Options(executor="inline", scratch=str(folder))
        sending = upload.Uploading(branch, Output("memory://staged"), False, options, threading.Event())
        sending.run(SimpleNamespace(require_held=lambda: None), time.monotonic())  # type: ignore[arg-type]

    with pytest.raises(StorageError, match=r"cannot use scratch space in .*missing"):
        send(tmp_path / "missing")
    send(scratch)
    assert merging.there() == merging.staged()
    assert len(copies) > 2
    assert set(copies) == {(True, 1)}
    assert not list(scratch.iterdir())
    assert sum(line.startswith("commit") for line in merging.hub.log) == 1  # within a minute


def test_several_results_go_into_folders(merging: Merging) -> None:
    merging.recipe["outputs"] = [{"path": "weak", "lambda": 0.3}, {"path": "strong", "lambda": 0.9}]
    merging.start()
    assert merging.there() == merging.staged()
    assert {f"weak/{INDEX}", f"strong/{INDEX}", "merge_outputs.json"} <= set(merging.there())
    assert merging.start().executor == "none"


@pytest.mark.parametrize(
    ("output", "options", "about"),
    [
        ("hf://acme/merged", {"staging": None}, "add --staging FOLDER"),
        ("hf://acme", {}, "no repository of models"),
        ("hf://datasets/acme/merged", {}, "no repository of models"),
        ("hf://acme/merged/sub", {}, "no repository of models"),
        (f"hf://acme/merged@{'a' * 40}", {}, "names a commit"),
        ("hf://acme/merged@refs/pr/1", {}, "no branch"),
        ("hf://acme/merged@{date}", {}, "a date is not supported"),
        ("hf://acme/merged", {"nightly": Nightly(keep=3)}, "--keep is about folders"),
        ("hf://acme/merged", {"staging": "hf://acme/merged"}, "other commands take FOLDER"),
    ],
)
def test_what_cannot_be_is_refused(merging: Merging, output: str, options: dict[str, Any], about: str) -> None:
    with pytest.raises(OutputError) as caught:
        merging.start(output, **options)
    assert about in str(caught.value)
    assert not merging.hub.commits


def test_the_options_are_for_a_hub_alone(merging: Merging, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--staging is about an OUTPUT on a hub"):
        merging.start(str(tmp_path / "out"))
