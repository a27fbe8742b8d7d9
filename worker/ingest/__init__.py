# SPDX-License-Identifier: Apache-2.0
"""Turn slide files into DICOM series and store them in Orthanc.

The way of a slide::

    file -> convert (environment of its own) -> add missing levels -> write headers -> check -> upload

``pipeline.ingest`` walks it; every step is a module of its own.
"""
