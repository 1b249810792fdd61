"""The storage of a location: by its scheme, and a plus that is part of a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest

from svc_dist.errors import MissingExtraError, OutputError, RecipeError, StorageError
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.origin import Origin
from svc_dist.run_folder.output import Output
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.local import LocalStorage
from svc_dist.storage.open import SCHEMES, open_storage, overlap, split_location
from tests.support.checkpoints import recipe_data


@pytest.fixture
def prefix() -> Iterable[str]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/plus-test/my+model/config.json", b"{}")
    yield "memory://plus-test"
    memory.rm("/plus-test", recursive=True)


def test_a_prefix_with_a_plus_that_exists_is_one_location(prefix: str) -> None:
    assert split_location(f"{prefix}/my+model") == (f"{prefix}/my+model", None)
    assert split_location(f"{prefix}/other+model") == (f"{prefix}/other", "model")
    resolved = recipe_from(recipe_data([f"{prefix}/base", f"{prefix}/my+model"]))
    assert resolved.models[1].location == f"{prefix}/my+model"
    assert resolved.locations == [f"{prefix}/base", f"{prefix}/my+model"]


def test_of_two_urls_no_storage_is_asked() -> None:
    assert split_location("nosuch://b/model+nosuch://b/adapter") == ("nosuch://b/model", "nosuch://b/adapter")


def test_more_than_one_plus_is_refused_unless_the_whole_exists(prefix: str) -> None:
    fsspec.filesystem("memory").pipe("/plus-test/a+b+c/config.json", b"{}")
    assert split_location(f"{prefix}/a+b+c") == (f"{prefix}/a+b+c", None)
    with pytest.raises(RecipeError, match=r"has one \+"):
        split_location(f"{prefix}/x+y+z")


def test_of_several_pluses_the_one_between_two_locations_counts(prefix: str, tmp_path: Path) -> None:
    pairs = [("s3://b/a+b", "s3://b/lora"), (f"{tmp_path}/base+1", f"{tmp_path}/lora")]
    for model, adapter in pairs:
        assert split_location(f"{model}+{adapter}") == (model, adapter)
    for name in ("base+1", "lo+ra"):
        (tmp_path / name).mkdir()
    parts = split_location("base+1+lo+ra", absolute=lambda part: f"{tmp_path}/{part}")
    assert parts == (f"{tmp_path}/base+1", f"{tmp_path}/lo+ra")


def test_a_url_that_cannot_be_looked_at_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("403")

    monkeypatch.setattr(FsspecStorage, "names", refuse)
    assert split_location("memory://bucket/a+b") == ("memory://bucket/a+b", None)


@pytest.mark.parametrize(
    "url",
    [
        "shell://ls", "reference://x", "github://owner:repo@main/x", "ftp://host/x", "data://x", "zip://x::s3://b/y",
        "simplecache::s3://bucket/x", "S3://bucket/x", "://x",
    ],
)  # fmt: skip
def test_a_scheme_that_is_no_known_storage_is_a_usage_error_with_the_list(url: str) -> None:
    with pytest.raises(RecipeError, match=r"known: paths, abfs://.* s3://"):
        open_storage(url)
    with pytest.raises(RecipeError, match=r"r\.yaml \(models\[0\]\.model\): .*knows no storage"):
        recipe_from(recipe_data(["base", url]), Origin("r.yaml"))


@pytest.mark.parametrize("location", ["a\0b", "s3://b/x\x1b[31m", "two\nlines", "\udcff"])
def test_a_location_with_control_characters_is_a_usage_error(location: str) -> None:
    with pytest.raises(RecipeError, match="holds a control character") as raised:
        open_storage(location)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("url", ["s3:/bucket/merged", str(Path("hf://owner/name")), "file:/models/base"])
def test_a_url_that_lost_a_slash_is_no_folder(url: str) -> None:
    with pytest.raises(RecipeError, match=r":/\.\.\. is no URL: it has one slash"):
        open_storage(url)
    assert open_storage(f"./{url}").path == Path(url)


def test_a_driver_that_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    with pytest.raises(MissingExtraError, match=r"gs:// needs gcsfs\n  pip install gcsfs"):
        open_storage("gs://bucket/x")


def test_a_new_storage_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"data")
    monkeypatch.setitem(SCHEMES, "added", f"{__name__}:Added")
    storage = open_storage(f"added://{tmp_path}")
    assert storage.names() == ["file"]
    assert storage.path is not None
    with pytest.raises(OutputError, match="it is an archive"):
        Output(f"added://{tmp_path}")


class Added(LocalStorage):
    """A storage as somebody else would add it."""

    read_only = "it is an archive"

    def __init__(self, location: str, *rest: object) -> None:
        super().__init__(location.removeprefix("added://"))


def test_locations_overlap_when_one_lies_in_the_other(tmp_path: Path, prefix: str) -> None:
    here, inside = open_storage(str(tmp_path)), open_storage(str(tmp_path / "x" / "y"))
    assert overlap(here, inside)
    assert overlap(inside, here)
    assert not overlap(here, open_storage(f"{tmp_path}-2"))
    assert overlap(open_storage(prefix), open_storage(f"{prefix}/a"))
    assert not overlap(open_storage(f"{prefix}/ab"), open_storage(f"{prefix}/a"))
