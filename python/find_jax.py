# SPDX-License-Identifier: Apache-2.0
"""Prints "yes;VERSION;FOLDER of its headers" of the installed jaxlib, or "no;why not", for CMake; imports nothing of
it."""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

OLDEST = (0, 10)

spec = importlib.util.find_spec("jaxlib")
if spec is None or not spec.submodule_search_locations:
    print("no;JAX is not installed")
else:
    headers = Path(spec.submodule_search_locations[0]) / "include"
    found = version("jaxlib")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST:
        print(f"no;jaxlib {found} is older than {OLDEST[0]}.{OLDEST[1]}")
    else:
        print(f"yes;{found};{headers}")
