# SPDX-License-Identifier: AGPL-3.0-or-later
"""A queue put together on one Orthanc."""

from __future__ import annotations

from collections.abc import Callable

from orthanc_plugin.audit import Audit
from orthanc_plugin.clock import Clock
from orthanc_plugin.fleet.drained import Drained
from orthanc_plugin.fleet.workers import Workers
from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.index import Index
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.queue.waiting import ClaimPool, PagePool
from orthanc_plugin.settings import Settings
from orthanc_plugin.storage.copies import Copies
from orthanc_plugin.storage.open_series import OpenSeries
from orthanc_plugin.storage.store import Store
from orthanc_plugin.storage.unpublished import Unpublished
from orthanc_plugin.webhook import Webhook
from orthanc_plugin.webhook_client import post

from .core import Core
from .transact import follow_change


def build_core(
    settings: Settings, gateway: Gateway, clock: Clock, audit: Audit, warn: Callable[[str], None]
) -> Core:
    """Put a queue together; nothing is read yet (see `startup`)."""
    index = Index()

    def on_found(before: AnalysisRequest | None, after: AnalysisRequest) -> None:
        follow_change(core, before, after)

    core = Core(
        settings=settings,
        gateway=gateway,
        clock=clock,
        index=index,
        store=Store(gateway, settings, index, clock, warn, on_found),
        listed=OpenSeries(gateway, settings.global_property, clock, warn),
        copies=Copies(gateway, settings.copies_property, warn),
        overwrites=gateway.configuration().get("OverwriteInstances") not in {None, False},
        unpublished=Unpublished(gateway, settings.unpublished_property, warn),
        claims=ClaimPool(index, clock, settings.claim_waiters),
        pages=PagePool(index, settings.page_waiters),
        workers=Workers(clock, Drained(gateway, settings.drain_property, warn)),
        audit=audit,
        warn=warn,
        webhook=None if settings.webhook is None else Webhook(settings.webhook, post, clock, warn),
    )
    return core
