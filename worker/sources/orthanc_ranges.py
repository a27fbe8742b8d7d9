# SPDX-License-Identifier: Apache-2.0
"""The first choice: byte ranges out of Orthanc's storage, through the plugin."""

from __future__ import annotations

from clam_core.slides import Slide
from worker.api.contract import Claim

from .ranges_client import RangesClient
from .ranges_slide import open_ranges_slide
from .source import SourceReport


class OrthancRangesSource:
    """Slides by byte ranges.

    Parameters
    ----------
    client
        The ranges route.
    """

    name = "byte ranges through the plugin"
    cost = "nothing: only headers and the tiles under tissue cross the network, in batches"

    def __init__(self, client: RangesClient) -> None:
        self._client = client

    def open(self, claim: Claim) -> Slide:
        """Open the slide; only headers are read now."""
        return open_ranges_slide(claim, self._client.read, self._report, self._client.frames)

    def _report(self, notes: tuple[str, ...]) -> SourceReport:
        traffic = self._client.traffic
        return SourceReport("plugin_ranges", traffic.requests, traffic.bytes, notes)
