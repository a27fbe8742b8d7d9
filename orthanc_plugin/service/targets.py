# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a person points at, and which series are meant by it."""

from __future__ import annotations

from dataclasses import dataclass

from orthanc_plugin import fields
from orthanc_plugin.errors import ApiError, UnknownTagError
from orthanc_plugin.gateway import Gateway

MAX_SERIES_OF_COHORT = 1000
_SLIDES = "SM"
"""What a query is for unless it names a Modality: DICOM results of earlier analyses lie beside slides."""


@dataclass(frozen=True)
class Cohort:
    """Many slides at once: named, or found by the values of DICOM tags as Orthanc's ``/tools/find`` does."""

    series: tuple[str, ...] = ()
    find: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """What a person pointed at: one series, study or instance, a series by its UIDs, or a cohort."""

    series: str | None = None
    study: str | None = None
    instance: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    cohort: Cohort | None = None

    @property
    def is_many(self) -> bool:
        """Whether several slides may be meant, of which some may be passed over."""
        return self.study is not None or self.cohort is not None


def resolve(gateway: Gateway, target: Target) -> tuple[str, ...]:
    """Return the Orthanc ids of the series that a person pointed at.

    Raises
    ------
    ApiError
        400 where a query names what is no DICOM tag, 404 where there is none, 409 where UIDs are ambiguous,
        413 where there are too many.
    StorageError
        Where Orthanc fails.
    """
    found: tuple[str, ...] = ()
    if target.series is not None:
        found = (target.series,) if gateway.series(target.series) is not None else ()
    elif target.instance is not None:
        parent = gateway.parent_series(target.instance)
        found = () if parent is None else (parent,)
    elif target.study is not None:
        found = gateway.study_series(target.study)
        _refuse_too_many(found, "This study has", "submit its slides as cohorts")
    elif target.cohort is not None:
        found = _cohort_series(gateway, target.cohort)
    elif target.series_instance_uid is not None:
        found = gateway.lookup_series(target.series_instance_uid, target.study_instance_uid)
        if len(found) > 1:
            raise ApiError(
                409,
                "ambiguous_series",
                "Several series have this UID; submit one of the candidates by its Orthanc id.",
                details={"candidates": list(found)},
            )
    if not found:
        raise ApiError(404, "unknown_resource", "Orthanc has no such resource (any more).")
    return found


def _cohort_series(gateway: Gateway, cohort: Cohort) -> tuple[str, ...]:
    if not cohort.find:
        return tuple(dict.fromkeys(cohort.series))
    query = {"Modality": _SLIDES, **dict(cohort.find)}
    try:
        found = gateway.find_series(query, MAX_SERIES_OF_COHORT + 1)
    except UnknownTagError as error:
        asked = ", ".join(keyword for keyword, _ in cohort.find)
        wanted = f"keywords of DICOM tags such as StudyDate; Orthanc does not know all of these: {asked}"
        raise fields.bad_field("cohort.find", wanted) from error
    if not found:
        raise ApiError(
            404, "unknown_resource", "No series has these tags; check the keywords and the values."
        )
    _refuse_too_many(found, "This query finds", "narrow it, by dates for instance")
    return found


def _refuse_too_many(found: tuple[str, ...], what: str, remedy: str) -> None:
    if len(found) > MAX_SERIES_OF_COHORT:
        raise ApiError(413, "cohort_too_large", f"{what} more than {MAX_SERIES_OF_COHORT} series; {remedy}.")
