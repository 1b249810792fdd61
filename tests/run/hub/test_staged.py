"""A merge into ``hf://``: staged, uploaded, resumed, refused (svc_dist.run.hub.upload)."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import (
    DrainedError,
    ExitCode,
    LockedError,
    OtherMergeError,
    OutputError,
    RecipeError,
    StorageError,
    VerificationError,
)
from svc_dist.run.hub import upload
from svc_dist.run.series.nightly import Nightly
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.hub.branch import HubBranch
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


def test_a_commit_by_another_program_in_between_is_noticed(merging: Merging) -> None:
    def intrude() -> None:
        merging.hub.before_commit = lambda: None
        merging.hub.change("acme/merged", "main", {"notes.txt": b"mine"})

    merging.hub.before_commit = intrude
    with pytest.raises(LockedError, match="another program committed") as caught:
        merging.start()
    assert caught.value.exit_code == ExitCode.LOCKED
    assert set(merging.there()) == {"notes.txt"}
    merging.start()  # its file stays
    assert merging.there() == merging.staged() | {"notes.txt": b"mine"}


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
    monkeypatch.setattr(upload, "SHORT", 0.2)
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


def test_a_time_limit_covers_the_upload(merging: Merging) -> None:
    svc_dist.merge(merging.recipe, merging.staging, executor="inline")
    with pytest.raises(DrainedError):
        merging.start(max_runtime=0)
    assert merging.start().executor == "upload"


def test_a_file_that_the_repository_ignores_is_found_missing(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    method = HubBranch.commit

    def without_config(self: HubBranch, additions: Any, message: str, parent: str) -> str:
        return method(self, [one for one in additions if one.name != "config.json"], message, parent)

    monkeypatch.setattr(HubBranch, "commit", without_config)
    with pytest.raises(VerificationError, match="such as config"):
        merging.start()


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
