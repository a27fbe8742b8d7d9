# SPDX-License-Identifier: Apache-2.0
"""Where a claimed request's slide comes from.

One protocol (`SlideSource`), five ways, tried in this order: byte ranges straight out of Orthanc's storage
through the plugin; Orthanc's own HTTP Range; DICOMweb; download of whole images; and a file in
SVS_STORAGE_DIR, where the series holds no readable pyramid. All but the first cost something, which log and
result say.
"""

from worker.sources.choice import open_request_slide, open_with
from worker.sources.dicomweb import DicomwebSlide, DicomwebSource
from worker.sources.http_range import HttpRangeClient, HttpRangeSource
from worker.sources.orthanc_download import OrthancDownloadSource
from worker.sources.orthanc_ranges import OrthancRangesSource
from worker.sources.ranges_client import RangesClient
from worker.sources.ranges_slide import RangesSlide
from worker.sources.slide_folder import SlideFolderSource
from worker.sources.source import Reporting, SlideSource, SourceReport, Verified

__all__ = [
    "DicomwebSlide",
    "DicomwebSource",
    "HttpRangeClient",
    "HttpRangeSource",
    "OrthancDownloadSource",
    "OrthancRangesSource",
    "RangesClient",
    "RangesSlide",
    "Reporting",
    "SlideFolderSource",
    "SlideSource",
    "SourceReport",
    "Verified",
    "open_request_slide",
    "open_with",
]
