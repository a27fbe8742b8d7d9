# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hangs the plugin into Orthanc: routes, filter, changes, Explorer's script, and its own threads."""

from __future__ import annotations

import gc
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import __version__
from .access.users import refuse_unsafe_users
from .application import OWN_ROUTES, Application
from .audit import open_audit
from .clock import SystemClock
from .errors import PluginError
from .host import orthanc_api, orthanc_callbacks
from .host.orthanc_gateway import OrthancGateway
from .routes.pages import explorer_script
from .service.changes import series_created, series_deleted, series_stable
from .service.clockwork import LEFTOVERS_EVERY, TICK_S, finish_leftovers, tick
from .service.core import Core
from .service.rules import series_arrived, sweep, warn_of_unknown_tags
from .service.startup import load_all, load_open, load_unread
from .settings import read_settings, warnings_on

OnChange = Callable[[int, int, str], None]
Filter = Callable[..., bool]

_RETRY_START_S = 5.0
_SERIES_CHANGES = {
    "DELETED": (series_deleted,),
    "NEW_SERIES": (series_created,),
    "STABLE_SERIES": (series_stable, series_arrived),
}


def register(
    on_change: OnChange | None = None,
    filter: Filter | None = None,  # noqa: A002 - the name that sites call it by
    explorer_js: str = "",
) -> None:
    """Register everything with Orthanc. Called once, while Orthanc reads its Python script.

    Orthanc takes one script, one change callback, one filter and one Explorer script; a site that has its own
    calls this from its own script and hands them in as it would hand them to Orthanc; they are chained, also
    where `Pathology.Enabled` is false.

    Parameters
    ----------
    on_change
        What the site would give to ``orthanc.RegisterOnChangeCallback``.
    filter
        What it would give to ``orthanc.RegisterIncomingHttpRequestFilter``; its False is the answer.
    explorer_js
        Put before the plugin's own script for Orthanc Explorer.

    Raises
    ------
    SettingsError
        Where the configuration is wrong; Orthanc then does not start.
    """
    gateway = OrthancGateway()
    configuration = gateway.configuration()
    settings = read_settings(configuration)
    if not settings.enabled:
        orthanc_api.log_warning("Pathology.Enabled is false: the pathology plugin stays out of the way.")
        _register_site_only(on_change, filter, explorer_js)
        return
    if configuration.get("AuthenticationEnabled") is True:
        refuse_unsafe_users(configuration)
    audit = open_audit(settings.audit, gateway.storage_directory(), orthanc_api.log_error)
    application = Application(settings, gateway, SystemClock(), audit, orthanc_api.log_warning)
    plugin = _Plugin(application)
    orthanc_callbacks.serve_route(OWN_ROUTES.pattern, application.handle, application.user_of)
    orthanc_callbacks.filter_requests(application.allows, before=filter)
    orthanc_callbacks.listen(plugin.on_change, before=on_change)
    orthanc_api.extend_explorer(explorer_script(explorer_js, settings))
    for warning in warnings_on(configuration, settings):
        orthanc_api.log_warning(f"Pathology: {warning}")
    orthanc_api.log_warning(f"The pathology plugin {__version__} is registered.")


def _register_site_only(on_change: OnChange | None, filter_: Filter | None, explorer_js: str) -> None:
    """Register what the site handed in: its own rules must hold whether the plugin is enabled or not."""
    if on_change is not None:
        orthanc_callbacks.listen(None, before=on_change)
    if filter_ is not None:
        orthanc_callbacks.filter_requests(None, before=filter_)
    if explorer_js:
        orthanc_api.extend_explorer(explorer_js)


class _Plugin:
    """The plugin's own threads: one reads the requests after a start, one follows changes, one watches time.

    Orthanc's change thread only hands over: what is done about a change may take a while.
    """

    def __init__(self, application: Application) -> None:
        self._core: Core = application.core
        self._changes: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()

    def on_change(self, name: str, level: str, resource: str) -> None:
        """Take a change from Orthanc."""
        if name == "ORTHANC_STARTED":
            self._start()
        elif name == "ORTHANC_STOPPED":
            self._core.stop()
            self._changes.put(None)
        elif level == "series" and name in _SERIES_CHANGES:
            self._changes.put((name, resource))

    def _start(self) -> None:
        threads = [self._load, self._follow_changes, self._watch_time, self._watch_arrivals]
        if self._core.webhook is not None:
            threads.append(self._tell_webhook)
        for target in threads:
            thread = threading.Thread(target=target, name=f"pathology{target.__name__}", daemon=True)
            thread.start()

    def _load(self) -> None:
        steps = [load_open, load_all]
        stopping = self._core.ready.stopping
        while steps and not stopping.is_set():
            pause_s = _RETRY_START_S
            with _failures_logged():
                steps[0](self._core)
                del steps[0]
                pause_s = 0.0
            stopping.wait(pause_s)
        if not steps:
            # What was read stays, and holds no cycles: at 100,000 requests a look at all of it takes 0.6 s,
            # in which Python does nothing else.
            gc.collect()
            gc.freeze()

    def _follow_changes(self) -> None:
        while (change := self._changes.get()) is not None:
            name, series_id = change
            for follow in _SERIES_CHANGES[name]:
                with _failures_logged():
                    follow(self._core, series_id)

    def _watch_arrivals(self) -> None:
        stopping = self._core.ready.stopping
        while not self._core.ready.all_known.wait(TICK_S):
            if stopping.is_set():
                return
        with _failures_logged():
            warn_of_unknown_tags(self._core)
        pause_s = 0.0
        while not stopping.wait(pause_s):
            pause_s = _RETRY_START_S
            with _failures_logged():
                pause_s = sweep(self._core)

    def _watch_time(self) -> None:
        ticks = 0
        while not self._core.ready.stopping.wait(TICK_S):
            ticks += 1
            with _failures_logged():
                tick(self._core)
            if ticks % LEFTOVERS_EVERY == 0:
                with _failures_logged():
                    load_unread(self._core)
                with _failures_logged():
                    finish_leftovers(self._core)

    def _tell_webhook(self) -> None:
        webhook, stopping = self._core.webhook, self._core.ready.stopping
        while webhook is not None and not stopping.is_set():
            pause_s = _RETRY_START_S
            with _failures_logged():
                webhook.run(stopping)
                pause_s = 0.0
            stopping.wait(pause_s)


@contextmanager
def _failures_logged() -> Iterator[None]:
    """Log what goes wrong in a step of a thread, which then goes on."""
    try:
        yield
    except PluginError as error:
        orthanc_api.log_error(f"Pathology: {error}")
    except Exception:  # noqa: BLE001 - the thread's boundary: it must not end by one failure
        orthanc_api.log_error(f"Pathology: an error of the plugin's own:\n{traceback.format_exc()}")
