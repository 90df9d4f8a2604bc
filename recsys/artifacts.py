"""Versioned artifacts in a folder or in S3, each with a manifest that is checked on load.

An artifact is a set of files under `<root>/<kind>/<version>/` with `manifest.json`: what made it, from which
inputs, and the SHA-256 and size of every file. The manifest is written last, so an artifact without one does
not exist; a local artifact appears by one rename. A version is derived from what went in (`version_of`), so
a step that runs twice for the same inputs finds its own result.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from recsys.errors import ArtifactError, InputError, NotFoundError
from recsys.instants import DATA_END

MANIFEST = "manifest.json"
DEEPFM_SERVING: Final = "deepfm_serving"  # kind of what the service needs of the `deepfm` of the same version
FOREIGN = "mlflow"  # MLflow's own files may live beside the kinds of artifacts
_PART = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is. `ref` names it everywhere: in XCom, in the database, in MLflow."""

    kind: str
    version: str
    made_by: str
    created_at: str
    inputs: dict[str, str]
    meta: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path → {"sha256": hex, "bytes": int}

    @property
    def ref(self) -> str:
        return f"{self.kind}/{self.version}"


class Leftover(NamedTuple):
    """Something half done in an artifact store: a path on this machine, or the key of an object in S3."""

    path: Path | None
    key: str | None
    n_bytes: int

    def __str__(self) -> str:
        return str(self.path or self.key)


def version_of(as_of: dt.datetime, ingredients: Mapping[str, Any]) -> str:
    """A version name: the instant the data ends, then 10 hex digits of a hash over all that went in."""
    blob = json.dumps(ingredients, sort_keys=True, default=str).encode()
    return f"{as_of:{DATA_END}}-{hashlib.sha256(blob).hexdigest()[:10]}"


def split_ref(ref: str) -> tuple[str, str]:
    """`kind/version` → both parts; InputError when `ref` is not of that form."""
    kind, _, version = ref.partition("/")
    if not (_PART.match(kind) and _PART.match(version)):
        raise InputError(
            f"{ref!r} is no artifact reference; expected kind/version, e.g. als/20111209T125000-1a2b3c4d5e"
        )
    return kind, version


def _stays_inside(name: str) -> bool:
    """Whether a file's name in a manifest is one below the artifact's folder: whoever may write there may write it."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and "\\" not in name and "\0" not in name and name != MANIFEST


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(path: Path) -> int:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())


class ArtifactStore:
    """Artifacts under one root: a folder, or `s3://bucket/prefix` (credentials and endpoint as boto3 finds them)."""

    def __init__(self, root: str, cache: Path | None = None) -> None:
        """`cache`: where artifacts of S3 are downloaded to; a temporary folder of the user when not given."""
        self.root = root
        self._s3 = None
        if root.startswith("s3://"):
            import boto3

            self._bucket, _, prefix = root[5:].partition("/")
            self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
            self._s3 = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"))
            self._folder = cache or Path(tempfile.gettempdir()) / f"recsys-artifacts-{os.getuid()}"
        else:
            self._folder = Path(root)

    @contextmanager
    def writing(
        self,
        kind: str,
        version: str,
        *,
        made_by: str,
        inputs: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Give an empty folder to fill and the mutable `meta`; on leaving without an error the artifact exists.

        An artifact of the same version is replaced. EmptyResultError is not raised here: an empty folder is
        an ArtifactError, because an artifact without files is a mistake of the caller.
        """
        split_ref(f"{kind}/{version}")
        parent = self._folder / kind
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=parent))
        try:
            final_meta = dict(meta or {})
            yield work, final_meta
            files = {
                str(path.relative_to(work)): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                for path in sorted(work.rglob("*"))
                if path.is_file()
            }
            if not files:
                raise ArtifactError(f"{made_by} wrote no file into {kind}/{version}")
            manifest = Manifest(
                kind=kind,
                version=version,
                made_by=made_by,
                created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                inputs=dict(inputs or {}),
                meta=final_meta,
                files=files,
            )
            (work / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True, default=str))
            work.chmod(0o755)
            self._publish(work, manifest)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def manifest(self, ref: str) -> Manifest:
        """The manifest of an artifact; NotFoundError when there is none."""
        kind, version = split_ref(ref)
        if self._s3 is not None:
            text = self._s3_text(f"{kind}/{version}/{MANIFEST}", ref)
        else:
            try:
                text = (self._folder / kind / version / MANIFEST).read_text()
            except FileNotFoundError:
                raise NotFoundError(f"no artifact {ref} under {self.root}") from None
        try:
            manifest = Manifest(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"the manifest of {ref} cannot be read: {error}") from error
        if manifest.ref != ref:
            raise ArtifactError(f"the manifest found at {ref} is that of {manifest.ref}")
        if outside := [name for name in manifest.files if not _stays_inside(name)]:
            raise ArtifactError(f"the manifest of {ref} names files outside of it ({outside[0]!r}); make it again")
        return manifest

    def exists(self, ref: str) -> bool:
        try:
            self.manifest(ref)
        except NotFoundError:
            return False
        return True

    def open(self, ref: str) -> tuple[Path, Manifest]:
        """A local folder with the files of an artifact, each compared with its checksum, and the manifest.

        Raises ArtifactError, naming the file, when one is missing or has changed by as much as one byte.
        """
        manifest = self.manifest(ref)
        folder = self._folder / manifest.kind / manifest.version
        if self._s3 is not None:
            self._download(manifest, folder)
        for name, expected in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise ArtifactError(f"{ref}: {name} is missing; make the artifact again or name an older one")
            if path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
                raise ArtifactError(f"{ref}: {name} is damaged (its checksum differs from the manifest's)")
        return folder, manifest

    def versions(self, kind: str) -> list[str]:
        """All versions of a kind, oldest data first."""
        if self._s3 is not None:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{kind}/"
            )
            keys = (entry["Key"] for page in pages for entry in page.get("Contents", []))
            return sorted(key.split("/")[-2] for key in keys if key.endswith("/" + MANIFEST))
        found = (path.parent.name for path in (self._folder / kind).glob(f"*/{MANIFEST}"))
        return sorted(name for name in found if _PART.match(name))  # not the ones being written

    def delete(self, ref: str) -> None:
        """Remove an artifact, its manifest first; nothing happens when there is none."""
        kind, version = split_ref(ref)
        folder = self._folder / kind / version
        if self._s3 is not None and self.exists(ref):
            names = [MANIFEST, *self.manifest(ref).files]
            for name in names:
                self._s3.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{kind}/{version}/{name}")
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def forget(self, kind: str, is_needed: Callable[[str], bool]) -> None:
        """Delete the downloads of those versions of a kind in S3 that are not needed. In a folder nothing changes."""
        if self._s3 is None or not (self._folder / kind).is_dir():
            return
        for folder in (self._folder / kind).iterdir():
            if _PART.match(folder.name) and not is_needed(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def kinds(self) -> list[str]:
        """The kinds of which there are artifacts."""
        if self._s3 is None:
            folders = self._folder.iterdir() if self._folder.is_dir() else iter(())
            return sorted(path.name for path in folders if path.is_dir() and self.versions(path.name))
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        found = (entry["Prefix"].split("/")[-2] for page in pages for entry in page.get("CommonPrefixes", []))
        return sorted(kind for kind in found if self.versions(kind))

    def leftovers(self, before: dt.datetime) -> list[Leftover]:
        """What writers that were killed before an instant (aware) left half done: folders, downloads, objects of S3."""
        patterns = ("*/.writing-*", "*/.replaced-*", "*/*/**/*.part") if self._folder.is_dir() else ()
        paths = [path for pattern in patterns for path in self._folder.glob(pattern)]
        old = [path for path in paths if path.stat().st_mtime < before.timestamp()]
        found = [Leftover(path, None, _bytes_of(path)) for path in old]
        return found + (self._orphans(before) if self._s3 is not None else [])

    def _orphans(self, before: dt.datetime) -> list[Leftover]:
        """Objects under `kind/version/` that have no manifest: an upload that was killed, or a deletion."""
        assert self._s3 is not None  # noqa: S101 - narrows the type
        by_version: dict[str, list[dict[str, Any]]] = {}
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for entry in page.get("Contents", []):
                kind, _, rest = entry["Key"].removeprefix(self._prefix).partition("/")
                version, _, name = rest.partition("/")
                if name and kind != FOREIGN and _PART.match(kind) and _PART.match(version):
                    by_version.setdefault(f"{kind}/{version}", []).append(entry)
        return [
            Leftover(None, entry["Key"], entry["Size"])
            for ref, entries in by_version.items()
            if not any(entry["Key"] == f"{self._prefix}{ref}/{MANIFEST}" for entry in entries)
            and all(entry["LastModified"] < before for entry in entries)
            for entry in entries
        ]

    def remove(self, leftover: Leftover) -> None:
        """Delete what was left half done; an artifact that was being replaced and has no successor comes back."""
        if leftover.key is not None and self._s3 is not None:
            self._s3.delete_object(Bucket=self._bucket, Key=leftover.key)
        if (path := leftover.path) is None:
            return
        if path.name.startswith(".replaced-") and (path / "old" / MANIFEST).is_file():
            version = json.loads((path / "old" / MANIFEST).read_text())["version"]
            if _PART.match(version) and not (path.parent / version).exists():
                (path / "old").rename(path.parent / version)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def get_or_make(
        self,
        kind: str,
        version: str,
        make: Callable[[Path, dict[str, Any]], None],
        *,
        made_by: str,
        inputs: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Manifest, bool]:
        """The artifact of this version, made only when it is not there whole (or `force`); and whether it was made."""
        ref = f"{kind}/{version}"
        if not force and self.exists(ref):
            return self.open(ref)[1], False
        with self.writing(kind, version, made_by=made_by, inputs=inputs, meta=meta) as (folder, final_meta):
            make(folder, final_meta)
        return self.manifest(ref), True

    def _publish(self, work: Path, manifest: Manifest) -> None:
        target = self._folder / manifest.kind / manifest.version
        if self._s3 is not None:
            for name in [*manifest.files, MANIFEST]:  # the manifest last: until then there is no artifact
                key = f"{self._prefix}{manifest.ref}/{name}"
                self._s3.upload_file(str(work / name), self._bucket, key)
            shutil.rmtree(target, ignore_errors=True)
            return
        for path in (*work.rglob("*"), work):
            sync(path)
        if target.exists():  # made again on purpose: swap, so that a crash leaves one of the two
            old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=target.parent))
            target.rename(old / "old")
            work.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            work.rename(target)
        sync(target.parent)  # the name, too

    def _s3_text(self, name: str, ref: str) -> str:
        from botocore.exceptions import ClientError

        assert self._s3 is not None  # noqa: S101 - narrows the type
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                raise NotFoundError(f"no artifact {ref} under {self.root}") from None
            raise
        return body.decode()

    def _download(self, manifest: Manifest, folder: Path) -> None:
        assert self._s3 is not None  # noqa: S101 - narrows the type
        for name, expected in manifest.files.items():
            path = folder / name
            if path.is_file() and sha256_of(path) == expected["sha256"]:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")  # workers share the cache
            self._s3.download_file(self._bucket, f"{self._prefix}{manifest.ref}/{name}", str(part))
            part.replace(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
