# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is submitted by itself: slides that have arrived and meet a rule, once for each content and model.

STABLE_SERIES is a hint only: it never comes where Orthanc is killed before a series has settled. So series
that changed since a stored mark are looked at again, at the start and from time to time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

from orthanc_plugin.errors import ApiError, StorageError, UnknownTagError
from orthanc_plugin.gateway import InstanceInfo, SeriesInfo, stamp
from orthanc_plugin.slides.arrival import REMOTE_AET, STAIN, Arrival, matches
from orthanc_plugin.slides.eligibility import check_eligible, is_slide_image

from .core import Core
from .submit import Wish, submit
from .targets import Target

SWEEP_EVERY_S = 600.0
_SOON_S = 10.0
_DEFAULT_STABLE_AGE_S = 60.0
_MOST_FAILED = 100
"""Beyond that it is Orthanc that fails, and the mark stays where it is."""
_DAY = 8
"""Length of the date in Orthanc's LastUpdate (``20261122T165403``, UTC)."""


def warn_of_unknown_tags(core: Core) -> None:
    """Say in the log which rules name what is no DICOM tag: they are never met, and nobody would know why.

    Raises
    ------
    StorageError
        Where Orthanc fails.
    """
    for rule in core.settings.rules:
        for name, _ in rule.match:
            if name not in {STAIN, REMOTE_AET} and not _is_tag(core, name):
                core.warn(f"Rule {rule.name} is never met: Orthanc knows no DICOM tag {name}.")


def _is_tag(core: Core, name: str) -> bool:
    try:
        # Of a series that cannot be, so that Orthanc looks through none.
        core.gateway.find_series({"SeriesInstanceUID": "0", name: "0"}, 1)
    except UnknownTagError:
        return False
    return True


def series_arrived(core: Core, series_id: str) -> None:
    """Submit what the rules want of a series, where it is a slide that is complete.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails; the next sweep looks at the series again.
    """
    if not core.settings.rules or not _knows_results(core):
        return
    series = core.gateway.series(series_id)
    if series is None or not series.is_stable:
        return
    instances = core.gateway.instances(series_id)
    if _is_eligible(core, series, instances):
        _apply(core, series_id, instances)
    core.ruled[series_id] = series.last_update


def _knows_results(core: Core) -> bool:
    """Our own results are told from slides by the requests that made them, so all must be known."""
    return core.ready.all_known.is_set() and not core.ready.unread


def _is_eligible(core: Core, series: SeriesInfo, instances: tuple[InstanceInfo, ...]) -> bool:
    try:
        check_eligible(series, instances, core.index.is_output(series.series_instance_uid))
    except ApiError:
        return False
    return True


def _apply(core: Core, series_id: str, instances: tuple[InstanceInfo, ...]) -> None:
    # What rules look at is the same in every image of a slide; the smallest file is the quickest to read.
    smallest = min(filter(is_slide_image, instances), key=lambda instance: instance.size)
    arrival = Arrival(
        core.gateway.tags(smallest.instance_id), core.gateway.remote_aet(smallest.instance_id) or ""
    )
    for rule in core.settings.rules:
        if matches(rule, arrival):
            wish = Wish(model=rule.model, model_version=rule.model_version, priority=rule.priority, once=True)
            try:
                submit(core, Target(series=series_id), wish, f"rule {rule.name}")
            except ApiError as error:
                if error.status == 503:
                    raise
                core.warn(f"Rule {rule.name} could not submit series {series_id}: {error.message}")


def sweep(core: Core) -> float:
    """Look at the series that changed since the mark; return the seconds until the next look.

    Without a mark (the first start with rules) what is there already is left alone: rules are for arrivals.

    Raises
    ------
    StorageError
        Where Orthanc can read neither the mark nor its series.
    """
    number = core.settings.rules_property
    stored = core.gateway.get_global_property(number) or ""
    if not core.settings.rules:
        if stored:
            core.gateway.set_global_property(number, "")
        return SWEEP_EVERY_S
    if not _knows_results(core):
        return _SOON_S
    if not stored:
        core.gateway.set_global_property(number, _now(core))
        return SWEEP_EVERY_S
    before = _read_mark(stored)
    # A clock that ran ahead may have left a mark of the future, which would hide what arrives until then.
    after, is_all_settled = _look(core, replace(before, at=min(before.at, _now(core))))
    if str(after) != stored:
        _keep_mark(core, after)
    return SWEEP_EVERY_S if is_all_settled else _stable_age(core)


def _keep_mark(core: Core, mark: _Mark) -> None:
    """Write the mark, or leave the earlier one, up to which all is seen as well, to the next look.

    A look takes in every series: to begin it anew at once, for as long as a disk is full, costs the others.
    """
    try:
        core.gateway.set_global_property(core.settings.rules_property, str(mark))
    except StorageError as error:
        core.warn(f"Up to when arrivals were looked at could not be written: {error}")


@dataclass(frozen=True)
class _Mark:
    """Up to when all series have been looked at, and those among them that could not be read."""

    at: str
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.at, *self.failed))


def _read_mark(text: str) -> _Mark:
    at, *failed = text.split(" ")
    return _Mark(at, tuple(failed))


def _look(core: Core, mark: _Mark) -> tuple[_Mark, bool]:
    """Return the mark after a look at what came since and at what failed, and whether nothing has to settle.

    The whole day of the mark is looked at, so that a clock set back hides nothing. A series that cannot be
    read does not hold the mark: a rule that is added later would submit all that has come since.
    """
    now, is_all_settled = _now(core), True
    seen, left, failed = [mark.at], [now], list[str]()
    settled = stamp(core.clock.now() - _stable_age(core))
    others = (series_id for series_id in core.gateway.list_series() if series_id not in mark.failed)
    for series_id in chain(mark.failed, others):
        if core.ready.stopping.is_set():
            return mark, True
        series = core.gateway.series(series_id)
        if series is None or (series.last_update[:_DAY] < mark.at[:_DAY] and series_id not in mark.failed):
            continue
        # After a kill a series reads as stable at once, though its sender may have more of it. One of the
        # future was dated before the clock was set back.
        if not series.is_stable or settled < series.last_update <= now:
            is_all_settled = False
            left.append(series.last_update)
        elif _is_done(core, series):
            seen.append(series.last_update)
        elif len(failed) < _MOST_FAILED:
            failed.append(series_id)
            seen.append(series.last_update)
        else:
            left.append(series.last_update)
    return _Mark(min(*left, max(seen)), tuple(failed)), is_all_settled


def _is_done(core: Core, series: SeriesInfo) -> bool:
    """Apply the rules to a series, and tell whether that is done: one bad slide keeps no other from its."""
    if core.ruled.get(series.series_id) == series.last_update:
        return True
    try:
        series_arrived(core, series.series_id)
    except (StorageError, ApiError) as error:
        core.warn(f"The rules are applied to series {series.series_id} at the next look: {error}")
        return False
    return True


def _stable_age(core: Core) -> float:
    configured = core.gateway.configuration().get("StableAge", _DEFAULT_STABLE_AGE_S)
    return float(configured) + 1.0


def _now(core: Core) -> str:
    return stamp(core.clock.now())
