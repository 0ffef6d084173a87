"""What the loopback Hub serves: repositories with commits, branches and tags, made from dictionaries of files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import yaml

LFS_ENDINGS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class Blob:
    """One file's content, named as git and LFS would name it."""

    content: bytes
    is_large: bool

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.oid


@dataclass
class Repository:
    """One model. `files_of_commit` never forgets a commit; `commit_of_name` holds branches and tags."""

    name: str
    private: bool = False
    gated: bool = False
    disabled: bool = False
    files_of_commit: dict[str, dict[str, Blob]] = field(default_factory=dict)
    commit_of_name: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)  # which of these names are tags

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """The new commit's 40 digits: these files, and no others, on top of the branch."""
        blobs = {path: Blob(content, path.endswith(LFS_ENDINGS)) for path, content in sorted(files.items())}
        described = [self.name, self.commit_of_name.get(branch, ""), *(f"{path} {blobs[path].oid}" for path in blobs)]
        commit = hashlib.sha1("\n".join(described).encode()).hexdigest()
        self.files_of_commit[commit] = blobs
        self.commit_of_name[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit's own digits."""
        if revision in self.files_of_commit:
            return revision
        return self.commit_of_name.get(revision)

    def card(self, commit: str) -> dict[str, object]:
        """The YAML on top of README.md."""
        text = self.files_of_commit[commit].get("README.md", Blob(b"", False)).content.decode()
        return (yaml.safe_load(text.split("---")[1]) or {}) if text.startswith("---") else {}

    def info(self, commit: str, *, blobs: bool) -> dict[str, object]:
        """The answer of /api/models."""
        return {
            "_id": hashlib.sha1(self.name.encode()).hexdigest()[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": commit,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": self.disabled,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": self.card(commit),
            "siblings": [_sibling(path, blob, blobs) for path, blob in self.files_of_commit[commit].items()],
        }

    def tree(self, commit: str) -> list[dict[str, object]]:
        """The answer of /api/models/.../tree."""
        entries: list[dict[str, object]] = []
        for path, blob in self.files_of_commit[commit].items():
            entry: dict[str, object] = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
            if blob.is_large:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
            entries.append(entry)
        return entries


def _sibling(path: str, blob: Blob, blobs: bool) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": path}
    if blobs:
        entry |= {"size": len(blob.content), "blobId": blob.oid}
    if blobs and blob.is_large:
        entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry
