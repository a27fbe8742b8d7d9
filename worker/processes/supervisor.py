# SPDX-License-Identifier: Apache-2.0
"""A worker process for each device, started, watched and started again (``pathology-worker run --devices``).

A GPU that fails, or a process that a driver holds, costs one process and its lease, not the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from worker.backoff import Backoff

from .mailbox import Mailbox, open_mailbox
from .notify import ALIVE, READY, Supervision
from .posts import Post
from .shutdown import ShutdownRequest

_log = logging.getLogger(__name__)

_TICK_S = 0.2
SILENT_S = 900.0
"""A process that has shown its sign of life before and is silent for longer is ended and started again."""
_STEADY_S = 600.0
"""A process that has run for so long has got over its earlier failures."""
_SET_RIGHT_FIRST = 2
"""Exit code of a worker whose settings, models or rights must be set right first."""

if sys.platform == "win32":
    _FLAGS, _GROUP = subprocess.CREATE_NEW_PROCESS_GROUP, None
    _ASK = signal.CTRL_BREAK_EVENT
else:
    # A Ctrl-C in the terminal is the supervisor's to pass on: twice would mean "at once".
    _FLAGS, _GROUP = 0, 0
    _ASK = signal.SIGTERM


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, or None."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


Start = Callable[[Post, Mapping[str, str]], Process]
"""Starts the worker of a post with further environment variables."""


class _Child:
    """The process of a post, and what is known of it."""

    def __init__(self, post: Post, mailbox: Mailbox) -> None:
        self.post = post
        self.mailbox = mailbox
        self.process: Process | None = None
        self.started_at = 0.0
        self.heard_at: float | None = None
        self.failures = 0
        self.start_at: float | None = 0.0
        """When it is to be started, or None while it runs and after its orderly end."""
        self.code: int | None = None


class Supervisor:
    """Runs the workers of several posts until all have ended in good order.

    Parameters
    ----------
    posts
        What to run.
    start
        Starts one.
    shutdown
        How the end is asked for; each asking is passed on.
    supervision
        Whom to tell that all is well.
    backoff
        Waits before a process that failed is started again.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self,
        posts: Sequence[Post],
        start: Start,
        shutdown: ShutdownRequest,
        supervision: Supervision,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._posts = posts
        self._start = start
        self._shutdown = shutdown
        self._supervision = supervision
        self._backoff = backoff if backoff is not None else Backoff(base_s=5.0, cap_s=300.0)
        self._clock = clock
        self._asked = 0
        self._is_ready = False
        self._given_up = False

    def run(self) -> int:
        """Return 0 after the orderly end of all, 2 where none of them can begin."""
        with _children(self._posts) as children:
            while any(child.process is not None or child.start_at is not None for child in children):
                self._step(children)
                self._pause()
            self._supervision.stopping()
            return _SET_RIGHT_FIRST if self._given_up else 0

    def _pause(self) -> None:
        # The first asking is to be passed on at once, and an event that is set waits for nothing.
        news = self._shutdown.at_once if self._asked else self._shutdown.requested
        if news.wait(_TICK_S):
            time.sleep(_TICK_S if self._asked else 0.0)

    def _step(self, children: Sequence[_Child]) -> None:
        self._pass_on(children)
        for child in children:
            self._look_at(child, children)
        running = sum(child.process is not None for child in children)
        self._supervision.alive(f"{running} of {len(children)} workers run.")

    def _pass_on(self, children: Sequence[_Child]) -> None:
        """Ask the processes to end as often as this one was asked."""
        wanted = self._shutdown.requested.is_set() + self._shutdown.at_once.is_set()
        while self._asked < wanted:
            self._asked += 1
            for child in children:
                child.start_at = None
                if child.process is not None:
                    child.process.send_signal(_ASK)

    def _look_at(self, child: _Child, children: Sequence[_Child]) -> None:
        now = self._clock()
        if child.process is None:
            if child.start_at is not None and now >= child.start_at:
                self._begin(child, now)
            return
        self._listen(child, now)
        code = child.process.poll()
        if code is not None:
            self._ended(child, code, now, children)
        elif child.heard_at is not None and now - child.heard_at > SILENT_S:
            _log.error("Worker %s shows no sign of life and is ended.", child.post.worker_id)
            child.process.kill()
            child.heard_at = now

    def _listen(self, child: _Child, now: float) -> None:
        said = child.mailbox.read()
        if ALIVE in said:
            child.heard_at = now
        if READY in said and not self._is_ready:
            self._is_ready = True
            self._supervision.ready()

    def _begin(self, child: _Child, now: float) -> None:
        try:
            child.process = self._start(child.post, child.mailbox.environment)
        except OSError as error:  # too many processes, too little memory: the others go on
            _log.error("Worker %s cannot be started: %s", child.post.worker_id, error)
            self._start_again(child, now)
            return
        child.started_at, child.start_at = now, None
        _log.info("Worker %s on %s: process %d.", child.post.worker_id, child.post.device, child.process.pid)

    def _ended(self, child: _Child, code: int, now: float, children: Sequence[_Child]) -> None:
        child.process, child.code, child.heard_at = None, code, None
        is_over = code == 0 or self._asked or self._given_up
        if is_over:
            _log.info("Worker %s has ended (%d).", child.post.worker_id, code)
        else:
            _log.error("Worker %s ended with code %d.", child.post.worker_id, code)
        if not self._given_up and _none_can_begin(children):
            self._give_up(children)
        elif not is_over:
            self._plan_again(child, now)

    def _plan_again(self, child: _Child, now: float) -> None:
        if now - child.started_at > _STEADY_S:
            child.failures = 0
        self._start_again(child, now)

    def _start_again(self, child: _Child, now: float) -> None:
        delay_s = self._backoff.delay(child.failures)
        child.failures += 1
        child.start_at = now + delay_s
        _log.warning("Worker %s is started again in %.0f s.", child.post.worker_id, delay_s)

    def _give_up(self, children: Sequence[_Child]) -> None:
        """Start nothing more, and end what is trying once more already."""
        self._given_up = True
        _log.error("No worker can begin before what is said above is set right: none is started again.")
        for child in children:
            child.start_at = None
            if child.process is not None:
                child.process.send_signal(_ASK)


def _none_can_begin(children: Sequence[_Child]) -> bool:
    """Whether every worker last ended saying that something must be set right, and none has begun since."""
    return all(child.code == _SET_RIGHT_FIRST and child.heard_at is None for child in children)


@contextlib.contextmanager
def _children(posts: Sequence[Post]) -> Iterator[list[_Child]]:
    with tempfile.TemporaryDirectory(prefix="pathology-") as folder, contextlib.ExitStack() as stack:
        yield [
            _Child(post, stack.enter_context(open_mailbox(Path(folder) / f"{number}.socket")))
            for number, post in enumerate(posts)
        ]


def start_worker(arguments: Sequence[str]) -> Start:
    """Return what starts ``pathology-worker run`` with its own device and name.

    Its standard input is a pipe that nobody writes to: it ends with this process, however that ends, and
    the worker with it (``--until-input-ends``).
    """

    def start(post: Post, environment: Mapping[str, str]) -> Process:
        own = {"DEVICE": post.device, "WORKER_ID": post.worker_id, **environment}
        if post.threads is not None:
            own.setdefault("OMP_NUM_THREADS", str(post.threads))
        command = [sys.executable, "-m", "worker", *arguments, "--until-input-ends"]
        return subprocess.Popen(  # noqa: S603 - our own program
            command,
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            creationflags=_FLAGS,
            process_group=_GROUP,
        )

    return start
