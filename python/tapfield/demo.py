# SPDX-License-Identifier: Apache-2.0
"""tapfield demo: a bent photograph is straightened by gradient descent on `offsets`.

bent(p) = photo(p + u(p)) for a smooth field u of up to 8 px. The descent starts from zero offsets and minimises the
squared difference between deformable_offsets(bent, offsets) and the photograph; it uses deformable_offsets and
deformable_offsets_grad alone and knows nothing of u's form. The field it should find is v with v(p) = -u(p + v(p)).

Two things make plain descent arrive:
- both pictures are blurred, less and less, so that 8 px are at first less than the width of what is to be matched;
- the gradient is averaged over a neighbourhood and scaled by the picture's own (structure tensor of the photograph,
  averaged alike): one step then solves for the shift that the neighbourhood shares, as Lucas and Kanade did in 1981.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tapfield

ATTRIBUTES = dict(ksize=(1, 1), strides=(1, 1, 1, 1), pads=(0, 0, 0, 0), modulated=False)
LARGEST = 8.0  # px, of u

# Blur of both pictures and width of the neighbourhood, in px, and steps with them.
LEVELS = ((8.0, 12.0, 15), (4.0, 8.0, 15), (2.0, 5.0, 15), (1.0, 4.0, 20))
LONGEST_STEP = 1.0  # px: where neighbours disagree, the solution may be far off


@dataclass
class Result:
    """Pictures are [H, W, 3] in 0..1; fields are [H, W, 2] in px, along W and along H, as offsets are."""

    photo: np.ndarray
    bent: np.ndarray
    straightened: np.ndarray
    found: np.ndarray
    true: np.ndarray
    losses: list  # mean squared difference before each step and after the last, of the pictures as they are
    textured: np.ndarray  # [H, W], bool: upper half of the smoothed gradient magnitude
    ms_per_gradient: float

    def error(self, field):
        """Mean distance in px of a field from the true one over the textured area."""
        return float(np.linalg.norm(field - self.true, axis=-1)[self.textured].mean())

    @property
    def error_before(self):
        return self.error(np.zeros_like(self.true))

    @property
    def error_after(self):
        return self.error(self.found)


def blur(image, sigma):
    """Gaussian blur of [H, W] or [H, W, C] along H and W, edges repeated."""
    if sigma == 0:
        return image
    pad = int(3 * sigma) + 1
    wide = np.pad(image, [(pad, pad), (pad, pad)] + [(0, 0)] * (image.ndim - 2), mode="edge")
    for axis in (0, 1):
        gain = np.exp(-2 * (np.pi * sigma * np.fft.rfftfreq(wide.shape[axis])) ** 2)
        gain = gain.reshape([-1 if a == axis else 1 for a in range(wide.ndim)])
        wide = np.fft.irfft(np.fft.rfft(wide, axis=axis) * gain, wide.shape[axis], axis=axis)
    return wide[pad:-pad, pad:-pad].astype(np.float32)


class Field:
    """A smooth random field on an h x w picture, LARGEST px at most and 0 along the edge: u(p), at any p."""

    def __init__(self, h, w, seed):
        self.size = h, w
        rng = np.random.default_rng(seed)
        self.waves = rng.integers(1, 4, (2, 5, 2))  # half waves along H and W: so the edge stays where it is
        self.sizes = rng.uniform(-1, 1, (2, 5)) / self.waves.sum(-1)
        self.scale = 1.0
        at_pixels = self(*np.mgrid[:h, :w].astype(float))
        self.scale = LARGEST / np.linalg.norm(at_pixels, axis=-1).max()

    def __call__(self, p_h, p_w):
        """[..., 2], along W and along H, at rows p_h and columns p_w."""
        t_h, t_w = np.pi * p_h / (self.size[0] - 1), np.pi * p_w / (self.size[1] - 1)
        components = [
            sum(s * np.sin(i * t_h) * np.sin(j * t_w) for s, (i, j) in zip(sizes, waves))
            for sizes, waves in zip(self.sizes, self.waves)
        ]
        return self.scale * np.stack(components, axis=-1)

    def inverse(self, tolerance=1e-4):
        """v with v(p) = -u(p + v(p)) at all pixels, by fixed point, to `tolerance` px."""
        p_h, p_w = np.mgrid[: self.size[0], : self.size[1]].astype(float)
        v = np.zeros((*self.size, 2))
        while True:
            last, v = v, -self(p_h + v[..., 1], p_w + v[..., 0])
            if np.abs(v - last).max() < tolerance:
                return v


def sample(image, offsets):
    """image(p + offsets(p)): deformable_offsets with a kernel of one tap."""
    return tapfield.deformable_offsets(image[None], offsets[None], **ATTRIBUTES)[0]


def structure(photo, neighbourhood):
    """The entries (ww, hw, hh) of the averaged structure tensor of [H, W, C], with a floor against flat areas."""
    d_h, d_w = np.gradient(photo, axis=(0, 1))
    ww, hw, hh = (blur((a * b).sum(-1), neighbourhood) for a, b in ((d_w, d_w), (d_h, d_w), (d_h, d_h)))
    floor = 0.05 * float((ww + hh).mean()) + 1e-12
    return ww + floor, hw, hh + floor


def straighten(photo, bent, levels=LEVELS, report=lambda loss: None):
    """(offsets, losses, seconds of every gradient): descent from zero. Pictures are [H, W, C] float32."""
    offsets = np.zeros((*photo.shape[:2], 2), np.float32)
    losses, seconds = [], []

    def measure():
        losses.append(float(np.mean((sample(bent, offsets) - photo) ** 2)))
        report(losses[-1])

    for sigma, neighbourhood, steps in levels:
        soft_photo, soft_bent = blur(photo, sigma), blur(bent, sigma)
        ww, hw, hh = structure(soft_photo, neighbourhood)
        determinant = ww * hh - hw * hw
        for _ in range(steps):
            measure()
            difference = sample(soft_bent, offsets) - soft_photo
            start = time.perf_counter()
            _, gradient = tapfield.deformable_offsets_grad(
                difference[None], soft_bent[None], offsets[None], **ATTRIBUTES
            )
            seconds.append(time.perf_counter() - start)
            g_w, g_h = np.moveaxis(blur(gradient[0], neighbourhood), -1, 0)
            step = np.stack([hh * g_w - hw * g_h, ww * g_h - hw * g_w], axis=-1) / determinant[..., None]
            length = np.linalg.norm(step, axis=-1, keepdims=True)
            step *= np.minimum(1, LONGEST_STEP / np.maximum(length, LONGEST_STEP))
            offsets = blur(offsets - step, neighbourhood / 2)  # a smooth field, carried into flat areas
    measure()
    return offsets, losses, seconds


def bend_and_straighten(photo, levels=LEVELS, seed=0, report=lambda loss: None):
    """The whole experiment on [H, W, 3] float32 in 0..1; a Result."""
    h, w = photo.shape[:2]
    field = Field(h, w, seed)
    bent = sample(photo, field(*np.mgrid[:h, :w].astype(float)).astype(np.float32))
    found, losses, seconds = straighten(photo, bent, levels, report)
    d_h, d_w = np.gradient(photo.mean(-1))
    texture = blur(np.hypot(d_h, d_w), 2.0)
    return Result(
        photo=photo,
        bent=bent,
        straightened=sample(bent, found),
        found=found,
        true=field.inverse().astype(np.float32),
        losses=losses,
        textured=texture > np.median(texture),
        ms_per_gradient=1e3 * float(np.median(seconds)),
    )


def load(path=None):
    """A picture file as [H, W, 3] float32 in 0..1; matplotlib's photograph of Grace Hopper by default."""
    from matplotlib import cbook, image

    picture = image.imread(path or cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    if picture.ndim == 2 or picture.shape[2] < 3:  # grey
        picture = np.repeat(picture.reshape(*picture.shape[:2], -1)[..., :1], 3, axis=-1)
    white = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1
    picture = picture[..., :3].astype(np.float32) / white
    if min(picture.shape[:2]) < 32:
        raise ValueError(
            f"IMAGE must be at least 32 x 32 pixels but is {picture.shape[1]} x {picture.shape[0]}"
        )
    return picture


def colours(field):
    """A field as a picture: hue its direction, saturation its length, white where it is 0."""
    from matplotlib.colors import hsv_to_rgb

    hue = np.arctan2(field[..., 1], field[..., 0]) / (2 * np.pi) % 1
    length = np.clip(np.linalg.norm(field, axis=-1) / LARGEST, 0, 1)
    return hsv_to_rgb(np.stack([hue, length, np.ones_like(hue)], axis=-1))


def draw(result, path):
    """One picture of a Result: the three photographs above, the two fields and the descent below."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(11, 8.6 * result.photo.shape[0] / result.photo.shape[1] / 1.17), layout="constrained"
    )
    axes = figure.subplots(2, 3)
    panels = (
        ("photograph", result.photo),
        (f"bent by up to {LARGEST:g} px", result.bent),
        ("straightened", result.straightened),
        ("field found", colours(result.found)),
        ("true field", colours(result.true)),
    )
    for axis, (title, picture) in zip(axes.flat, panels):
        axis.imshow(np.clip(picture, 0, 1))
        axis.set_title(title)
        axis.set_axis_off()
    descent = axes.flat[-1]
    descent.semilogy(result.losses)
    descent.set_title(f"loss; mean error {result.error_before:.2f} px → {result.error_after:.2f} px")
    descent.set_xlabel("step")
    descent.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main(image=None, out="demo.png"):
    """What `tapfield demo` does. Returns the exit status."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    console = Console()
    if not Path(out).parent.is_dir():
        raise ValueError(f"--out must lie in a folder that exists but is {out}")
    photo = load(image)
    console.print(
        f"Bending {image or 'the photograph'} ({photo.shape[1]} x {photo.shape[0]}), then finding the way back"
    )
    steps = sum(n for *_, n in LEVELS) + 1
    columns = (
        TextColumn("gradient descent"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps)
        result = bend_and_straighten(
            photo, report=lambda loss: progress.update(task, advance=1, description=f"loss {loss:.3e}")
        )
    draw(result, out)
    table = Table("", "before", "after", title="Straightened")
    table.add_row("loss (mean squared difference)", f"{result.losses[0]:.3e}", f"{result.losses[-1]:.3e}")
    table.add_row(
        "mean error of the offsets, textured area",
        f"{result.error_before:.3f} px",
        f"{result.error_after:.3f} px",
    )
    console.print(table)
    console.print(f"{result.ms_per_gradient:.2f} ms per gradient on {tapfield.get_num_threads()} threads")
    console.print(f"wrote {out}", soft_wrap=True)
    return 0
