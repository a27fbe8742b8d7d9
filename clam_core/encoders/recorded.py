# SPDX-License-Identifier: Apache-2.0
"""A network's forward pass on a GPU, recorded once (as a CUDA graph) and played back.

Called one by one, each of the hundreds of operations of a pass gives Python's lock away and takes it again.
Beside threads that decode tiles or write reports each may wait 5 ms for it, and the GPU waits as long: in a
queue of slides ViT-L/16 did 0.44 of what it does alone on an H100, and ResNet-50 0.14 (docs/performance.md).
Played back, a pass is one call.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_WARM_UPS = 3
"""Passes before the recording, in which libraries choose kernels and take workspaces (PyTorch's notes on CUDA
graphs)."""

Forward = Callable[[torch.Tensor], torch.Tensor]
"""From tiles (B, H, W, 3), uint8, to vectors (B, dim), float32; both on the GPU."""


class RecordedForward:
    """A forward pass by tiles of host memory, recorded for the largest batch that has come.

    Smaller ones are filled up to it with what was there before, and so take as long: there is one recording,
    whose memory is kept.

    Parameters
    ----------
    forward
        The pass. It must not wait for the GPU or depend on the values of its input in what it launches; what
        cannot be recorded is called anew for each batch.
    device
        The GPU.
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward = forward
        self._device = device
        self._batch: _Batch | None = None
        self._one_caller = threading.Lock()

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the vectors (B, dim) of tiles (B, H, W, 3), of the same size in every call.

        Raises
        ------
        torch.OutOfMemoryError
            If the batch does not fit; the recording is forgotten then, so that a smaller one has room.
        """
        with self._one_caller, torch.inference_mode(), torch.cuda.device(self._device):
            try:
                if self._batch is None or len(self._batch.tiles) < len(tiles):
                    self._batch = None  # its memory is free for the larger one
                    self._batch = self._begin(tiles.shape)
                return self._batch.vectors(tiles)
            except torch.OutOfMemoryError:
                self._batch = None
                raise

    def _begin(self, shape: tuple[int, ...]) -> _Batch:
        staged = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        tiles = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        self._make_room(self._warm_up(tiles))
        recording = self._record(tiles)
        if recording is None:
            return _Batch(staged, tiles, lambda: self._forward(tiles))
        graph, vectors = recording

        def play() -> torch.Tensor:
            graph.replay()
            return vectors

        return _Batch(staged, tiles, play)

    def _warm_up(self, tiles: torch.Tensor) -> int:
        """Return the bytes that a pass takes."""
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        apart = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call] # torch's own lack
        apart.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(apart):
            for _ in range(_WARM_UPS):
                self._forward(tiles)
        torch.cuda.current_stream(self._device).wait_stream(apart)
        return torch.cuda.memory_reserved(self._device) - before

    def _make_room(self, size: int) -> None:
        """See that there are so many bytes: after a recording that ran out of them PyTorch frees none."""
        torch.cuda.empty_cache()
        torch.empty(size + size // 8, dtype=torch.uint8, device=self._device)
        torch.cuda.empty_cache()

    def _record(self, tiles: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor] | None:
        """Return a recording and where it leaves the vectors, or None where there can be none."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                vectors = self._forward(tiles)
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            _log.warning("The encoder's pass cannot be recorded, and will be slower: %s", error)
            return None
        return graph, vectors


@dataclass(frozen=True)
class _Batch:
    """Where batches of one size go in and come out.

    Attributes
    ----------
    staged
        In the host's memory, from which the GPU copies by itself.
    tiles
        On the GPU.
    compute
        From `tiles` to vectors on the GPU.
    """

    staged: torch.Tensor
    tiles: torch.Tensor
    compute: Callable[[], torch.Tensor]

    def vectors(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.staged[: len(tiles)].copy_(torch.from_numpy(np.ascontiguousarray(tiles)))
        self.tiles.copy_(self.staged, non_blocking=True)
        vectors: NDArray[np.float32] = self.compute()[: len(tiles)].cpu().numpy()
        return vectors
