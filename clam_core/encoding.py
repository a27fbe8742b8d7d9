# SPDX-License-Identifier: Apache-2.0
"""Patches into features: reading ahead of the encoder, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.encoders import Encoder
from clam_core.errors import NonFiniteError, OutOfMemoryError
from clam_core.patches import Coordinates, PatchPlan, read_patch
from clam_core.slides import Pixels, Prefetching, Slide

Features = NDArray[np.float32]

BATCHES_AHEAD = 3
"""Batches that wait for the encoder, besides those being read: enough to hide a slow read."""


def encode_patches(
    slide: Slide,
    plan: PatchPlan,
    coordinates: Coordinates,
    encoder: Encoder,
    *,
    batch_size: int,
    readers: int,
) -> Generator[Features]:
    """Yield the features of patches, batch by batch, in the order of the coordinates.

    While one batch is encoded, the next are read in other threads.

    Parameters
    ----------
    slide, plan
        What to read, and how.
    coordinates
        Top-left corners, (N, 2), level-0 pixels.
    encoder
        What turns pictures into features.
    batch_size
        Patches read and encoded together; halved for the encoder where its device has too little memory.
    readers
        Threads that read.

    Yields
    ------
    numpy.ndarray
        float32, (batch, dim).

    Raises
    ------
    SlideError
        If a patch cannot be read.
    OutOfMemoryError
        If not even one patch fits.
    NonFiniteError
        If the encoder produced NaN or infinity.
    """
    batches = [coordinates[start : start + batch_size] for start in range(0, len(coordinates), batch_size)]
    encoding = FittingEncoder(encoder, batch_size)

    def read(batch: Coordinates) -> Pixels:
        corners = [(int(x), int(y)) for x, y in batch]
        if isinstance(slide, Prefetching):
            slide.prefetch(plan.level, corners, plan.read_px)
        return np.stack([read_patch(slide, plan, corner) for corner in corners])

    with read_ahead(batches, read, readers) as tiles:
        for pixels in tiles:
            features = encoding.encode(pixels)
            if not np.isfinite(features).all():
                raise NonFiniteError(
                    f"The encoder {encoder.name} produced values that are no numbers; check its weights."
                )
            yield features


@contextmanager
def read_ahead(
    batches: Sequence[Coordinates], read: Callable[[Coordinates], Pixels], readers: int
) -> Iterator[Iterator[Pixels]]:
    """Read batches in threads, in order, at most `readers` + `BATCHES_AHEAD` before their turn."""
    pool = ThreadPoolExecutor(readers, thread_name_prefix="patches")

    def results() -> Iterator[Pixels]:
        pending: deque[Future[Pixels]] = deque()
        for batch in batches:
            pending.append(pool.submit(read, batch))
            if len(pending) >= readers + BATCHES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield results()
    finally:
        # Waiting matters: nobody may read from the slide after the caller closes it.
        pool.shutdown(wait=True, cancel_futures=True)


class FittingEncoder:
    """An encoder that halves its batches until they fit into memory, and stays there.

    Parameters
    ----------
    encoder
        The encoder.
    batch_size
        Largest batch to try first.
    """

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder = encoder
        self.batch_size = batch_size

    def encode(self, tiles: Pixels) -> Features:
        """Encode tiles, (B, H, W, 3), to (B, dim).

        Raises
        ------
        OutOfMemoryError
            If not even one tile fits.
        """
        parts: list[Features] = []
        done = 0
        while done < len(tiles):
            part = self._try(tiles[done : done + self.batch_size])
            if part is None:
                self._halve()
            else:
                parts.append(part)
                done += len(part)
        return np.concatenate(parts)

    def _try(self, tiles: Pixels) -> Features | None:
        try:
            return self._encoder.encode(tiles)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise OutOfMemoryError(
                f"Not even one patch fits into memory with the encoder {self._encoder.name}: "
                "free memory on the device, or use the device cpu."
            )
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell running out of memory from other failures; on the CPU PyTorch only says it in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory"))
