# SPDX-License-Identifier: Apache-2.0
"""The DICOM objects of a result: what the viewers show is written here, and stored by the plugin."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydicom import Dataset

from clam_core.slides import Slide
from worker.api.contract import Claim
from worker.dicom_results import Attention, DicomResults, DicomResultsError, Run, SourceSlide, build_results
from worker.result_kinds import ResultKind

_log = logging.getLogger(__name__)

NOT_WRITTEN = "dicom_results_failed"
"""Flag of a result whose DICOM objects could not be written at all."""
NO_DICOM_SLIDE = "dicom_results_need_dicom_slide"
"""Flag of a result whose slide was read from a file, so that there is no header to refer to."""


Build = Callable[[SourceSlide, Mapping[str, Any], Attention, Run, frozenset[ResultKind]], DicomResults]
"""As `build_results`, wherever that is done."""


@runtime_checkable
class DicomSlide(Protocol):
    """A slide that was opened from DICOM."""

    @property
    def headers(self) -> Sequence[Dataset]:
        """Headers of the levels' instances."""
        ...


@dataclass(frozen=True)
class DicomStep:
    """Writes the DICOM objects that a site wants.

    Attributes
    ----------
    kinds
        Which objects are wanted.
    now
        The local time.
    build
        Makes the objects.
    """

    kinds: frozenset[ResultKind]
    now: Callable[[], dt.datetime] = field(default=lambda: dt.datetime.now(dt.UTC).astimezone())
    build: Build = build_results

    def write(
        self, slide: Slide, result: Mapping[str, Any], attention: Attention | None, claim: Claim
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the result with its ``dicom`` and flags, and the objects as artifacts.

        Objects that cannot be written never cost the result: it says so in a flag, the log says why.
        """
        if not self.kinds or attention is None:
            return dict(result), {}
        if not isinstance(slide, DicomSlide):
            return _flagged(result, [NO_DICOM_SLIDE]), {}
        run = Run(claim.request_id, self.now(), claim.request.get("predecessor"))
        try:
            made = self.build(SourceSlide.of(slide.headers), result, attention, run, self.kinds)
        except DicomResultsError as error:
            _log.warning("No DICOM results: %s", error)
            return _flagged(result, [NOT_WRITTEN]), {}
        for skipped in made.skipped:
            _log.warning("No %s: %s", skipped.kind.value, skipped.reason)
        flagged = _flagged(result, [skipped.flag for skipped in made.skipped])
        flagged["dicom"] = [artifact.as_json() for artifact in made.artifacts]
        return flagged, {artifact.name: artifact.content for artifact in made.artifacts}


def _flagged(result: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Return the result with further flags."""
    if not flags:
        return dict(result)
    quality = dict(result.get("quality") or {"status": "ok"})
    quality["flags"] = list(dict.fromkeys([*quality.get("flags", []), *flags]))
    return {**result, "quality": quality}
