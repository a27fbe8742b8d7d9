# SPDX-License-Identifier: Apache-2.0
"""Slides in, predictions out: tissue, patches, features, CLAM, heatmaps. No HTTP and no Orthanc.

>>> from pathlib import Path
>>> from clam_core.package import demo_package_path, load_package
>>> from clam_core.pipeline import analyze_slide
>>> from clam_core.slides import open_slide
>>> with open_slide(Path("slide.svs")) as slide:  # doctest: +SKIP
...     analyze_slide(slide, load_package(demo_package_path())).save(Path("out"))
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("orthanc-pathology")
except PackageNotFoundError:
    # Run from a folder of sources that was never installed.
    __version__ = "unknown"
