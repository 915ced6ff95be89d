# SPDX-License-Identifier: Apache-2.0
"""Two processes over gloo: DTensor's placements, and one training step under DDP and FSDP2."""

import os
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from tapfield.torch import deform_conv2d, deformable_offsets

from layer_cases import Layer, assert_near
from models import assert_alike, net

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")

WORLD = 2


def process(rank, test, path, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=WORLD)
    try:
        test(rank, *arguments)
    finally:
        dist.destroy_process_group()
    # Without Python's finalisation: gloo's threads live on, and the one that drops the last collective's tensors then
    # wants the GIL, which before Python 3.14 ends a thread of C++ in std::terminate.
    os._exit(0)


def in_two_processes(test, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rendezvous")
        torch.multiprocessing.spawn(process, (test, path, arguments), nprocs=WORLD)


def assert_placed(got, want, placements):
    assert tuple(got.placements) == tuple(placements), got.placements
    assert_near(got.full_tensor(), want, 5000)


# ------ DTensor


def operands(layer):
    return [t if t is None else t.requires_grad_() for t in layer.tensors()]


def check_deformable_offsets(rank):
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD,))
    torch.manual_seed(0)
    R, P = Replicate(), Partial()
    for data_format, axis in ("NHWC", 3), ("NCHW", 1):
        for groups, stride in (1, 1), (1, 2), (2, 1):  # the second call has other attributes
            x, ho, wo = torch.randn(4, 8, 6, 4, dtype=torch.float64), 7 // stride + 1, 5 // stride + 1
            offsets = torch.randn(4, ho, wo, 27 * groups, dtype=torch.float64)
            how = dict(ksize=(3, 3), pads=(1, 1, 1, 1), deformable_groups=groups, data_format=data_format)
            how["strides"] = (1, stride, stride, 1) if axis == 3 else (1, 1, stride, stride)
            if axis == 1:
                x, offsets = x.permute(0, 3, 1, 2).contiguous(), offsets.permute(0, 3, 1, 2).contiguous()
            leaves = x.requires_grad_(), offsets.requires_grad_()
            want = deformable_offsets(*leaves, **how)
            grad = torch.randn_like(want)
            want_grads = torch.autograd.grad(want, leaves, grad)
            channels = Shard(axis)
            cases = [(R, R, R, R, R), (Shard(0), Shard(0), Shard(0), Shard(0), Shard(0)), (Shard(0), R, Shard(0), Shard(0), Shard(0)),
                     (Shard(2), R, R, R, R)]  # fmt: skip
            cases += [(channels, R, channels, channels, P) if groups == 1 else (channels, R, R, R, R)]
            for at_x, at_offsets, at_y, _, at_grad_offsets in cases:
                here = [
                    distribute_tensor(t.detach(), mesh, [p]).requires_grad_()
                    for t, p in zip(leaves, (at_x, at_offsets))
                ]
                y = deformable_offsets(*here, **how)
                assert_placed(y, want, [at_y])
                got = torch.autograd.grad(y, here, distribute_tensor(grad, mesh, [at_y]))
                for g, w in zip(got, want_grads):
                    assert_near(g.full_tensor(), w, 5000)
                if at_grad_offsets == P:
                    assert tuple(got[1].placements) == (P,)


def check_deform_conv2d(rank):
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD,))
    R, P, N, C = Replicate(), Partial(), Shard(0), Shard(1)
    layers = [
        Layer("one", input=(4, 6, 9, 8)),
        Layer("stride", input=(4, 6, 9, 8), stride=(2, 2)),
        Layer("groups", input=(4, 6, 9, 8), groups=2, offset_groups=3),
        Layer("v1", input=(4, 6, 9, 8), modulated=False, bias=False),
    ]
    for layer in layers:
        t = operands(layer)
        how = dict(layer.how)
        want = deform_conv2d(*t[:4], mask=t[4], **how)
        grad = layer.grad()
        here = [i for i, a in enumerate(t) if a is not None]
        want_grads = torch.autograd.grad(want, [t[i] for i in here], grad)
        cases = [
            ((R, R, R, R, R), R),
            ((N, N, R, R, N), N),
            ((N, R, R, R, R), N),
            ((Shard(2), R, R, R, R), R),
        ]
        if layer.groups == 1 and layer.offset_groups == 1:
            cases += [((C, R, C, R, R), P), ((R, R, N, N, R), C)]
        for placements, out_at in cases:
            d = [
                a if a is None else distribute_tensor(a.detach(), mesh, [p]).requires_grad_()
                for a, p in zip(t, placements)
            ]
            out = deform_conv2d(*d[:4], mask=d[4], **how)
            if layer.bias and out_at == P:
                assert_near(out.full_tensor(), want, 5000)
            else:
                assert_placed(out, want, [out_at])
            got = torch.autograd.grad(out, [d[i] for i in here], distribute_tensor(grad, mesh, [R]).redistribute(
                placements=[R if isinstance(p, Partial) else p for p in out.placements]))  # fmt: skip
            for g, w in zip(got, want_grads):
                assert_near(g.full_tensor(), w, 5000)


def check_errors(rank):
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD,))
    layer = Layer("odd", input=(3, 6, 9, 8))
    t = layer.tensors()
    d = [distribute_tensor(a, mesh, [Shard(0)]) for a in t]
    with pytest.raises(ValueError, match="input's axis 0 of 3 must be a multiple of the 2 processes"):
        deform_conv2d(d[0], d[1], d[2], mask=d[4], padding=1)
    with pytest.raises(TypeError, match="offset must be a DTensor, as the others, but is a Tensor"):
        deform_conv2d(d[0], t[1], d[2], padding=1)


@pytest.mark.parametrize(
    "check",
    [
        check_deformable_offsets,
        check_deform_conv2d,
        check_errors,
    ],
    ids=lambda f: getattr(f, "__name__", None),
)
def test_dtensor(check):
    in_two_processes(check)


# ------ Training


def batch():
    g = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, 10, 12, generator=g), torch.randn(4, 2, 5, 6, generator=g)


def step(model, x, target):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = (model(x) - target).square().mean()
    loss.backward()
    optimizer.step()


def parameters(model):
    full = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p
    return [full(p).detach().clone() for p in model.parameters()]


def train(rank, wrap, path):
    x, target = (t.chunk(WORLD)[rank] for t in batch())
    runs = []
    for _ in range(2):
        model = net()
        if wrap == "ddp":
            model = torch.nn.parallel.DistributedDataParallel(model)
        else:
            from torch.distributed.fsdp import fully_shard
            from torch.distributed.tensor import init_device_mesh

            mesh = init_device_mesh("cpu", (WORLD,))
            for part in model.first, model.second, model:
                fully_shard(part, mesh=mesh)
        step(model, x, target)
        runs.append(parameters(model))
    assert all(torch.equal(a, b) for a, b in zip(*runs))
    if rank == 0:
        torch.save(runs[0], path)


@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_one_step_is_that_of_the_joint_batch(wrap, tmp_path):
    in_two_processes(train, wrap, str(tmp_path / "parameters"))
    model = net()
    before = parameters(model)
    step(model, *batch())
    for got, want, start in zip(torch.load(tmp_path / "parameters"), parameters(model), before, strict=True):
        assert_alike(got, want)
        assert not torch.equal(want, start)
