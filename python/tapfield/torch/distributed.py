# SPDX-License-Identifier: Apache-2.0
"""The operators on DTensors, by local_map: each process works on its own part, without communication.

What can be sharded, for each dimension of the mesh:

    N             all that have one; gradients of weight and bias are Partial
    C             with one offset group (and groups = 1): x and weight's input channels; offsets are replicated and
                  their gradient is Partial; deform_conv2d's result is Partial
    Co            deform_conv2d's weight and bias (groups = 1): the others are replicated, their gradients Partial

H and W never, taps may reach any row. Whatever is sharded otherwise is redistributed first. Why not register_sharding:
with PyTorch 2.14 its cache does not see int[] arguments, and a second call with another stride gets the first one's
shapes.
"""

from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.experimental import local_map

R, P = Replicate(), Partial()


def _run(function, tensors, shardings, names):
    """function of the tensors, each a DTensor or None. shardings: for each dimension of the mesh the placements of
    (tensors ..., their gradients ..., the result)."""
    here = [i for i, t in enumerate(tensors) if t is not None]
    for i in here:
        if not isinstance(tensors[i], DTensor):
            raise TypeError(
                f"{names[i]} must be a DTensor, as the others, but is a {type(tensors[i]).__name__}"
            )
    mesh, count = tensors[here[0]].device_mesh, len(tensors)
    for i in here:
        for dim, sharding in enumerate(shardings):
            if isinstance(s := sharding[i], Shard) and tensors[i].shape[s.dim] % mesh.size(dim):
                raise ValueError(
                    f"{names[i]}'s axis {s.dim} of {tensors[i].shape[s.dim]} must be a multiple of the {mesh.size(dim)} "
                    "processes that share it"
                )

    def local(*given):
        full = [None] * count
        for i, t in zip(here, given):
            full[i] = t
        return function(*full)

    return local_map(
        local,
        out_placements=[s[-1] for s in shardings],
        in_placements=tuple(tuple(s[i] for s in shardings) for i in here),
        in_grad_placements=tuple(tuple(s[count + i] for s in shardings) for i in here),
        device_mesh=mesh,
        redistribute_inputs=True,
    )(*(tensors[i] for i in here))


def _placements(tensors):
    """Those of each tensor, dimension by dimension of the mesh."""
    given = [t.placements if isinstance(t, DTensor) else None for t in tensors]
    dims = next(len(p) for p in given if p is not None)
    return [[None if p is None else p[dim] for p in given] for dim in range(dims)]


def deformable_offsets(function, x, offsets, *, channel_axis, deformable_groups):
    """function(x, offsets), the operator on plain tensors."""

    def sharding(at):
        if Shard(0) in at:
            return (Shard(0),) * 5
        if at[0] == Shard(channel_axis) and deformable_groups == 1:
            c = Shard(channel_axis)
            return c, R, c, P, c
        return (R,) * 5

    return _run(function, (x, offsets), [sharding(at) for at in _placements((x, offsets))], ("x", "offsets"))


def deform_conv2d(function, input, offset, weight, bias, mask):
    """function(input, offset, weight, bias, mask), the operator on plain tensors."""
    tensors = input, offset, weight, bias, mask
    one_group = input.shape[1] == weight.shape[1]
    one_offset_group = offset.shape[1] == 2 * weight.shape[2] * weight.shape[3]
    N, C = Shard(0), Shard(1)

    def sharding(at):
        if N in (at[0], at[1], at[4]):
            return N, N, R, R, N, N, N, P, P, N, N
        if one_group and one_offset_group and C in (at[0], at[2]):
            return C, R, C, R, R, C, P, C, R, P, P
        if one_group and N in (at[2], at[3]):
            return R, R, N, N, R, P, P, N, N, P, C
        return (R,) * 11

    shardings = [sharding(at) for at in _placements(tensors)]
    names = "input", "offset", "weight", "bias", "mask"
    if bias is None or not any(s[-1] == P for s in shardings):
        return _run(function, tensors, shardings, names)
    # A sum over processes would count bias once for each.
    out = _run(function, (input, offset, weight, None, mask), shardings, names)
    return out + bias.view(1, -1, 1, 1)
