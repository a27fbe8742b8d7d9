# SPDX-License-Identifier: Apache-2.0
"""Decoders that several threads may use at once: one of wsidicom's may not, and then shows another tile."""

from __future__ import annotations

import threading

from wsidicom.codec.decoder import Decoder, PydicomDecoder
from wsidicom.instance import WsiDicomImageData

from clam_core.slides.slide import Pixels


class OneAtATime:
    """A decoder that is used by one thread after the other.

    Parameters
    ----------
    decoder
        A decoder that keeps the frame it is at.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._lock = threading.Lock()

    def decode(self, frame: bytes) -> Pixels:
        """Return the pixels of a frame."""
        with self._lock:
            pixels: Pixels = self._decoder.decode(frame)
            return pixels


def share_decoder(image: WsiDicomImageData) -> None:
    """Let several threads use the decoder of a level.

    wsidicom 0.36 decodes uncompressed frames with pydicom, in one dataset for all threads: one puts its frame
    there while another is about to read its own.
    """
    if isinstance(image.decoder, PydicomDecoder):
        image._decoder = OneAtATime(image.decoder)  # noqa: SLF001 - there is no other way to set it
