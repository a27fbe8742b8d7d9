# SPDX-License-Identifier: AGPL-3.0-or-later
"""Why a request waits: whether any worker is there to do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import values
from .lifecycle import accepts
from .settings import Settings
from .values import AnalysisRequest, Model
from .workers import Worker, permits

NO_WORKER = "no_worker"
MODEL_NOT_OFFERED = "model_not_offered"
CODES = (NO_WORKER, MODEL_NOT_OFFERED)
_MOST_NAMED = 10


@dataclass(frozen=True)
class Note:
    """A sentence about a waiting request, its code, and the names of the models that are offered instead."""

    code: str
    message: str
    offered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offers:
    """What the living workers offer and the site permits; `defaults` run where a request names no model."""

    is_anybody_alive: bool
    models: tuple[Model, ...]
    defaults: tuple[Model, ...]


def offers_of(alive: Iterable[Worker], settings: Settings) -> Offers:
    """Return what these workers offer together."""
    workers = tuple(alive)
    offered = [
        (model, model.name == worker.default_model)
        for worker in workers
        for model in worker.models
        if permits(settings, model)
    ]
    return Offers(
        is_anybody_alive=bool(workers),
        models=tuple(model for model, _ in offered),
        defaults=tuple(model for model, is_default in offered if is_default),
    )


def notes_on(request: AnalysisRequest, offers: Offers) -> tuple[Note, ...]:
    """Return what a person should know about a request that waits; nothing of one that does not."""
    if request.status != values.PENDING:
        return ()
    if not offers.is_anybody_alive:
        return (Note(NO_WORKER, "No worker is alive now; the request waits until one is."),)
    candidates = offers.defaults if request.model is None else offers.models
    if any(accepts(request, model) for model in candidates):
        return ()
    names = tuple(sorted({model.name for model in offers.models})[:_MOST_NAMED])
    named = f" Offered are: {', '.join(names)}." if names else ""
    message = f"No worker that is alive offers this model; the request waits for one.{named}"
    return (Note(MODEL_NOT_OFFERED, message, names),)
