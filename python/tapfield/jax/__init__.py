# SPDX-License-Identifier: Apache-2.0
"""tapfield for JAX: deformable_offsets as a differentiable primitive, and deform_conv2d built on it.

Works in eager mode and under jit, grad, jvp, vmap, checkpoint, shard_map and export; arrays sharded by N stay so.
docs/jax.md shows how. Runs on XLA's threads; on a GPU, on XLA's stream.

Needs JAX 0.10 or later, there when tapfield was built.
"""

from tapfield.jax.conv2d import deform_conv2d
from tapfield.jax.operators import deformable_offsets
from tapfield.jax.primitives import release_scratch

__all__ = ["deform_conv2d", "deformable_offsets", "release_scratch"]
