# SPDX-License-Identifier: Apache-2.0
"""./dev bench [--json OUT] [--compare OLD.json] [arguments of tapfield_bench]"""

import argparse
import sys

import compare
import rows

parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, allow_abbrev=False)
parser.add_argument("--json", metavar="OUT", help="keep the figures")
parser.add_argument("--compare", metavar="OLD.json", help="say what moved since; exit status 1 if slower")
arguments, rest = parser.parse_known_args()

out = arguments.json or rows.PROGRAM.parent / "last.json"
status = rows.run(rest, out)
if arguments.compare and status in (0, 1):
    status = max(status, compare.report(arguments.compare, out, rows.console()))
sys.exit(status)
