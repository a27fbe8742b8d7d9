# SPDX-License-Identifier: Apache-2.0
"""Patches into features: known ones first, the rest encoded while others are read, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.encoders import Encoder, Precision
from clam_core.errors import NonFiniteError, OutOfMemoryError
from clam_core.features import FeatureEntry, Features
from clam_core.features.store import Chunk
from clam_core.patches import Coordinates, PatchPlan, read_patch
from clam_core.slides import FetchAhead, Pixels, Slide

BATCHES_AHEAD = 3
"""Batches that wait for the encoder, besides those being read: enough to hide a slow read."""

_Batch = TypeVar("_Batch")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class EncodedPart:
    """Features of some of the patches that were asked for.

    Attributes
    ----------
    indices
        Their places among the coordinates.
    features
        (n, dim) float32.
    known
        Whether they are those of an earlier run.
    """

    indices: NDArray[np.intp]
    features: Features
    known: bool = False


def encode_slide(
    slide: Slide,
    plan: PatchPlan,
    coordinates: Coordinates,
    encoder: Encoder,
    entry: FeatureEntry,
    *,
    batch_size: int,
    readers: int,
    begin: Callable[[], object] = lambda: None,
) -> Generator[EncodedPart]:
    """Yield the features of patches: what the entry knows, then what is encoded and added to it.

    Parameters
    ----------
    slide, plan, coordinates, encoder, batch_size, readers
        As for `encode_patches`.
    entry
        Features of earlier runs.
    begin
        Called before the first batch is encoded, and not at all where every patch is known. It may wait for
        the encoder to be free, while the first batches are read; then what is known is looked at once more.

    Yields
    ------
    EncodedPart
        Each patch once; no part is empty.
    """
    places = {(int(x), int(y)): index for index, (x, y) in enumerate(coordinates)}
    known = np.zeros(len(coordinates), dtype=bool)
    found: Iterable[EncodedPart] = _known_parts(entry, places)
    while True:
        for part in found:
            known[part.indices] = True
            yield part
        left, late = np.flatnonzero(~known), list[EncodedPart]()
        if len(left) == 0:
            return

        def look_again() -> bool:
            """Wait for the encoder; it may have been at this very slide, for another model."""
            begin()
            late.extend(_known_parts(entry, places))  # noqa: B023 - called in this turn of the loop
            return not late  # noqa: B023 - as above

        encoding = encode_patches(
            slide, plan, coordinates[left], encoder, batch_size=batch_size, readers=readers, begin=look_again
        )
        with closing(encoding) as batches:
            for features in batches:
                indices, left = left[: len(features)], left[len(features) :]
                known[indices] = True
                entry.add(Chunk(coordinates[indices], features))
                yield EncodedPart(indices, features)
        found = late


def _known_parts(entry: FeatureEntry, places: dict[tuple[int, int], int]) -> Iterator[EncodedPart]:
    for chunk in entry.chunks():
        part = _wanted(chunk, places)
        if len(part.indices):
            yield part


def _wanted(chunk: Chunk, places: dict[tuple[int, int], int]) -> EncodedPart:
    """Take from a chunk what is still wanted, and its places out of `places`."""
    found = [places.pop((int(x), int(y)), -1) for x, y in chunk.coordinates]
    indices = np.asarray(found, dtype=np.intp)
    return EncodedPart(indices[indices >= 0], chunk.features[indices >= 0], known=True)


def encode_patches(
    slide: Slide,
    plan: PatchPlan,
    coordinates: Coordinates,
    encoder: Encoder,
    *,
    batch_size: int,
    readers: int,
    begin: Callable[[], bool] = lambda: True,
) -> Generator[Features]:
    """Yield the features of patches, batch by batch, in the order of the coordinates.

    While one batch is encoded, the next are read and resized in other threads. At most
    ``readers + BATCHES_AHEAD`` batches of input are in memory, whatever the size of the slide.

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
    begin
        Called before the first batch is encoded, while the first ones are read; returns whether to encode.

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

    def start(batch: Coordinates) -> Future[None]:
        return fetching.start(plan.level, _corners(batch), plan.read_px)

    def read(batch: Coordinates, here: Future[None]) -> Pixels:
        here.result()
        return np.stack([encoder.frame(read_patch(slide, plan, corner)) for corner in _corners(batch)])

    with FetchAhead(slide) as fetching, read_ahead(batches, start, read, readers) as tiles:
        if not begin():
            return
        for pixels in tiles:
            features = encoding.encode(pixels)
            if not np.isfinite(features).all():
                raise NonFiniteError(
                    f"The encoder {encoder.name} produced values that are no numbers; {_why(encoder)}."
                )
            yield features


def _why(encoder: Encoder) -> str:
    if encoder.precision is Precision.FLOAT16:
        return "float16 holds none above 65,504: use bfloat16 or float32"
    return "check its weights"


def _corners(batch: Coordinates) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in batch]


@contextmanager
def read_ahead(
    batches: Sequence[_Batch],
    start: Callable[[_Batch], Future[None]],
    read: Callable[[_Batch, Future[None]], _Read],
    readers: int,
) -> Iterator[Iterator[_Read]]:
    """Read batches in threads, in order, at once, at most `readers` + `BATCHES_AHEAD` before their turn.

    Each is begun to be fetched as soon as it may be read, in other threads: the line is not idle while the
    readers decode.
    """
    pool = ThreadPoolExecutor(readers, thread_name_prefix="patches")
    ahead = readers + BATCHES_AHEAD

    def submit(batch: _Batch) -> Future[_Read]:
        return pool.submit(read, batch, start(batch))

    pending = deque(submit(batch) for batch in batches[:ahead])

    def results() -> Iterator[_Read]:
        for batch in batches[ahead:]:
            yield pending.popleft().result()
            pending.append(submit(batch))
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
        """Encode framed tiles, (B, H, W, 3), to (B, dim).

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
            return self._encoder.encode_framed(tiles)
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
