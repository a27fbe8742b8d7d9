# SPDX-License-Identifier: Apache-2.0
"""Which kinds of DICOM results there are, and which of them a site wants."""

from __future__ import annotations

from enum import Enum

from .errors import SettingsError


class ResultKind(Enum):
    """One kind of result object; the value names it in settings, artifacts and UIDs."""

    SLIDE_REPORT = "slide-report"
    ROI_REPORT = "roi-report"
    ATTENTION_MAP = "attention-map"

    @property
    def artifact_name(self) -> str:
        """Name of the artifact that carries the object."""
        return f"{self.value}.dcm"


ALL_KINDS = frozenset(ResultKind)


def parse_kinds(text: str) -> frozenset[ResultKind]:
    """Read the setting ``DICOM_RESULTS``.

    Parameters
    ----------
    text
        Kinds separated by commas; ``all`` or nothing for all of them, ``none`` for none.

    Raises
    ------
    SettingsError
        If a word names no kind.
    """
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if words in ([], ["all"]):
        return ALL_KINDS
    if words == ["none"]:
        return frozenset()
    return frozenset(_kind(word) for word in words)


def _kind(word: str) -> ResultKind:
    try:
        return ResultKind(word)
    except ValueError:
        known = ", ".join(kind.value for kind in ResultKind)
        raise SettingsError(
            f"DICOM_RESULTS cannot hold {word!r}; give any of {known}, separated by commas, or all, or none."
        ) from None
