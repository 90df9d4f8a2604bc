"""What the artifact store promises, on a folder and on S3."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from recsys.artifacts import MANIFEST, ArtifactStore, split_ref, version_of
from recsys.errors import ArtifactError, InputError, NotFoundError
from tests import s3_server

AS_OF = dt.datetime(2011, 12, 9, 12, 50, tzinfo=dt.UTC)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if request.param == "folder":
        yield ArtifactStore(str(tmp_path / "artifacts"))
        return
    with s3_server.bucket(request.getfixturevalue("monkeypatch")) as url:
        yield ArtifactStore(f"{url}/some/prefix", cache=tmp_path / "cache")


def write(store: ArtifactStore, version: str = "v1", text: str = "weights") -> str:
    with store.writing("als", version, made_by="test", inputs={"dataset": "dataset/1"}, meta={"cut": 1}) as (folder, _):
        (folder / "sub").mkdir()
        (folder / "sub" / "model.txt").write_text(text)
    return f"als/{version}"


def put(store: ArtifactStore, name: str, text: str) -> None:
    """Write a file of the store behind its back."""
    if store.root.startswith("s3:"):
        store._s3.put_object(Bucket=store._bucket, Key=store._prefix + name, Body=text.encode())
    else:
        path = Path(store.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "name",
    ["../v2/evil.sh", "../../../outside/evil.sh", "sub/../../evil.sh", "/outside/evil.sh", "", ".", "a//b", "a\\..\\b"],
)
def test_names_in_a_manifest_stay_inside(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    """A bucket that somebody else may write into must not write any file of this machine, nor read it as a part."""
    ref = write(store)
    evil = tmp_path / "outside" / "evil.sh"
    evil.parent.mkdir()
    evil.write_text("echo")
    (known,) = store.manifest(ref).files.values()
    content = json.loads(json.dumps(asdict(store.manifest(ref)) | {"files": {name: known}}))
    put(store, f"{ref}/{MANIFEST}", json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    for use in (store.manifest, store.open, store.delete if store.root.startswith("s3:") else store.exists):
        with pytest.raises(ArtifactError, match="outside of it"):
            use(ref)
    assert sorted(tmp_path.rglob("*")) == before
    assert evil.read_text() == "echo"


def test_what_was_written_is_read_with_its_manifest(store: ArtifactStore) -> None:
    ref = write(store)
    folder, manifest = store.open(ref)
    assert (folder / "sub" / "model.txt").read_text() == "weights"
    assert manifest.inputs == {"dataset": "dataset/1"}
    assert manifest.meta == {"cut": 1}
    assert store.exists(ref)
    assert store.versions("als") == ["v1"]


def test_an_error_while_writing_leaves_nothing(store: ArtifactStore) -> None:
    def write_half() -> None:
        with store.writing("als", "v1", made_by="test") as (folder, _):
            (folder / "model.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert not store.exists("als/v1")
    assert store.versions("als") == []


def test_an_empty_artifact_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="wrote no file"), store.writing("als", "v1", made_by="test"):
        pass


def test_get_or_make_makes_once(store: ArtifactStore) -> None:
    calls = []

    def make(folder: Path, meta: dict[str, object]) -> None:
        calls.append(1)
        meta["n"] = len(calls)
        (folder / "model.txt").write_text("x")

    first, made = store.get_or_make("als", "v1", make, made_by="test")
    again, made_again = store.get_or_make("als", "v1", make, made_by="test")
    assert (made, made_again, len(calls)) == (True, False, 1)
    assert first == again
    forced, made_forced = store.get_or_make("als", "v1", make, made_by="test", force=True)
    assert made_forced
    assert forced.meta == {"n": 2}


def test_delete_and_missing(store: ArtifactStore) -> None:
    ref = write(store)
    store.delete(ref)
    assert not store.exists(ref)
    with pytest.raises(NotFoundError, match="no artifact als/v1"):
        store.open(ref)


def test_what_is_forgotten_is_fetched_again_and_nothing_of_a_folder_goes(store: ArtifactStore) -> None:
    old, new = write(store, "v1", "old"), write(store, "v2", "new")
    folders = [store.open(ref)[0] for ref in (old, new)]
    store.forget("als", lambda version: version == "v2")
    store.forget("deepfm", lambda version: False)  # of which there are none
    assert [folder.exists() for folder in folders] == [not store.root.startswith("s3:"), True]
    assert (store.open(old)[0] / "sub" / "model.txt").read_text() == "old"


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = write(store)
    path = tmp_path / "als" / "v1" / "sub" / "model.txt"
    path.write_text("weightz")
    with pytest.raises(ArtifactError, match=r"model\.txt is damaged"):
        store.open(ref)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"model\.txt is missing"):
        store.open(ref)


def test_a_broken_or_foreign_manifest_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = write(store)
    manifest = tmp_path / "als" / "v1" / MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"version": "v2"}))
    with pytest.raises(ArtifactError, match="is that of als/v2"):
        store.open(ref)
    manifest.write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.open(ref)


@pytest.mark.parametrize("ref", ["als", "als/", "/v1", "als/../x", "als/a/b", "../als/v1", "als/.hidden"])
def test_references_cannot_leave_the_root(ref: str) -> None:
    with pytest.raises(InputError):
        split_ref(ref)


def test_versions_depend_on_all_that_went_in_and_on_nothing_else() -> None:
    one = version_of(AS_OF, {"a": 1, "b": [1, 2]})
    assert one == version_of(AS_OF, {"b": [1, 2], "a": 1})
    assert one != version_of(AS_OF, {"a": 2, "b": [1, 2]})
    assert one.startswith("20111209T125000-")


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_artifact_or_none(tmp_path: Path) -> None:
    code = """
import sys
from recsys.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1])
print("ready", flush=True)
i = 0
while True:
    with store.writing("als", f"v{i % 3}", made_by="test") as (folder, _):
        for j in range(20):
            (folder / f"{j}.txt").write_text(str(i) * 1000)
    i += 1
"""
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.013 * attempt)
        process.kill()
        process.wait()
        process.stdout.close()
        store = ArtifactStore(str(tmp_path))
        for version in store.versions("als"):
            folder, manifest = store.open(f"als/{version}")  # raises when anything is amiss
            assert len({path.read_text() for path in folder.glob("*.txt")}) == 1
            assert len(manifest.files) == 20


def test_what_is_published_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def remember(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path.rpartition("/")[2], (tmp_path / "kind" / "v1").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remember)
    with ArtifactStore(str(tmp_path)).writing("kind", "v1", made_by="tests") as (folder, _):
        (folder / "sub").mkdir()
        (folder / "sub" / "a file").write_text("content")
    names = [name for name, _ in synced]
    assert {"a file", "sub", "manifest.json"} < set(names)
    assert synced[-1] == ("kind", True)  # the folder, once the new name is in it
