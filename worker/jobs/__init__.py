# SPDX-License-Identifier: Apache-2.0
"""The work on one request, from its slide to the result that is sent."""
