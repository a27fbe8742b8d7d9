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
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class Apart:
    """Calls functions in one other process, which lives as long as this one.

    Functions, arguments and answers must be such as `pickle` takes. Where there can be no other process, or
    it dies, functions are called here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._modules: tuple[str, ...] = ()
        self._pool: ProcessPoolExecutor | None = None
        self._is_refused = False

    def start(self, *modules: str) -> None:
        """Begin to make the process, with modules imported there, and do not wait for it."""
        self._modules = modules
        pool = self._started()
        if pool is not None:
            pool.submit(os.getpid)

    def call(
        self,
        function: Callable[_Arguments, _Answer],
        /,
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Answer:
        """Return what the function returns, or raise what it raises; one call after the other."""
        pool = self._started()
        if pool is None:
            return function(*arguments, **named)
        try:
            return pool.submit(function, *arguments, **named).result()
        except BrokenExecutor:
            self._forget(pool)
            _log.warning("The process beside this one ended (out of memory?): its work is done in this one.")
            return function(*arguments, **named)
        except Exception as error:
            # The traceback of the other process is text, and may quote what stands in a slide's header.
            error.__cause__ = None
            raise

    def doing(self, function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
        """Return a function that calls this one there."""

        def done(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
            return self.call(function, *arguments, **named)

        return done

    def close(self) -> None:
        """End the other process; a later call makes another one."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _started(self) -> ProcessPoolExecutor | None:
        with self._lock:
            if self._pool is None and not self._is_refused:
                self._pool = self._made()
                self._is_refused = self._pool is None
            return self._pool

    def _made(self) -> ProcessPoolExecutor | None:
        # Not forked: this process has threads, and a GPU.
        context = multiprocessing.get_context("spawn")
        try:
            return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=self._modules)
        except (OSError, NotImplementedError) as error:
            _log.warning(
                "No process beside this one (%s): its work is done in this one, which is slower.", error
            )
            return None

    def _forget(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False)


def _begin(*modules: str) -> None:
    """Say nothing, since libraries quote headers, and end with the process that calls and not before."""
    logging.disable(logging.CRITICAL)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for module in modules:
        importlib.import_module(module)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(0)
