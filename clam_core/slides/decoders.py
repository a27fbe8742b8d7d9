# SPDX-License-Identifier: Apache-2.0
"""Decoders of wsidicom 0.36, mended: one shows another tile where threads share it, one another colour."""

from __future__ import annotations

import threading

from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit
from wsidicom.codec.decoder import Decoder, PydicomDecoder
from wsidicom.instance import WsiDicomImageData

from clam_core.slides.jpeg_colours import is_ycbcr
from clam_core.slides.slide import Pixels

_LOSSY_JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})


def mend_decoder(image: WsiDicomImageData) -> None:
    """Let several threads use the decoder of a level, and let its JPEG frames say what their colours are.

    wsidicom decodes uncompressed frames with pydicom, in one dataset for all threads: one puts its frame
    there while another is about to read its own. JPEG frames under a header of RGB it takes for RGB whatever
    their own markers say; under any other header these decide.
    """
    if isinstance(image.decoder, PydicomDecoder):
        image._decoder = OneAtATime(image.decoder)  # noqa: SLF001 - there is no other way to set it
    elif image.transfer_syntax in _LOSSY_JPEG and image.photometric_interpretation == "RGB":
        by_markers = Decoder.create(
            image.transfer_syntax, image.samples_per_pixel, image.bits, image.tile_size, "YBR_FULL_422"
        )
        image._decoder = JpegDecoder(image.decoder, by_markers)  # noqa: SLF001


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


class JpegDecoder:
    """Decodes as RGB what does not say that it is YCbCr.

    Each frame is asked, not one for its level: a glass tile that a converter filled in must not decide for
    the tissue, nor the other way round. It takes 2 us of about 400 (256 px).

    Parameters
    ----------
    as_rgb
        Takes every frame for RGB.
    by_markers
        Lets the frame's markers decide.
    """

    def __init__(self, as_rgb: Decoder, by_markers: Decoder) -> None:
        self._as_rgb = as_rgb
        self._by_markers = by_markers

    def decode(self, frame: bytes) -> Pixels:
        """Return the pixels of a frame."""
        decoder = self._by_markers if is_ycbcr(frame) else self._as_rgb
        pixels: Pixels = decoder.decode(frame)
        return pixels
