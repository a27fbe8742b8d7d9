# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a slide, a real Orthanc, a real worker and a real result, on one machine."""
