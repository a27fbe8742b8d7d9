# SPDX-License-Identifier: Apache-2.0
"""Serving the queue: claim, work, keep the lease, deliver."""
