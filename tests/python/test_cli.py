# SPDX-License-Identifier: Apache-2.0
"""The command line: demo, golden, verify, info."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tapfield
from tapfield import cli, demo, golden, verify

GEOMETRY = golden.Geometry((2, 6, 7, 4), (2, 3), (1, 2), (1, 0, 1, 2), (2, 1), 2)


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def made(directory, dtype="float32", format="npy", geometry=GEOMETRY, **more):
    """golden's files with outputs beside them: the fastest kernels', as a kernel engineer would put them."""
    golden.write(directory, geometry, dtype, format=format, passes=tuple(golden.PASSES), **more)
    kind = golden.DTYPES[dtype]
    names = ("x", "offsets", "grad", "gg_x", "gg_offsets")
    given = {name: read(directory / f"{name}.{format}", kind, geometry.tensor(name)) for name in names}
    for which in golden.PASSES:
        for name, array in golden.run(which, given, geometry.attributes(), None).items():
            store(directory / f"{which}.{name}.actual.{format}", array)


def read(path, dtype, shape):
    raw = (
        np.load(path) if path.suffix == ".npy" else np.fromfile(path, golden.plain(np.empty(0, dtype)).dtype)
    )
    return raw.view(dtype).reshape(shape)


def store(path, array):
    array = golden.plain(array)
    np.save(path, array) if path.suffix == ".npy" else array.tofile(path)


@pytest.mark.parametrize("layout", ("NHWC", "NCHW"))
@pytest.mark.parametrize("format", ("npy", "bin"))
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_own_kernels_pass_and_a_wrong_element_is_found(tmp_path, dtype, format, layout, capsys):
    geometry = golden.Geometry(**{**vars(GEOMETRY), "data_format": layout})
    made(tmp_path, dtype, format, geometry)
    assert run("verify", tmp_path) == 0
    kind = golden.DTYPES[dtype]
    for which, names in golden.PASSES.items():
        for name in names:
            path, shape = tmp_path / f"{which}.{name}.actual.{format}", geometry.tensor(name)
            right = path.read_bytes()
            got = read(path, kind, shape).copy()
            at = (1, *(extent // 2 for extent in shape[1:]))
            got[at] += kind.type(0.5)
            store(path, got)
            capsys.readouterr()
            assert run("verify", tmp_path, "--json") == 1
            found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
            assert found.pop(f"{which}.{name}")["worst_at"] == list(at)
            assert not any(f["over"] for f in found.values())
            path.write_bytes(right)


def test_the_bound_is_tight(tmp_path):
    """Twice the bound is too much, half of it is not, with the bound made here from docs/cli.md."""
    made(tmp_path)
    path = tmp_path / "forward.y.actual.npy"
    exact, magnitudes = (np.load(tmp_path / f"forward.y.{k}.npy") for k in ("exact", "magnitudes"))
    bound = 4 * 2.0**-23 * 4 * magnitudes
    for times, status in ((0.5, 0), (2, 1)):
        np.save(path, (exact + times * bound).astype(np.float32))
        assert run("verify", tmp_path) == status


def test_16_bit_outputs_are_rounded_once(tmp_path):
    made(tmp_path, "float16")
    path = tmp_path / "forward.y.actual.npy"
    right = np.load(tmp_path / "forward.y.expected.npy")
    np.save(path, np.nextafter(right, np.float16(np.inf)))  # one ulp off
    assert run("verify", tmp_path) == 1
    exact = np.load(tmp_path / "grad.grad_x.exact.npy")
    np.save(tmp_path / "grad.grad_x.actual.npy", exact.astype(np.float32))  # float32 gradients are allowed
    np.save(path, right)
    assert run("verify", tmp_path) == 0
    np.save(tmp_path / "grad.grad_x.actual.npy", exact.astype(np.float16).astype(np.float32))
    assert run("verify", tmp_path) == 1  # and held to float32's bound


def test_taps_near_integers_are_reported_apart(tmp_path, monkeypatch):
    geometry = golden.Geometry((1, 40, 5, 2), (1, 1), pads=(0, 0, 0, 0))
    make = golden.inputs

    def with_near_tap(*arguments):
        given = make(*arguments)
        given["offsets"][0, :, :, :2] = 0.5
        given["offsets"][0, 30, 2, 1] = -1e-7  # in float32 30 - 1e-7 is 30: another cell along H
        given["offsets"][0, 31, 2, 1] = -1.0  # exact, the same for all
        return given

    monkeypatch.setattr(golden, "inputs", with_near_tap)
    made(tmp_path, geometry=geometry)
    near = np.load(tmp_path / "near_integer.npy")
    assert np.argwhere(near == golden.NEAR).tolist() == [[0, 30, 2, 0]]
    pixels = np.argwhere(np.load(tmp_path / "near_pixels.npy")).tolist()
    assert [0, 29, 2] in pixels and [0, 30, 3] in pixels and [0, 31, 2] in pixels and [0, 20, 2] not in pixels
    path = tmp_path / "grad.grad_offsets.actual.npy"
    got = np.load(path)
    got[0, 30, 2, 1] += 1
    np.save(path, got)
    assert run("verify", tmp_path) == 0
    finding = next(f for f in verify.verify(tmp_path) if f.name == "grad.grad_offsets")
    assert (finding.apart, finding.over) == (1, 0)
    got[0, 31, 2, 1] += 1
    np.save(path, got)
    assert run("verify", tmp_path) == 1


def test_a_nan_is_over_the_bound(tmp_path):
    made(tmp_path)
    path = tmp_path / "grad.grad_x.actual.npy"
    got = np.load(path)
    got[1, 2, 3, 1] = np.nan
    np.save(path, got)
    finding = next(f for f in verify.verify(tmp_path) if f.name == "grad.grad_x")
    assert (finding.over, finding.worst_at) == (1, (1, 2, 3, 1))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-4])


def manifest_with(**changes):
    def change(path):
        manifest = json.loads(path.read_text())
        manifest.update(changes)
        path.write_text(json.dumps(manifest))

    return change


BAD = (
    ("manifest.json", lambda p: p.unlink(), "cannot be read"),
    ("manifest.json", lambda p: p.write_text("{"), "expected JSON"),
    ("manifest.json", lambda p: p.write_text("[" * 100_000), "expected JSON"),
    ("manifest.json", lambda p: p.write_text(" " * (2 << 20)), "expected at most"),
    ("manifest.json", manifest_with(dtype="int8"), "expected dtype"),
    ("manifest.json", manifest_with(passes=["backward"]), "expected passes"),
    ("manifest.json", manifest_with(files={}), "expected files to have near_integer.npy"),
    ("manifest.json", manifest_with(geometry=[]), "expected geometry"),
    ("forward.y.exact.npy", lambda p: p.unlink(), "cannot be read"),
    ("forward.y.exact.npy", truncated, "sha256 differs"),
    ("forward.y.actual.npy", truncated, "bytes of data; expected float32 of shape [2, 10, 12, 4]"),
    ("forward.y.actual.npy", lambda p: p.write_bytes(b"no"), "is not an .npy file"),
    ("forward.y.actual.npy", lambda p: np.save(p, np.zeros(3, np.float32)), "float32 of shape [3]; expected"),
    (
        "forward.y.actual.npy",
        lambda p: np.save(p, np.load(p).astype(float)),
        "float64 of shape [2, 10, 12, 4]; expected",
    ),
    ("forward.y.actual.npy", lambda p: np.save(p, np.asfortranarray(np.load(p))), "Fortran order"),
)


@pytest.mark.parametrize("name, change, message", BAD)
def test_unusable_files_are_named(tmp_path, name, change, message, capsys):
    made(tmp_path)
    assert GEOMETRY.tensor("y") == (2, 10, 12, 4)
    change(tmp_path / name)
    capsys.readouterr()
    assert run("verify", tmp_path) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and message in error and error.count("\n") == 1


def test_golden_on_the_command_line(tmp_path, capsys):
    assert run("golden", tmp_path / "a", "--case", "worked-example", "--pass", "grad", "--format", "bin") == 0
    assert np.fromfile(tmp_path / "a/grad.grad_x.expected.bin", np.float32).tolist() == [
        0.75,
        0.25,
        0.75,
        0.25,
    ]
    assert run("verify", tmp_path / "a") == 2
    assert "holds no output" in capsys.readouterr().err
    size = ("--shape", "1,5,6,4", "--ksize", "2,2", "--deformable-groups", "2", "--v1", "--dtype", "float64")
    assert run("golden", tmp_path / "b", *size) == 0
    assert np.load(tmp_path / "b/offsets.npy").shape == (1, 6, 7, 2 * 2 * 4)
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["files"]["offsets.npy"]["shape"] == [1, 6, 7, 2 * 2 * 4]
    assert manifest["files"]["grad.grad_x.expected.npy"]["dtype"] == "float64"
    assert manifest["attributes"]["strides"] == [1, 1, 1, 1] and manifest["seed"] == 0
    assert tuple(golden.CASES) == cli.CASES


SIZE = ("--shape", "1,5,6,4")
REFUSED = (
    ((), "give either --case or --shape"),
    (("--case", "dcn-c3", "--ksize", "1,1"), "leave out ksize"),
    (("--shape", "1,5,6"), "--shape must be four numbers of at least 1 but is [1, 5, 6]"),
    (("--shape", "0,5,6,4"), "--shape must be four numbers of at least 1 but is [0, 5, 6, 4]"),
    ((*SIZE, "--ksize", "3"), "--ksize must be 2 numbers but is [3]"),
    ((*SIZE, "--ksize", "9,9"), "ksize must fit the padded input"),
    ((*SIZE, "--deformable-groups", "3"), "deformable_groups must divide C = 4 but is 3"),
    ((*SIZE, "--backend", "nobody"), "execution.backend must be one of"),
    ((*SIZE, "--seed", "-1"), "--seed must be at least 0 but is -1"),
)


@pytest.mark.parametrize("arguments, message", REFUSED)
def test_golden_refuses_before_it_writes(tmp_path, arguments, message, capsys):
    assert run("golden", tmp_path / "c", *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == "" and not (tmp_path / "c").exists()


def test_verify_prints_every_name_whole(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    made(tmp_path)
    assert run("verify", tmp_path) == 0
    printed = capsys.readouterr().out
    assert all(f"{which}.{name} " in printed for which, names in golden.PASSES.items() for name in names)


@pytest.mark.parametrize("kind", ["grey", "grey with alpha", "16 bits"])
def test_demo_reads_pictures_of_other_kinds(tmp_path, kind):
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(40 * 50).reshape(40, 50) * 255 // 2000
    if kind == "16 bits":
        image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "picture.tiff")
    else:
        picture = image.fromarray(grey.astype(np.uint8)).convert("LA" if "alpha" in kind else "L")
        picture.save(tmp_path / "picture.tiff")
    loaded = demo.load(tmp_path / "picture.tiff")
    assert loaded.shape == (40, 50, 3)
    np.testing.assert_allclose(loaded, np.repeat(grey[..., None] / 255, 3, axis=-1), atol=1e-6)


def test_demo_checks_where_it_will_write(tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "nowhere" / "demo.png") == 2
    printed = capsys.readouterr()
    assert "--out must lie in a folder that exists" in printed.err and printed.out == ""


def test_demo_straightens_a_small_picture(tmp_path):
    photo = demo.load()[100:220, 150:290]
    result = demo.bend_and_straighten(photo, ((8.0, 12.0, 6), (4.0, 8.0, 6), (2.0, 5.0, 6)))
    assert result.losses[-1] < result.losses[0] / 4
    assert result.error_after < result.error_before / 2
    demo.draw(result, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_meets_its_bar():
    assert demo.bend_and_straighten(demo.load()).error_after < 0.3


def test_info(capsys):
    assert run("info") == 0
    printed = capsys.readouterr().out
    assert tapfield.__version__ in printed and "reference" in printed
    assert any(b.name == "ascend" and "TAPFIELD_ASCEND" in b.reason for b in tapfield.backends())


# CUDA's backend is a library that is loaded when it is asked for; where that fails, the reason is told.
@pytest.mark.parametrize(
    "library, reason",
    [
        ("/nowhere/libtapfield_cuda.so", "cannot open shared object file"),
        ("libm.so.6", "has no tapfield_cuda_library"),
    ],
)
def test_info_says_why_there_is_no_cuda(library, reason):
    program = "import tapfield; print([b for b in tapfield.backends() if b.name == 'cuda'])"
    environment = os.environ | dict(TAPFIELD_CUDA_LIBRARY=library)
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "available=False" in printed and reason in printed
