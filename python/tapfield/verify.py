# SPDX-License-Identifier: Apache-2.0
"""tapfield verify: compares a kernel's outputs with the files that tapfield golden wrote, within derived bounds.

|error| <= 4 * eps * n * sum of |terms|, n the number of terms, plus half an ulp of a 16-bit output
(docs/operators.md, "Numerics"). Files are read image by image; nothing that they say is believed unchecked.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tapfield.golden import DTYPES, NEAR, PASSES, Geometry, plain

CHAIN = 4
LARGEST_MANIFEST = 1 << 20  # bytes


class BadFile(ValueError):
    """A file that cannot be used; the message names it and says what was expected."""


@dataclass
class Finding:
    """What was found about one tensor. Indices are in the file's order."""

    name: str
    elements: int = 0
    over: int = 0  # beyond the bound; makes the exit status 1
    apart: int = 0  # beyond the bound, but of a tap within rounding of an integer position
    worst: float = 0.0  # error / bound, of those not apart
    worst_at: tuple | None = None
    worst_error: float = 0.0
    worst_ulps: float = 0.0  # of the worst element, in ulps of the file's dtype
    near_over: int = 0  # grad_x only: of `over`, at pixels that such taps touch


def manifest_of(directory):
    """(manifest, Geometry), checked."""
    path = Path(directory) / "manifest.json"
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        raise BadFile(
            f"{path}: cannot be read ({error.strerror}); expected what tapfield golden wrote"
        ) from None

    def expect(true, what):
        if not true:
            raise BadFile(f"{path}: expected {what}")

    expect(len(text) <= LARGEST_MANIFEST, f"at most {LARGEST_MANIFEST} bytes")
    try:
        m = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path}: expected JSON, but {str(error)[:200]}") from None

    def ints(value, count, least):
        return (
            isinstance(value, list)
            and len(value) == count
            and all(type(v) is int and least <= v < 2**31 for v in value)
        )

    expect(isinstance(m, dict), "an object")
    expect(m.get("format") in ("npy", "bin"), "format npy or bin")
    expect(
        isinstance(m.get("dtype"), str) and m["dtype"] in DTYPES, f"dtype to be one of {', '.join(DTYPES)}"
    )
    passes = m.get("passes")
    expect(
        isinstance(passes, list)
        and passes
        and all(isinstance(p, str) and p in PASSES for p in passes)
        and len(set(passes)) == len(passes),
        f"passes to be a list of some of {', '.join(PASSES)}",
    )
    corners = m.get("most_corners_per_pixel")
    expect(type(corners) is int and 1 <= corners < 2**53, "most_corners_per_pixel to be a positive integer")
    expect(isinstance(m.get("files"), dict), "files to be an object")
    g = m.get("geometry")
    fields = Geometry.__dataclass_fields__
    expect(isinstance(g, dict) and set(g) == set(fields), f"geometry to have {', '.join(fields)}")
    lists = (("shape", 4, 1), ("ksize", 2, 1), ("strides", 2, 1), ("pads", 4, 0), ("dilations", 2, 1))
    for name, count, least in lists:
        expect(ints(g[name], count, least), f"geometry.{name} to be {count} integers of at least {least}")
    groups = g["deformable_groups"]
    expect(
        type(groups) is int and 1 <= groups and g["shape"][3] % groups == 0, "deformable_groups to divide C"
    )
    expect(type(g["modulated"]) is bool, "geometry.modulated to be true or false")
    expect(g["border"] in ("open", "closed"), "geometry.border to be open or closed")
    expect(g["data_format"] in ("NHWC", "NCHW"), "geometry.data_format to be NHWC or NCHW")
    geometry = Geometry(**{k: tuple(v) if isinstance(v, list) else v for k, v in g.items()})
    try:
        geometry.taps()
    except ValueError as error:
        raise BadFile(f"{path}: expected a geometry that fits, but {error}") from None
    return m, geometry


def mapped(path, shape, dtypes, sha256=None):
    """The array in a file, mapped, not read: of `shape` and the first of dtypes that fits. Raises BadFile."""
    want = f"{' or '.join(str(d) for d in dtypes)} of shape {list(shape)}"
    try:
        with open(path, "rb") as file:
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BadFile(
                    f"{path}: is not the file that tapfield golden wrote (sha256 differs); expected {want}"
                )
            file.seek(0)
            found = header(path, file, want) if path.suffix == ".npy" else None
            start, bytes_there = file.tell(), file.seek(0, 2)
    except OSError as error:
        raise BadFile(f"{path}: cannot be read ({error.strerror}); expected {want}") from None
    count = 1
    for extent in shape:
        count *= extent
    for dtype in dtypes:
        stored = plain(np.empty(0, dtype)).dtype
        if found is not None and found != (tuple(shape), False, stored):
            continue
        if bytes_there - start == count * dtype.itemsize:
            return np.memmap(path, stored, "r", start, tuple(shape)).view(dtype)
    if found is not None and any(found == (tuple(shape), False, plain(np.empty(0, d)).dtype) for d in dtypes):
        what = f"{bytes_there - start} bytes of data"
    elif found is not None:
        order = "Fortran order, " if found[1] else ""
        what = f"{order}{found[2]} of shape {list(found[0])}"
    else:
        what = f"{bytes_there} bytes"
    sizes = " or ".join(str(count * d.itemsize) for d in dtypes)
    raise BadFile(f"{path}: has {what}; expected {want} ({sizes} bytes; bfloat16 is stored as uint16)")


def header(path, file, want):
    """(shape, fortran_order, dtype) of an .npy file, read up to its data."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        return read(file)
    except OSError:
        raise
    except Exception as error:  # the header is a Python literal: its reader fails in a dozen ways
        raise BadFile(f"{path}: is not an .npy file ({type(error).__name__}); expected {want}") from None


def terms_of(which, name, geometry, corners):
    """The number of terms that an element sums, at most."""
    per_group = 4 * (geometry.shape[3] // geometry.deformable_groups)
    first = {"grad_x": corners, "grad_offsets": per_group}.get(name, 4)
    return first if which != "grad_grad" else 6 * first  # up to three products, X and D_w of four corners


def of_near_taps(name, near, pixels, geometry):
    """Which elements of one image belong to taps within rounding of an integer position; as a mask to broadcast."""
    ho, wo, g, kh, kw = geometry.taps()
    if name == "grad_x":
        mask = (pixels != 0)[..., None]
    elif name == "grad_offsets":
        mask = np.tile(near == NEAR, (1, 1, 3 if geometry.modulated else 2))
    else:
        mask = (near == NEAR).reshape(ho, wo, g, kh, kw).transpose(0, 3, 1, 4, 2).reshape(ho * kh, wo * kw, g)
        mask = np.repeat(mask, geometry.shape[3] // g, axis=-1)
    return mask if geometry.data_format == "NHWC" else np.moveaxis(mask, -1, 0)


def compare(finding, image, got, exact, magnitude, factor, near, in_grad_x):
    """Adds one image to a finding: got, exact and magnitude are of one shape."""
    with np.errstate(all="ignore"):
        ulp = abs(np.spacing(np.where(np.isfinite(got), got, np.zeros_like(got)))).astype(float)
        half = ulp / 2 if got.dtype.itemsize == 2 else 0.0
        bound = factor * magnitude + half
        # Rounding is monotone: what the ends of the interval round to is admissible too (overflow to infinity).
        low = (exact - factor * magnitude).astype(got.dtype)
        high = (exact + factor * magnitude).astype(got.dtype)
        wide = got.astype(float)
        bad = np.where(np.isfinite(exact), ~((low <= got) & (got <= high)), np.isfinite(wide))
        error = np.where(np.isfinite(exact), abs(wide - exact), np.where(bad, np.inf, 0))
        error = np.where(np.isnan(error), np.inf, np.where(bad | np.isfinite(wide), error, 0))
        ratio = np.where(bound > 0, error / bound, np.where(error > 0, np.inf, 0.0))
        near = np.broadcast_to(near, got.shape)
        counted = np.ones_like(bad) if in_grad_x else ~near
        finding.elements += got.size
        finding.over += int((bad & counted).sum())
        finding.apart += int((bad & ~counted).sum())
        finding.near_over += int((bad & near).sum()) if in_grad_x else 0
        # Those over the bound come first, so that the place named is one that failed.
        rank = np.where(counted, np.where(bad, np.maximum(ratio, 1), np.minimum(ratio, 1)), -1.0)
        at = np.unravel_index(int(rank.argmax()), rank.shape)
        if counted[at] and (finding.worst_at is None or rank[at] > finding.worst):
            finding.worst, finding.worst_at = float(rank[at]), (image, *(int(i) for i in at))
            finding.worst_error, finding.worst_ulps = float(error[at]), float(error[at] / ulp[at])


def verify(directory, against=None):
    """Findings for every output there is, in the order of the passes. against: where the outputs are (default:
    beside the expected ones, as NAME.actual.npy or .bin; there also plain NAME.npy). BadFile for unusable files."""
    m, geometry = manifest_of(directory)
    directory, outputs, suffix = Path(directory), Path(against or directory), m["format"]
    dtype = DTYPES[m["dtype"]]
    (ho, wo, g, kh, kw), n = geometry.taps(), geometry.shape[0]

    def ours(name, shape, dtype):
        entry = m["files"].get(f"{name}.{suffix}")
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise BadFile(
                f"{directory / 'manifest.json'}: expected files to have {name}.{suffix} with its sha256"
            )
        return mapped(directory / f"{name}.{suffix}", shape, (dtype,), entry["sha256"])

    findings, near, pixels = [], None, None
    eps = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    for which in m["passes"]:
        for name in PASSES[which]:
            full, shape = f"{which}.{name}", geometry.tensor(name)
            path = theirs(outputs, full, suffix, against is not None)
            if path is None:
                continue
            if near is None:
                near = ours("near_integer", (n, ho, wo, g * kh * kw), np.dtype(np.uint8))
                pixels = ours("near_pixels", geometry.shape[:3], np.dtype(np.uint8))
            wider = dtype.itemsize == 2 and name in ("grad_x", "grad_offsets")
            got = mapped(path, shape, (dtype, DTYPES["float32"]) if wider else (dtype,))
            exact, magnitude = (
                ours(f"{full}.{k}", shape, DTYPES["float64"]) for k in ("exact", "magnitudes")
            )
            finding = Finding(full)
            factor = CHAIN * eps * terms_of(which, name, geometry, m["most_corners_per_pixel"])
            for i in range(n):
                mask = of_near_taps(name, near[i], pixels[i], geometry)
                compare(
                    finding,
                    i,
                    np.asarray(got[i]),
                    np.asarray(exact[i]),
                    np.asarray(magnitude[i]),
                    factor,
                    mask,
                    name == "grad_x",
                )
            findings.append(finding)
    if not findings:
        names = ", ".join(f"{p}.{name}.actual.{suffix}" for p in m["passes"] for name in PASSES[p])
        raise BadFile(f"{outputs}: holds no output; expected one or more of {names}")
    return findings


def theirs(outputs, name, suffix, plain_names):
    """The file of an output, or None."""
    endings = [f".actual.{e}" for e in (suffix, "npy", "bin")] + (
        [f".{e}" for e in ("npy", "bin")] if plain_names else []
    )
    return next((p for e in endings if (p := outputs / (name + e)).exists()), None)


def main(directory, against=None, json_output=False):
    """What `tapfield verify` does. Returns the exit status: 0, or 1 if an element is over its bound."""
    from rich.console import Console
    from rich.table import Table

    findings = verify(directory, against)
    if json_output:
        print(
            json.dumps(
                [
                    vars(f)
                    | {
                        "worst": repr(f.worst),
                        "worst_error": repr(f.worst_error),
                        "worst_ulps": repr(f.worst_ulps),
                    }
                    for f in findings
                ],
                indent=1,
            )
        )
        return int(any(f.over for f in findings))
    # The worst element of each output: its error by the bound, as it is, in ulps, and where. Fits 80 columns.
    table = Table(
        "output", "over", "/ bound", "error", "ulps", "at", "near\nintegers", box=None, pad_edge=False
    )
    for f in findings:
        table.add_row(
            f.name,
            f"[red]{f.over}[/] of {f.elements}" if f.over else f"0 of {f.elements}",
            f"{f.worst:.3g}",
            f"{f.worst_error:.3g}",
            f"{f.worst_ulps:.3g}",
            ",".join(str(i) for i in f.worst_at or ()),
            f"{f.near_over} in over" if f.name.endswith("grad_x") else f"{f.apart} apart",
        )
    Console().print(table)
    return int(any(f.over for f in findings))
