# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes: from an HTTP request to the use of the queue, and back."""
