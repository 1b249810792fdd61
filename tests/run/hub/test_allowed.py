"""What ``doctor`` says of an OUTPUT on a hub: what the merge would meet there, without a change."""

from __future__ import annotations

from typing import Any

import pytest

import svc_dist
from svc_dist.checks.examination import Finding
from svc_dist.errors import ExitCode, SvcDistError
from svc_dist.plan.settings import Device
from svc_dist.run.hub import allowed
from svc_dist.storage.access import Access, ClientOptions
from tests.run.hub.conftest import Merging
from tests.support.hub import TOKEN


def looked(merging: Merging, output: str = "hf://acme/merged", **options: Any) -> Finding:
    """The finding about the hub, which makes nothing there and in the staging folder."""
    before = list(merging.hub.log), {name: dict(commits) for name, commits in merging.hub.commits.items()}
    found = svc_dist.doctor(
        merging.recipe, output, device=Device.CPU, **{"staging": merging.staging, "access": merging.access, **options}
    )
    assert (merging.hub.log, merging.hub.commits) == before
    assert TOKEN not in found.text()
    (finding,) = [one for one in found.findings if one.subject == f"upload to {output}"]
    assert [one.text() for one in found.findings if one.problem is not None and one is not finding] == []
    return finding


def refused(merging: Merging, output: str = "hf://acme/merged", **options: Any) -> str:
    """What is wrong, which the merge says, too, before it makes anything."""
    finding = looked(merging, output, **options)
    with pytest.raises(SvcDistError) as caught:
        merging.start(output, **options)
    assert caught.value.exit_code == finding.exit_code
    assert not merging.staging.exists()
    return finding.text()


def test_a_repository_that_is_not_there_yet(merging: Merging) -> None:
    assert looked(merging).text() == "upload to hf://acme/merged: a merge makes this repository, private"
    assert looked(merging, public=True).seen.endswith("public")
    assert "acme/merged" not in merging.hub.commits


def test_a_repository_that_is_there(merging: Merging) -> None:
    merging.hub.create("acme/merged", private=True)
    assert looked(merging).seen == "the token may write to this private repository"
    assert looked(merging, "hf://acme/merged@next").seen.endswith("where a merge makes the branch next")
    merging.start()
    assert looked(merging).seen == "this private repository holds a complete merge, which is not replaced"


def test_a_merge_whose_upload_was_stopped_is_no_other_file(merging: Merging) -> None:
    merging.start()
    index = "model.safetensors.index.json"
    merging.hub.change("acme/merged", "main", {index: None})
    assert looked(merging).seen == "the token may write to this private repository"


@pytest.mark.parametrize("there", [True, False])
def test_a_token_that_may_only_read(merging: Merging, there: bool) -> None:
    if there:
        merging.hub.create("acme/merged", private=True)
    merging.hub.read_only = True
    said = refused(merging)
    assert "the token may not write there: give it the right to write" in said
    assert ("the hub answered 403" if there else "the token may only read") in said


def test_a_token_of_somebody_else(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    merging.hub.owners = ["somebody", "others"]
    assert (
        "cannot create hf://acme/merged: the token's user is neither acme nor a member of it" in looked(merging).text()
    )
    assert looked(merging, "hf://somebody/merged").problem is None
    monkeypatch.setenv("HF_TOKEN", "hf_ofNobody")
    said = refused(merging)
    assert "the hub answered 401; set HF_TOKEN, or use `hf auth login`" in said
    assert "hf_ofNobody" not in said


def test_no_token(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "there is no token for the hub; set HF_TOKEN" in refused(merging)


def test_a_public_repository_and_files_of_something_else(merging: Merging) -> None:
    merging.hub.create("acme/merged", private=False)
    assert "is public: everybody could read the merge; add --public" in refused(merging)
    merging.hub.change("acme/merged", "main", {"README.md": b"mine"})
    finding = looked(merging, public=True)
    assert "already holds README.md, which is not of this merge" in finding.text()
    assert (finding.exit_code, finding.data()["code"]) == (ExitCode.USAGE, "hub-output-refused")


def test_a_hub_that_cannot_be_reached(merging: Merging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "SHORT", 0.2)
    nowhere = Access({"hf://": ClientOptions(endpoint_url="http://127.0.0.1:9")})
    assert "check the network and HF_ENDPOINT" in refused(merging, access=nowhere)
