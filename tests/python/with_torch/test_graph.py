# SPDX-License-Identifier: Apache-2.0
"""torch.compile, torch.export, AOTInductor from Python and from C++, ONNX."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tapfield
import tapfield.torch.onnx
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

from models import assert_alike, net

ROOT = Path(__file__).resolve().parents[3]
SHAPES = [(2, 3, 10, 12), (1, 3, 9, 16), (3, 3, 17, 8), (4, 3, 24, 24)]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(1))


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_without_breaks_and_once(channels_last):
    """One graph for forward and backward of every shape with more than one image; one more where N = 1 specialises."""
    model, counter = net(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        x = torch.randn(shape)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        for got, want in zip(gradients(compiled, x), gradients(model, x)):
            assert_alike(got, want)
        assert compiled(x).stride() == model(x).stride()
    assert counter.frame_count <= 2


def test_inductor(x):
    model = net()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for got, want in zip(gradients(compiled, x), gradients(model, x)):
        assert_alike(got, want)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_alike(compiled(last), model(last))


def test_compile_the_operators():
    x, offsets = torch.randn(2, 5, 6, 4), torch.randn(2, 5, 6, 54)

    def call(x, offsets):
        return tapfield.torch.deformable_offsets(
            x * 2, offsets, ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1), deformable_groups=2
        ).sin()

    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(x, offsets), call(x, offsets))


# ------ torch.export


def exported(model, x):
    n, h, w = Dim("n", min=2, max=64), Dim("h", min=4, max=512), Dim("w", min=4, max=512)
    return torch.export.export(model.eval(), (x,), dynamic_shapes=({0: n, 2: h, 3: w},))


def test_export_round_trip(x, tmp_path):
    model = net()
    torch.export.save(exported(model, x), tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    assert any("tapfield" in str(node.target) for node in loaded.graph.nodes)
    for shape in SHAPES:
        if shape[0] > 1:
            given = torch.randn(shape)
            assert torch.equal(loaded(given), model(given))


# ------ AOTInductor


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """(path of a package of the net, its input, its output)."""
    model, x = net(), torch.randn(2, 3, 10, 12)
    path = str(tmp_path_factory.mktemp("aoti") / "net.pt2")
    torch._inductor.aoti_compile_and_package(exported(model, x), package_path=path)
    return path, x, model(x).detach()


def test_aotinductor_in_python(package):
    path, x, want = package
    run = torch._inductor.aoti_load_package(path)
    assert_alike(run(x), want)
    other = torch.randn(3, 3, 9, 16)
    assert_alike(run(other), net()(other))


def test_aotinductor_without_python(package, tmp_path):
    """examples/torch_run.cpp: a C++ program that loads the operators and the package."""
    from torch.utils.cpp_extension import include_paths, library_paths

    path, x, want = package
    x.numpy().tofile(tmp_path / "x.bin")
    program = tmp_path / "torch_run"
    libraries = library_paths()
    subprocess.run(
        ["c++", "-std=c++20", "-O1", str(ROOT / "examples/torch_run.cpp"), "-o", str(program)]
        + [f"-isystem{p}" for p in include_paths()]
        + [a for p in libraries for a in (f"-L{p}", f"-Wl,-rpath,{p}")]
        + ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"],
        check=True,
    )
    library = Path(tapfield.__file__).with_name("libtapfield_torch.so")
    shape = [str(s) for s in x.shape]
    given = subprocess.run(
        [str(program), str(library), path, str(tmp_path / "x.bin"), *shape], check=True, capture_output=True
    ).stdout
    assert_alike(torch.from_numpy(np.frombuffer(given, np.float32).copy()).reshape(want.shape), want)


# ------ ONNX


def test_onnx(x, tmp_path):
    import onnx
    import onnxruntime

    model = net().eval()
    n, h, w = Dim("n", min=2, max=64), Dim("h", min=4, max=512), Dim("w", min=4, max=512)
    program = torch.onnx.export(
        model, (x,), dynamo=True, custom_translation_table=tapfield.torch.onnx.translations(),
        dynamic_shapes=({0: n, 2: h, 3: w},),
    )  # fmt: skip
    program.save(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [node.op_type for node in graph.node].count("DeformConv") == 2
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for given in x, torch.randn(3, 3, 9, 16):
        (got,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        assert_alike(torch.from_numpy(got), model(given).detach())


def test_importing_the_package_needs_neither_onnx_nor_distributed():
    program = "import sys, tapfield.torch; print({'onnxscript', 'onnx', 'torchvision'} & set(sys.modules))"
    given = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert given.strip() == "set()"
