# SPDX-License-Identifier: Apache-2.0
"""The worker as a process beside others: started, watched, asked to end."""
