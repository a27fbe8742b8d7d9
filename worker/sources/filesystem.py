# SPDX-License-Identifier: Apache-2.0
"""A file system of one slide's instances, in the form that wsidicom opens files from (fsspec and UPath)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fsspec
import upath.registry
from fsspec.spec import AbstractFileSystem
from upath import UPath

from .range_files import RangeFile, RangeStream

PROTOCOL = "pathologyranges"


class RangeFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Files by their instance's Orthanc id.

    Parameters
    ----------
    files
        The instances of one slide.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, files: Mapping[str, RangeFile], **options: Any) -> None:
        super().__init__(**options)
        self._files = files

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Describe a file."""
        name = self._strip_protocol(path).strip("/")
        if name not in self._files:
            raise FileNotFoundError(path)
        return {"name": name, "size": self._files[name].size, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> RangeStream:
        if mode != "rb":
            raise PermissionError("Stored slides are only read.")
        return RangeStream(self._files[self.info(path)["name"]])


fsspec.register_implementation(PROTOCOL, RangeFileSystem, clobber=True)
upath.registry.register_implementation(PROTOCOL, UPath, clobber=True)


def paths_of(files: Mapping[str, RangeFile]) -> list[UPath]:
    """Return the paths that wsidicom opens the files by."""
    return [UPath(f"{PROTOCOL}://{name}", files=files) for name in files]
