# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests, and what becomes of them: values, pure decisions on them, and what is kept of them in memory."""
