# SPDX-License-Identifier: Apache-2.0
"""patch(): other libraries' deformable convolutions run on tapfield, without a change to the models that use them."""

import importlib
import warnings

import torch

from tapfield.torch.conv2d import convolve, deform_conv2d, pair


class patch:
    """Makes torchvision's and mmcv's deformable convolutions tapfield's, as far as they are installed.

    torchvision: the dispatcher's torchvision::deform_conv2d, so that modules, scripts and names imported before are
    reached too, and torchvision.ops.deform_conv2d itself. mmcv: the functions deform_conv2d and
    modulated_deform_conv2d of mmcv.ops, and those that its modules call; with mmcv's open border.

    patch()            from now on, until its result's undo()
    with patch(): ...  until the end of the block

    `patched` lists what was replaced. Patches may be nested; undo them in reverse order.
    """

    def __init__(self):
        self.patched, self._attributes, self._library = [], [], None
        self._patch_torchvision()
        self._patch_mmcv()

    def undo(self):
        """Puts back what was there."""
        for module, name, old in reversed(self._attributes):
            setattr(module, name, old)
        if self._library is not None:
            self._library._destroy()
        self.patched, self._attributes, self._library = [], [], None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo()

    def _replace(self, modules, name, new):
        for module in modules:
            if hasattr(module, name):
                self._attributes.append((module, name, getattr(module, name)))
                setattr(module, name, new)
                self.patched.append(f"{module.__name__}.{name}")

    def _patch_torchvision(self):
        modules = _importable("torchvision.ops", "torchvision.ops.deform_conv")
        if not modules:
            return
        self._library = torch.library.Library("torchvision", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Oo]verriding a previously registered kernel")
            for key in ("CPU", "Autograd", "AutocastCPU"):
                self._library.impl("deform_conv2d", _torchvision, key, allow_override=True)
        self.patched.append("torchvision::deform_conv2d")
        self._replace(modules, "deform_conv2d", deform_conv2d)

    def _patch_mmcv(self):
        modules = _importable("mmcv.ops", "mmcv.ops.deform_conv", "mmcv.ops.modulated_deform_conv")
        self._replace(modules, "deform_conv2d", _mmcv)
        self._replace(modules, "modulated_deform_conv2d", _mmcv_modulated)


def _importable(*names):
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError:
            pass
    return modules


# ------ The others' signatures


def _torchvision(
    input, weight, offset, mask, bias, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups,
    use_mask,
):  # fmt: skip
    mask = mask if use_mask else None
    stride, padding, dilation = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    return convolve(input, offset, weight, bias, mask, stride, padding, dilation, "closed")


def _mmcv(
    input,
    offset,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    deform_groups=1,
    bias=False,
    im2col_step=32,
):
    if bias:
        raise ValueError("bias must be False, as in mmcv's deform_conv2d")
    step = max(1, min(im2col_step, input.shape[0]))  # of no use here, but what mmcv refuses stays so
    if input.shape[0] % step:
        raise AssertionError("batch size must be divisible by im2col_step")
    return _mmcv_modulated(
        input, offset, None, weight, None, stride, padding, dilation, groups, deform_groups
    )


def _mmcv_modulated(
    input, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1
):
    """groups and deform_groups are what the shapes say; a shape that says otherwise is an error."""
    taps = weight.shape[2] * weight.shape[3]
    for name, have, want in (
        ("weight", weight.shape[1] * groups, input.shape[1]),
        ("offset", offset.shape[1], 2 * deform_groups * taps),
    ):
        if have != want:
            raise ValueError(f"{name} of shape {list(offset.shape if name == 'offset' else weight.shape)} does not fit "
                             f"groups = {groups}, deform_groups = {deform_groups}")  # fmt: skip
    return convolve(input, offset, weight, bias, mask, pair(stride), pair(padding), pair(dilation), "open")
