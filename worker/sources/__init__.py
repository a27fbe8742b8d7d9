# SPDX-License-Identifier: Apache-2.0
"""Where a claimed request's slide comes from.

One protocol (`SlideSource`), five ways, tried in this order: byte ranges straight out of Orthanc's storage
through the plugin; Orthanc's own HTTP Range; DICOMweb; download of whole images; and a file in
SVS_STORAGE_DIR, where the series holds no readable pyramid. All but the first cost something, which log and
result say.
"""

from .choice import open_request_slide, open_with
from .dicomweb import DicomwebSlide, DicomwebSource
from .http_range import HttpRangeClient, HttpRangeSource
from .orthanc_download import OrthancDownloadSource
from .orthanc_ranges import OrthancRangesSource
from .ranges_client import RangesClient
from .ranges_slide import RangesSlide
from .slide_folder import SlideFolderSource
from .source import Reporting, SlideSource, SourceReport, Verified

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
