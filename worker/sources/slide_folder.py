# SPDX-License-Identifier: Apache-2.0
"""The last choice: a slide file in SVS_STORAGE_DIR, found by the identifiers in the series' tags.

A path is never built out of an identifier: the folder is listed, and names are compared.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from clam_core.errors import SlideError
from clam_core.slides import OpenSlideSlide, Pixels, Slide
from clam_core.slides.slide import SlideIdentity, container_name
from worker.api.contract import Claim
from worker.backoff import Wait, uninterrupted
from worker.settings import Settings

from .errors import AmbiguousSlideFileError, NoSlideFileError, SourceError
from .preflight import check_mpp
from .repeating import orthanc_document, repeat
from .source import SourceReport

_log = logging.getLogger(__name__)

SUFFIXES = frozenset({".svs", ".ndpi", ".tif", ".tiff", ".scn", ".mrxs", ".bif", ".vms", ".vmu"})
"""Endings of the files that OpenSlide reads."""

_SHORTEST_NAME, _SHORTEST_IN_A_NAME = 3, 5
"""Shorter identifiers are the name of a file, or stand in one, by chance: 001 is in the name of every first
slide."""

_MEANINGLESS = frozenset({"unknown", "anonymous", "anonymized", "none", "n/a"})


@dataclass(frozen=True)
class Identifier:
    """A value by which a file may be named.

    Attributes
    ----------
    tag
        Keyword of the DICOM tag.
    value
        Its value.
    """

    tag: str
    value: str


@dataclass(frozen=True)
class Match:
    """A file and the rule by which it was found.

    Attributes
    ----------
    path
        The file.
    rule
        For the log; holds no value, since those may name a patient.
    """

    path: Path
    rule: str


TAGS = ("ContainerIdentifier", "SpecimenIdentifier", "SeriesInstanceUID", "SOPInstanceUID")
"""Tags that may name a slide's file, the most particular first.

Study, accession number and patient are those of every block of a case: a file that is named after one of them
may be another glass.
"""


def identifiers_of(tags: Mapping[str, Any]) -> tuple[Identifier, ...]:
    """Return the identifiers in an instance's simplified tags.

    Parameters
    ----------
    tags
        Tag keywords to values, sequences as lists, the way Orthanc's ``simplified-tags`` says it.
    """
    specimens = tags.get("SpecimenDescriptionSequence") or [{}]
    flat = {**tags, "SpecimenIdentifier": specimens[0].get("SpecimenIdentifier")}
    found = (Identifier(tag, str(flat.get(tag) or "").strip()) for tag in TAGS)
    return tuple(item for item in found if _says_something(item.value))


def _says_something(value: str) -> bool:
    return len(value) >= _SHORTEST_NAME and value.lower() not in _MEANINGLESS


def find_slide_file(files: Sequence[Path], identifiers: Sequence[Identifier]) -> Match:
    """Choose the file that belongs to a series.

    A file whose name is an identifier wins over one whose name holds it beside other words, and a more
    particular identifier over a less particular one.

    Raises
    ------
    NoSlideFileError
        If no file matches.
    AmbiguousSlideFileError
        If several match by the first rule that matches at all.
    """
    for rule, matches in (("is the file's name", _is_name), ("stands in the file's name", _stands_in_name)):
        for identifier in identifiers:
            found = [file for file in files if matches(identifier.value, file.stem)]
            if len(found) > 1:
                raise _ambiguous(identifier, found)
            if found:
                return Match(found[0], f"{identifier.tag} {rule}")
    raise NoSlideFileError(
        "The series holds no readable pyramid, and no file in SVS_STORAGE_DIR is named after its container, "
        "its specimen or its UIDs: name the slide's file after the ContainerIdentifier or SeriesInstanceUID, "
        "or store the slide with `pathology-worker ingest`."
    )


def _is_name(identifier: str, stem: str) -> bool:
    return identifier.lower() == stem.lower()


def _stands_in_name(identifier: str, stem: str) -> bool:
    """Whether the identifier is a word of the name; behind a hyphen or a point it would go on, as another."""
    if len(identifier) < _SHORTEST_IN_A_NAME:
        return False
    pattern = rf"(?<![^\W_])(?<![-.]){re.escape(identifier)}(?![^\W_])(?![-.])"
    return re.search(pattern, stem, re.IGNORECASE) is not None


def _ambiguous(identifier: Identifier, found: Sequence[Path]) -> AmbiguousSlideFileError:
    # Not their names: files are often named after patients, and this sentence reaches log and server.
    return AmbiguousSlideFileError(
        f"{len(found)} files in SVS_STORAGE_DIR match the series' {identifier.tag}: name the slide's file "
        "exactly after its ContainerIdentifier or SeriesInstanceUID."
    )


def slide_files(folder: Path) -> Iterator[Path]:
    """Yield the slide files in a folder and its subfolders; links that lead out of it are passed over."""
    root = folder.resolve()
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            file = Path(place) / name
            if file.suffix.lower() in SUFFIXES and file.resolve().is_relative_to(root):
                yield file


class NamelessSlide(OpenSlideSlide):
    """A slide file that never says its own name, for that may be a patient's.

    Parameters
    ----------
    path
        The file.
    identity
        By what the slide is known in Orthanc.

    Raises
    ------
    SourceError
        If OpenSlide cannot read it.
    """

    def __init__(self, path: Path, identity: SlideIdentity) -> None:
        try:
            super().__init__(path)
        except SlideError as error:
            raise _unreadable() from error
        self._known_as = identity

    @property
    def identity(self) -> SlideIdentity:
        """UIDs and container, as Orthanc has them."""
        return self._known_as

    def source_report(self) -> SourceReport:
        """Say how the slide was read."""
        return SourceReport("slide_file")

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle as `Slide.read_region` says."""
        try:
            return super().read_region(location, level, size)
        except SlideError as error:
            raise _unreadable() from error


def _unreadable() -> SourceError:
    return SourceError(
        "The slide's file in SVS_STORAGE_DIR is damaged, incomplete or of no format that OpenSlide reads: "
        "copy it again from the scanner."
    )


def _identity(claim: Claim, tags: Mapping[str, Any]) -> SlideIdentity:
    return SlideIdentity(
        series_instance_uid=claim.request.get("series_instance_uid"),
        study_instance_uid=claim.request.get("study_instance_uid"),
        container_id=container_name(tags.get("ContainerIdentifier")),
    )


class SlideFolderSource:
    """Slides as files beside the worker.

    Parameters
    ----------
    folder
        SVS_STORAGE_DIR.
    settings
        Addresses and time-outs.
    session
        An authenticated session, for the series' tags.
    wait
        Waits between repeats.
    """

    name = "file in SVS_STORAGE_DIR"
    cost = "nothing of the network; DICOM results cannot be written for want of a header"

    def __init__(
        self, folder: Path, settings: Settings, session: requests.Session, wait: Wait = uninterrupted
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._session = session
        self._wait = wait

    def open(self, claim: Claim) -> Slide:
        """Find the slide's file and open it with OpenSlide."""
        if not claim.instances:
            raise NoSlideFileError("The series holds no instance: store the slide again.")
        path = f"/instances/{claim.instances[0].id}/simplified-tags"
        tags = repeat(lambda: orthanc_document(self._settings, self._session, path), self._wait)
        match = find_slide_file(list(slide_files(self._folder)), identifiers_of(tags))
        _log.info("The slide is read from a file in SVS_STORAGE_DIR: %s.", match.rule)
        slide = NamelessSlide(match.path, _identity(claim, tags))
        try:
            check_mpp(slide.mpp, claim.parameters)
        except SlideError:
            slide.close()
            raise
        return slide
