# SPDX-License-Identifier: Apache-2.0
"""Calls in a process beside this one, for what is Python through and through.

Such work keeps Python's lock from the threads that read a slide and feed the GPU: while the DICOM results of
one slide were written in a thread, the next one was encoded a third slower (docs/performance.md).
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import ParamSpec, Self, TypeVar

from .shutdown import ENDING, HANG_UP

_log = logging.getLogger(__name__)

_MOST_LOST = 2

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class Apart:
    """Calls functions in one other process, which ends with this one at the latest.

    Functions, arguments and answers must be such as `pickle` takes. Where there can be no other process, or
    it dies, functions are called here; after two in a row that died none is made any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._modules: tuple[str, ...] = ()
        self._pool: ProcessPoolExecutor | None = None
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *modules: str) -> None:
        """Begin to make the process, with modules imported there, and do not wait for it."""
        self._modules = modules
        self._submitted(os.getpid)

    def call(
        self,
        function: Callable[_Arguments, _Answer],
        /,
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Answer:
        """Return what the function returns, or raise what it raises; one call after the other."""
        submitted = self._submitted(function, *arguments, **named)
        if submitted is None:
            return function(*arguments, **named)
        pool, answer = submitted
        try:
            found = answer.result()
        except BrokenExecutor as error:
            self._give_up(pool, error)
            return function(*arguments, **named)
        except Exception as error:
            # The traceback of the other process is text, and may quote what stands in a slide's header.
            error.__cause__ = None
            raise
        self._lost = 0
        return found

    def doing(self, function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
        """Return a function that calls this one there."""

        def done(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
            return self.call(function, *arguments, **named)

        return done

    def close(self) -> None:
        """End the other process, once it has done what it is at; nobody waits for it."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(
        self, function: Callable[_Arguments, _Answer], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> tuple[ProcessPoolExecutor, Future[_Answer]] | None:
        """Hand a call to the other process, and return both; None where there is no such process."""
        pool = None
        try:
            with self._lock:
                if self._lost >= _MOST_LOST:
                    return None
                if self._pool is None:
                    # Not forked: this process has threads, and a GPU.
                    context = multiprocessing.get_context("spawn")
                    self._pool = ProcessPoolExecutor(
                        1, mp_context=context, initializer=_begin, initargs=self._modules
                    )
                pool = self._pool
                return pool, pool.submit(function, *arguments, **named)
        except (OSError, NotImplementedError, BrokenExecutor) as error:
            self._give_up(pool, error)
            return None

    def _give_up(self, pool: ProcessPoolExecutor | None, error: Exception) -> None:
        """Count a process that is lost: once, though several calls may have waited for it."""
        with self._lock:
            if self._pool is not pool:
                return
            self._pool = None
            self._lost += 1
        _log.warning("No process beside this one (%s): its work is done here, more slowly.", error)
        if pool is not None:
            pool.shutdown(wait=False)


def _begin(*modules: str) -> None:
    """Say nothing, since libraries quote headers, and end with the process that calls and not before."""
    logging.disable(logging.CRITICAL)
    # Not when they are called only: what is called with is checked, and quoted, when it comes.
    logging.captureWarnings(capture=True)
    for number in (*ENDING, *HANG_UP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for module in modules:
        importlib.import_module(module)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(0)
