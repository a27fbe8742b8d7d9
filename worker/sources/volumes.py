# SPDX-License-Identifier: Apache-2.0
"""Which instances of a series are the slide."""

from __future__ import annotations

from collections.abc import Iterable

from wsidicom import WsiDicom

from clam_core.errors import NoVolumeError
from worker.api.contract import Claim, InstanceRef

from .errors import IncompleteSlideError


def volumes_of(claim: Claim) -> tuple[InstanceRef, ...]:
    """Return the instances that hold levels of the pyramid; labels and overviews are never touched.

    Raises
    ------
    NoVolumeError
        If there are none.
    """
    volumes = tuple(instance for instance in claim.instances if instance.is_volume)
    if not volumes:
        raise NoVolumeError(
            "The series holds no image of the whole slide (ImageType VOLUME), only labels, overviews or "
            "other objects; choose the series that holds the slide itself."
        )
    return volumes


def incomplete(missing: int, total: int) -> IncompleteSlideError:
    """Say that levels of a slide cannot be opened."""
    return IncompleteSlideError(
        f"{missing} of the {total} images of the slide cannot be opened: their compression is not "
        "supported, their header leaves something empty, or they are damaged; store the slide again, or "
        "convert it with `pathology-worker ingest`."
    )


def check_complete(wsi: WsiDicom, names: Iterable[str]) -> None:
    """See that wsidicom opened every file: it leaves out those that it cannot read, and says nothing.

    Raises
    ------
    IncompleteSlideError
        If it did not: a slide that lacks its largest level would be analysed at a wrong one.
    """
    wanted = set(names)
    missing = len(wanted - {path.name for path in wsi.files or ()})
    if missing:
        raise incomplete(missing, len(wanted))
