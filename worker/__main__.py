# SPDX-License-Identifier: Apache-2.0
from worker.cli import main

raise SystemExit(main())
