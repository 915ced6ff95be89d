# SPDX-License-Identifier: Apache-2.0
"""python -m tapfield: the command line."""

import sys

from tapfield.cli import main

sys.exit(main())
