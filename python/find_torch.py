# SPDX-License-Identifier: Apache-2.0
"""Prints "yes;VERSION;FOLDER" of the installed PyTorch, or "no;why not", for CMake; imports nothing of it."""

import importlib.util
import re
from pathlib import Path

OLDEST = (2, 11)

spec = importlib.util.find_spec("torch")
if spec is None or not spec.submodule_search_locations:
    print("no;PyTorch is not installed")
else:
    root = Path(spec.submodule_search_locations[0])
    version = re.search(r"__version__ = ['\"]([^'\"]+)", (root / "version.py").read_text()).group(1)
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        print(f"no;PyTorch {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    else:
        print(f"yes;{version};{root}")
