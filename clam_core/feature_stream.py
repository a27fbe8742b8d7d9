# SPDX-License-Identifier: Apache-2.0
"""Features of a slide's patches as they come, with progress among all there are to encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from clam_core.encoders import Encoder
from clam_core.encoding import EncodedPart, encode_slide
from clam_core.features import FeatureEntry, Features
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates, PatchPlan
from clam_core.run import Run
from clam_core.slides import Slide


class FeatureStream:
    """Encodes the patches of one slide, in one or several lists.

    Parameters
    ----------
    slide, plan, encoder, options
        What to read, how, and what encodes it.
    run
        Where progress and time are counted.
    entry
        Features of earlier runs.
    begin
        Called before a batch is encoded; it may wait.
    total
        Patches of all lists.
    """

    def __init__(
        self,
        slide: Slide,
        plan: PatchPlan,
        encoder: Encoder,
        options: AnalysisOptions,
        run: Run,
        entry: FeatureEntry,
        begin: Callable[[], object],
        total: int,
    ) -> None:
        self._slide = slide
        self._plan = plan
        self._encoder = encoder
        self._options = options
        self._run = run
        self._entry = entry
        self._begin = begin
        self._total = total
        self._done = 0

    def all_of(self, coordinates: Coordinates) -> Features:
        """Return the features of patches, (N, dim), in their order."""
        features = np.empty((len(coordinates), self._encoder.dim), np.float32)
        for part in self.parts_of(coordinates):
            features[part.indices] = part.features
        return features

    def parts_of(self, coordinates: Coordinates) -> Iterator[EncodedPart]:
        """Yield the features of patches in parts, each patch once."""
        encoding = encode_slide(
            self._slide,
            self._plan,
            coordinates,
            self._encoder,
            self._entry,
            batch_size=self._options.batch_size,
            readers=self._options.readers,
            begin=self._take_turn,
        )
        with closing(encoding) as parts:
            while (part := self._next(parts)) is not None:
                self._done += len(part.indices)
                self._run.report("known" if part.known else "encode", self._done, self._total)
                yield part

    def _take_turn(self) -> None:
        """Wait for the encoder; from then on it is at work, though its first batch may take a while."""
        self._begin()
        self._run.report("encode", self._done, self._total)

    def _next(self, parts: Iterator[EncodedPart]) -> EncodedPart | None:
        with self._run.timed("encode"):
            return next(parts, None)
