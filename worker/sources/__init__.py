# SPDX-License-Identifier: Apache-2.0
"""Where a claimed request's slide comes from.

One protocol (`SlideSource`), three ways, tried in this order: byte ranges straight out of Orthanc's storage
through the plugin; download of whole instances, where the plugin has no such route; a file in
SVS_STORAGE_DIR, where the series holds no readable pyramid.
"""

from worker.sources.choice import open_request_slide, open_with
from worker.sources.orthanc_download import OrthancDownloadSource
from worker.sources.orthanc_ranges import OrthancRangesSource
from worker.sources.ranges_client import RangesClient
from worker.sources.ranges_slide import RangesSlide
from worker.sources.slide_folder import SlideFolderSource
from worker.sources.source import SlideSource

__all__ = [
    "OrthancDownloadSource",
    "OrthancRangesSource",
    "RangesClient",
    "RangesSlide",
    "SlideFolderSource",
    "SlideSource",
    "open_request_slide",
    "open_with",
]
