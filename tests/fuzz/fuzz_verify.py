# SPDX-License-Identifier: Apache-2.0
"""Fuzzes tapfield verify's files: python tests/fuzz/fuzz_verify.py [SECONDS] [SEED].

Mutates the manifest, headers and data of a small directory of golden's. Whatever the files hold, verify gives 0, 1
or 2 and raises nothing, in bounded memory.
"""

import contextlib
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tapfield import cli, golden

MEMORY = 4 << 30  # bytes of address space: an allocation that a file's claims ask for fails
VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2,
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    "",
    "npy",
    "bin",
    "float64",
    [],
    {},
    [1, 1, 1, 1],
)


def mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, what = rng.randrange(len(data) + 1), rng.randrange(4)
        if what == 0:
            data[at : at + 1] = bytes((rng.randrange(256),))
        elif what == 1:
            del data[at:]
        elif what == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 8, 300)))
        else:
            del data[at : at + rng.choice((1, 8, 64))]
    return bytes(data)


def mutate_json(value, rng):
    """The value with one of its members, at any depth, replaced or removed."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = mutate_json(value[key], rng)
        return value
    return rng.choice(VALUES)


def run(directory):
    """Verify's exit status; it may not raise."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = cli.main(["verify", str(directory)])
    assert status in (0, 1, 2), f"exit status {status}"
    return status


def main(seconds=60.0, seed=0):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rng, seen, rounds = random.Random(seed), {0: 0, 1: 0, 2: 0}, 0
    with tempfile.TemporaryDirectory() as scratch:
        sources = []
        for format, dtype in (("npy", "float32"), ("bin", "bfloat16")):
            source = Path(scratch) / format
            golden.write(
                source,
                golden.Geometry((2, 4, 5, 2), (2, 2)),
                dtype,
                format=format,
                passes=tuple(golden.PASSES),
            )
            for path in list(source.glob(f"*.expected.{format}")):
                shutil.copy(path, str(path).replace(".expected.", ".actual."))
            assert run(source) == 0, "unchanged files must pass"
            sources.append({path: path.read_bytes() for path in sorted(source.iterdir())})
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            files = rng.choice(sources)
            path = rng.choice(
                [p for p in files if p.name == "manifest.json" or rng.random() < 0.2] or list(files)
            )
            if path.name == "manifest.json" and rng.random() < 0.7:
                changed = json.dumps(mutate_json(json.loads(files[path]), rng)).encode()
            else:
                changed = mutate_bytes(files[path], rng)
            path.write_bytes(changed)
            try:
                seen[run(path.parent)] += 1
            except BaseException:
                print(f"seed {seed}, round {rounds}: {path.name} holds {changed[:2000]!r}", file=sys.stderr)
                raise
            path.write_bytes(files[path])
            rounds += 1
    print(f"{rounds} rounds; exit statuses {seen}")
    assert seconds < 30 or all(seen.values()), "the fuzzer does not reach every exit status"


if __name__ == "__main__":
    main(*(float(a) for a in sys.argv[1:2]), *(int(a) for a in sys.argv[2:3]))
