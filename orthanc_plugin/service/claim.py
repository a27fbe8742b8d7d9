# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker asks for work, and waits for it where there is none."""

from __future__ import annotations

from dataclasses import dataclass, field

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.fleet.counters import Counters
from orthanc_plugin.fleet.workers import Worker, model_for
from orthanc_plugin.gateway import InstanceInfo
from orthanc_plugin.queue import values
from orthanc_plugin.queue.leases import granted, is_prefetched, refused_at_claim
from orthanc_plugin.queue.values import AnalysisRequest, Failure, Grant, Model
from orthanc_plugin.queue.waiting import ClaimWaiter, Taker
from orthanc_plugin.slides.eligibility import check_eligible, fingerprint
from orthanc_plugin.storage.store import source_deleted

from .changes import note_arrival, series_deleted
from .core import Core, unavailable
from .orphans import delete_orphans
from .record import reserved
from .transact import change_request, change_request_numbered

_UNSTABLE_HOLD_S = 1.0
_REFUSED_HOLD_S = 2.0
_OTHER_WORKER_FIRST_S = 30.0
_MOST_SETBACKS = 3
"""Of one claim; beyond that it is Orthanc that fails, and no slide of its. Of those that have failed before,
a claim tries no more than that many either: they could keep all others from their turn."""


@dataclass(frozen=True)
class Claim:
    """What a worker offers; `token_sha256` stands for the token that it made.

    With `prefetch` it still works on another slide, and asks for the next one ahead. With `leaving` it says
    goodbye. With `is_tokenless` it is an older worker, which offers no models (see `tokenless`). `process`
    tells two workers of one name apart.
    """

    worker_id: str
    user: str
    token_sha256: str
    models: tuple[Model, ...] = ()
    default_model: str | None = None
    software: str = ""
    device: str = ""
    wait_s: float = 0.0
    prefetch: bool = False
    leaving: bool = False
    process: str | None = None
    is_tokenless: bool = False
    counters: Counters = field(default_factory=dict)


@dataclass(frozen=True)
class Granted:
    """A request under a fresh lease, and the files of its slide."""

    request: AnalysisRequest
    instances: tuple[InstanceInfo, ...]


@dataclass(frozen=True)
class Refused:
    """A request that cannot be granted now.

    It rests for `hold_s` seconds. Offered again at once, it would keep its worker busy for ever, and others
    from their turn.
    """

    hold_s: float = _REFUSED_HOLD_S


def claim(core: Core, ask: Claim) -> Granted | None:
    """Return the next request for a worker, or None where there is none within its waiting time.

    The same token again returns the same lease, so that a lost answer costs nothing.

    Raises
    ------
    ApiError
        503 where Orthanc fails.
    """
    if ask.leaving:
        core.workers.left(ask.worker_id, ask.user, ask.process)
        return None
    _note_worker(core, ask)
    again: list[str] = []

    def takes(item: AnalysisRequest) -> bool:
        if len(again) >= _MOST_SETBACKS and core.setbacks.of(item.request_id) is not None:
            return False
        return not _is_for_another(core, ask, item)

    taker = Taker(
        runs=lambda item: _offered(core, ask, item) is not None,
        takes=takes,
        has_room=lambda: not _has_one_ahead(core, ask),
        prefetch=ask.prefetch,
    )
    waiter = core.claims.enter(ask.worker_id, ask.token_sha256, taker, ask.wait_s)
    try:
        if core.workers.drains(ask.worker_id):
            return _repeated(core, ask)
        return _first_to_be_granted(core, ask, waiter, again)
    except StorageError as error:
        raise unavailable(error) from error
    finally:
        core.claims.leave(waiter)


def _first_to_be_granted(core: Core, ask: Claim, waiter: ClaimWaiter, again: list[str]) -> Granted | None:
    """Wait for a request that can be granted, past those of which Orthanc cannot read or write something.

    Those that have failed before are noted in `again`, and are no failure of the claim: a worker that hears
    of one each time comes ever more rarely, also to what can be granted.
    """
    failures: list[StorageError | ApiError] = []
    while True:
        found = _repeated(core, ask)
        try:
            found = found or _turn(core, ask, waiter, again)
        except (StorageError, ApiError) as error:
            failures.append(error)
        if found is not None:
            return found
        if failures and (waiter.is_over or len(failures) >= _MOST_SETBACKS):
            raise failures[-1]
        if waiter.is_over:
            return None


def _note_worker(core: Core, ask: Claim) -> None:
    worker = Worker(
        worker_id=ask.worker_id,
        user=ask.user,
        software=ask.software,
        device=ask.device,
        models=ask.models,
        default_model=ask.default_model,
        seen=core.clock.now(),
        seen_monotonic=core.clock.monotonic(),
        counters=ask.counters,
        process=ask.process,
    )
    if core.workers.claimed(worker):
        core.warn(
            f"Two workers ask for work under the name {ask.worker_id}, and one is taken for the other. "
            "Give each a WORKER_ID of its own."
        )


def _offered(core: Core, ask: Claim, request: AnalysisRequest) -> Model | None:
    return model_for(request, ask.models, ask.default_model, core.settings)


def _is_for_another(core: Core, ask: Claim, request: AnalysisRequest) -> bool:
    """After a failed attempt another living worker that offers the model has the first turn, for a while."""
    last = _last_ended(request)
    if last is None or last.worker_id != ask.worker_id or last.outcome in {None, values.HANDED_BACK}:
        return False
    since = request.not_before if request.not_before is not None else request.updated
    if not since <= core.clock.now() <= since + _OTHER_WORKER_FIRST_S:  # the clock may have been set back
        return False
    return any(
        worker.worker_id != ask.worker_id
        and model_for(request, worker.models, worker.default_model, core.settings) is not None
        for worker in core.workers.alive()
    )


def _last_ended(request: AnalysisRequest) -> Grant | None:
    """Return the latest grant, past one whose worker has not begun."""
    grants = request.grants[:-1] if is_prefetched(request) else request.grants
    return grants[-1] if grants else None


def _has_one_ahead(core: Core, ask: Claim) -> bool:
    """Tell whether a worker asks for a second slide ahead, or may: a write that gave it one is in doubt."""
    if not ask.prefetch:
        return False
    in_doubt = (item.grants[-1].worker_id for item in core.store.in_doubt() if is_prefetched(item))
    return core.index.holds_prefetch(ask.worker_id) or ask.worker_id in in_doubt


def _repeated(core: Core, ask: Claim) -> Granted | None:
    """Return the lease that a claim has brought before, if it has.

    Raises
    ------
    ApiError
        503 where that cannot be told: the write is in doubt, and Orthanc cannot be read.
    """
    core.store.read_again()
    if any(_is_under(item, ask.token_sha256) for item in core.store.in_doubt()):
        raise unavailable(StorageError("Orthanc could not write the request, and cannot be read."))
    request = core.index.request_of_token(ask.token_sha256)
    if request is None:
        return None
    core.setbacks.clear(request.request_id)  # it was in doubt, and has been given after all
    return Granted(request, core.gateway.instances(request.series))


def _is_under(request: AnalysisRequest, token_sha256: str) -> bool:
    return request.status == values.PROCESSING and request.grants[-1].token_sha256 == token_sha256


def _turn(core: Core, ask: Claim, waiter: ClaimWaiter, again: list[str]) -> Granted | None:
    request_id = core.claims.wait(waiter)
    if request_id is None:
        return None
    try:
        result = try_grant(core, ask, request_id)
    except (StorageError, ApiError) as error:
        rest_s, is_first = _set_back(core, request_id, error)
        if not is_first:
            again.append(request_id)
        core.claims.refuse(waiter, rest_s)
        if is_first:
            raise
        return None
    core.setbacks.clear(request_id)
    if isinstance(result, Granted):
        return result
    core.claims.refuse(waiter, result.hold_s)
    return None


def _set_back(core: Core, request_id: str, error: StorageError | ApiError) -> tuple[float, bool]:
    """Keep, for the people who wait, why a request could not be granted; return what `Setbacks.note` does."""
    sentence = str(error).removesuffix(" Try again.")
    rest_s, is_first = core.setbacks.note(request_id, sentence)
    if is_first:
        core.warn(f"Request {request_id} could not be given to a worker: {sentence}")
    return rest_s, is_first


def try_grant(core: Core, ask: Claim, request_id: str) -> Granted | Refused:
    """Return the lease, or for how long the request should rest where it cannot be granted now."""
    request = core.index.get(request_id)
    if request is None:
        return Refused()
    series = core.gateway.series(request.series)
    if series is None:
        series_deleted(core, request.series)
        return Refused()
    note_arrival(core, series)
    if not series.is_stable:
        return Refused(_UNSTABLE_HOLD_S)
    instances = core.gateway.instances(request.series)
    try:
        if not instances:
            raise source_deleted()
        check_eligible(series, instances, core.index.is_output(series.series_instance_uid))
        return Granted(_grant(core, ask, request, instances), instances)
    except ApiError as error:
        if error.status in {413, 422}:  # no room for a result, or nothing to analyse
            failure = Failure(error.code, error.message, retryable=False)
            change_request(core, request_id, lambda item: refused_at_claim(item, failure, core.clock.now()))
            return Refused()
        if error.status in {409, 410}:  # cancelled or deleted in the meantime
            return Refused()
        raise


def _grant(
    core: Core, ask: Claim, request: AnalysisRequest, instances: tuple[InstanceInfo, ...]
) -> AnalysisRequest:
    content = fingerprint(instances)
    now = core.clock.now()

    def change(current: AnalysisRequest, number: int) -> AnalysisRequest:
        grant = Grant(
            fence=current.fence + 1,
            worker_id=ask.worker_id,
            user=ask.user,
            token_sha256=ask.token_sha256,
            model=_offered(core, ask, current) or _asked_for(current),
            fingerprint=content,
            granted=now,
            prefetch=ask.prefetch,
            tokenless=ask.is_tokenless,
        )
        return granted(current, grant, reserved(number), now)

    after = change_request_numbered(core, request.request_id, change)
    if request.grants:
        delete_orphans(core, request.series)
    return after


def _asked_for(request: AnalysisRequest) -> Model:
    """Return what a person asked for, which is all that is known where an older worker runs it."""
    return Model(request.model or "", request.model_version)
