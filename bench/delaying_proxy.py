# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback with the delay and the rate of a line between hospital and lab."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

_BLOCK = 16 * 1024


class DelayingProxy:
    """Forwards connections to a port, late and slowly.

    Parameters
    ----------
    target_port
        Port on loopback that is reached through the proxy.
    round_trip_s
        Delay there and back together.
    bytes_per_s
        Rate of the line towards the client, shared by all connections.
    """

    def __init__(self, target_port: int, *, round_trip_s: float, bytes_per_s: float) -> None:
        self._target_port = target_port
        self._delay = round_trip_s / 2
        self._rate = bytes_per_s
        self._line_free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        )
        self.port = started.result().sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        # The end of the proxy cancels open connections, and clients drop theirs: that is no error.
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await asyncio.gather(
                self._forward(reader, back, limited=False), self._forward(there, writer, limited=True)
            )

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(_send(queue, writer))
        while data := await reader.read(_BLOCK):
            due = time.monotonic()
            if limited:
                self._line_free_at = due = max(due, self._line_free_at) + len(data) / self._rate
                self.bytes += len(data)
            await queue.put((due + self._delay, data))
        await queue.put((time.monotonic() + self._delay, b""))
        await sending


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _send(queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    while True:
        due, data = await queue.get()
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if not data:
            writer.close()
            return
        writer.write(data)
        await writer.drain()
