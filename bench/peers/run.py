# SPDX-License-Identifier: Apache-2.0
"""./dev bench peers [NAME ...]: other libraries on the CPU beside ours, each in an environment of its own under
build-peers/. One table; what cannot be installed or run is named with the reason.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import rows as bench  # noqa: E402

ENVIRONMENTS = bench.ROOT / "build-peers"
COMMON = ["ml_dtypes", "numpy"]  # of tapfield and the case table
PEERS = {
    "mindspore": ["mindspore==2.10.0"],
    "torchvision": ["torch==2.14.1", "torchvision==0.29.1"],
    "onnxruntime": ["onnxruntime==1.32.0", "onnx==1.23.2"],
    "openvino": ["openvino==2026.4.1"],
}
CASES = ["a", "resnet50_c5", "c", "e", "f"]  # of tests/cases.json, bench_*
LIMIT = 600  # seconds for a peer's script


def environment(name):
    """Its Python, installed at need. Raises RuntimeError with pip's last words."""
    folder, wanted = ENVIRONMENTS / name, "\n".join(PEERS[name] + COMMON)
    python, stamp = folder / "bin" / "python", folder / "stamp"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"+ {folder.name}: pip install {' '.join(PEERS[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *PEERS[name],
            *COMMON,
        ]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {(done.stderr.strip() or '?').splitlines()[-1]}")
        stamp.write_text(wanted)
    return python


def measure(name, threads):
    """The rows that a peer's script printed, and what it died of, if it did."""
    try:
        python = environment(name)
    except RuntimeError as error:
        return [{"peer": name, "error": str(error)}]
    print(f"+ {name}, {threads} threads", file=sys.stderr)
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    command = [python, HERE / f"with_{name}.py", str(threads), *CASES]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        out, died = (
            done.stdout,
            f"exit status {done.returncode}: {done.stderr[-300:]}" if done.returncode else None,
        )
    except subprocess.TimeoutExpired as late:
        out, died = (late.stdout or b"").decode(), f"stopped after {LIMIT} s"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return rows + ([{"peer": name, "error": died}] if died else [])


def table(rows):
    t = bench.table("ratio", "best", "peer ms", "ours ms", "best ms", "pass", "case", "threads", "peer", "")
    for r in sorted(rows, key=lambda r: (r["pass"], CASES.index(r["case"]), r["threads"], r["peer"])):
        peer, ours, best = r["peer_ms"], r["ours_ms"], r["ours_nhwc_ms"]
        said = "" if r["excess"] <= 1 else f"[red]wrong: {r['excess']:.2g} times its bound"
        if r["ours_excess"] > 1:
            said += f"[red] ours wrong: {r['ours_excess']:.2g} times its bound"
        t.add_row(
            f"[bold]{peer / ours:.1f}",
            f"{peer / best:.1f}",
            f"{peer:.1f}",
            f"{ours:.1f}",
            f"{best:.1f}",
            r["pass"],
            r["case"],
            str(r["threads"]),
            r["peer"],
            said,
        )
    return t


def main(names):
    if unknown := set(names) - set(PEERS):
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    threads = sorted({1, len(os.sched_getaffinity(0))})
    rows = [row for name in names or PEERS for n in threads for row in measure(name, n)]
    console = bench.console()
    console.print(table([r for r in rows if "peer_ms" in r]))
    console.print("ratio: the peer's time over ours on the same NCHW tensors, both allocating their outputs;")
    console.print(
        "best: over ours in NHWC, into outputs that are there. Peers but MindSpore convolve, too, to G channels."
    )
    for r in rows:
        if "error" in r:
            where = " ".join(str(r[k]) for k in ("pass", "case") if k in r)
            console.print(f"[red]not measured:[/] {r['peer']} {where}: {r['error']}", markup=True)
    return 1 if any(r.get("ours_excess", 0) > 1 for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
