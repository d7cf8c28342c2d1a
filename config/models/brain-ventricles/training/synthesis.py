"""Random training images: label maps painted with random contrast, or the real image, strongly deformed.

Everything runs on the grid of the network and takes a few tenths of a second on two cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from volume import STUDENT_SHAPE, STUDENT_SPACING

PREPARED_SPACING = 1.5
#: Synthesis classes (see prepare.py): typical T1 brightness, 0..1, of the brain parts and of the CSF.
T1_BRIGHTNESS = (0.80, 0.52, 0.16, 0.78, 0.50, 0.68, 0.58, 0.74, 0.74, 0.54, 0.16)
VENTRICLE, CSF = 2, 10
#: Percentiles of the whole grid (padding included) that become 0 and 1.
CLIP_PERCENTILES = (0.5, 99.5)


@dataclass
class Subject:
    """One prepared head as tensors."""

    image: torch.Tensor  # (D, H, W)
    parts: torch.Tensor  # (classes, D * H * W)
    target: torch.Tensor  # (2, D, H, W)
    outside: torch.Tensor  # (D, H, W), mm
    swell: torch.Tensor  # (3, D / 2, H / 2, W / 2), prepared voxels, order W, H, D

    @classmethod
    def load(cls, path: Path) -> Subject:
        """Read the arrays written by prepare.py."""
        arrays = np.load(path)

        def tensor(name: str) -> torch.Tensor:
            return torch.from_numpy(arrays[name].astype(np.float32))

        return cls(tensor("image"), tensor("parts").flatten(1), tensor("target"), tensor("outside"), tensor("swell"))


class Painter:
    """Draws random numbers and makes (image, target) pairs from subjects."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """One number between ``low`` and ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.uniform(0, 1) < probability

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def smooth_field(self, shape: tuple[int, ...], cells: int, channels: int = 1) -> torch.Tensor:
        """Smooth normal noise ``(channels, *shape)`` with about ``cells`` bumps along each side."""
        coarse = self.normal(1, channels, cells, cells, cells)
        middle = functional.interpolate(coarse, size=(32, 32, 32), mode="trilinear", align_corners=True)
        middle = functional.avg_pool3d(functional.pad(middle, (2,) * 6, mode="replicate"), 5, stride=1)
        return functional.interpolate(middle, size=shape, mode="trilinear", align_corners=True)[0]

    def brightness(self, count: int) -> torch.Tensor:
        """Mean brightness of every synthesis class: like T1 most of the time, otherwise anything."""
        outer = torch.rand(count - len(T1_BRIGHTNESS) - 1, generator=self.generator)
        if self.chance(0.85):
            brain = torch.tensor(T1_BRIGHTNESS)
            if self.chance(0.3):  # flatter contrast between grey and white matter, as in small children
                centre = 0.62
                pull = self.uniform(0.3, 0.9)
                brain = torch.where(brain > 0.3, centre + (brain - centre) * pull, brain)
            brain = brain + 0.04 * self.normal(len(T1_BRIGHTNESS))
            if self.chance(0.8):
                outer = outer.sort().values
                outer = outer * self.uniform(0.7, 1.6)
            scale = self.uniform(0.5, 1.0)
            means = torch.cat([brain * scale, outer])
        else:
            brain = torch.rand(len(T1_BRIGHTNESS), generator=self.generator)
            if self.chance(0.5):  # grey parts alike, white parts alike
                grey, white = brain[1].clone(), brain[0].clone()
                for index, typical in enumerate(T1_BRIGHTNESS):
                    if typical > 0.3:
                        share = (typical - 0.5) / 0.3
                        brain[index] = grey + (white - grey) * share + 0.05 * float(self.normal(1))
            means = torch.cat([brain, outer])
        if self.chance(0.8):
            means[CSF] = means[VENTRICLE] + 0.03 * float(self.normal(1))
        air = torch.tensor([self.uniform(0, 0.03)])
        return torch.cat([means, air]).clamp(0, 2)

    def paint(self, subject: Subject) -> torch.Tensor:
        """Paint the label fractions: random brightness, texture within every tissue, uneven outer tissues."""
        count, shape = len(subject.parts), subject.image.shape
        means = self.brightness(count)
        brain = len(T1_BRIGHTNESS)
        inner = (means[:brain] @ subject.parts[:brain]).view(shape)
        outer = (means[brain:] @ subject.parts[brain:]).view(shape)
        uneven = self.uniform(0, 0.35) * self.smooth_field(shape, int(self.uniform(5, 20)))[0]
        outer = outer * (1 + uneven).clamp(0.1, 3)
        image = inner + outer
        if self.chance(0.5):  # fine structure of the real image, lost when painting by class
            detail = subject.image - functional.avg_pool3d(subject.image[None], 5, 1, 2)[0]
            image = image + self.uniform(-0.3, 1.0) * detail
        texture = self.normal(1, *shape)
        if self.chance(0.6):
            texture = 2.5 * functional.avg_pool3d(texture, 3, 1, 1)
        return (image + self.uniform(0, 0.06) * texture[0] * (image > 0.05)).clamp(min=0)

    def real(self, subject: Subject) -> torch.Tensor:
        """The real image with another gamma."""
        return subject.image.clamp(0, 1) ** math.exp(self.uniform(-0.45, 0.45))

    def deformation(self, subject: Subject, scale: tuple[float, float], strength: float) -> torch.Tensor:
        """Sampling positions ``(D, H, W, 3)`` for grid_sample in the prepared arrays."""
        half = tuple(n // 2 for n in STUDENT_SHAPE)
        size = torch.tensor([float(n) for n in reversed(subject.image.shape)])  # W, H, D
        axes = [(torch.arange(n) - (n - 1) / 2) * 2 * STUDENT_SPACING / PREPARED_SPACING for n in half]
        mesh = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])  # prepared voxels, order W, H, D
        angles = [self.uniform(-0.35, 0.35) for _ in range(3)]
        matrix = torch.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = torch.eye(3)
            turn[a, a] = turn[b, b] = math.cos(angle)
            turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        matrix = matrix + 0.05 * strength * self.normal(3, 3)
        grow = self.uniform(*scale) * torch.tensor([self.uniform(0.92, 1.08) for _ in range(3)])
        matrix = matrix / grow
        if self.chance(0.5):
            matrix[0] = -matrix[0]
        shift = torch.tensor([self.uniform(-12, 12), self.uniform(-14, 14), self.uniform(-20, 20)])
        where = (matrix @ mesh.flatten(1)).view_as(mesh) + shift.view(3, 1, 1, 1)
        for cells, millimetres in ((int(self.uniform(3, 6)), 9.0), (int(self.uniform(7, 14)), 3.0)):
            amplitude = strength * self.uniform(0.2, 1) * millimetres / PREPARED_SPACING
            where = where + amplitude * self.smooth_field(half, cells, 3)
        normalised = (2 * where / size.view(3, 1, 1, 1)).movedim(0, -1)[None]
        swell = functional.grid_sample(subject.swell[None], normalised, align_corners=False)[0]
        where = where + self.uniform(-1.7, 1.7) / PREPARED_SPACING * strength * swell
        normalised = 2 * where / size.view(3, 1, 1, 1)
        full = functional.interpolate(normalised[None], scale_factor=2, mode="trilinear", align_corners=False)
        return full[0].movedim(0, -1)

    def crop_view(self, image: torch.Tensor, target: torch.Tensor) -> None:
        """Blank what lies outside a random field of view, as scans do that cut ears, neck or crown."""
        for axis, (typical, most) in enumerate(((0.22, 0.40), (0.08, 0.16), (0.16, 0.22))):
            length = image.shape[axis]
            for side in (0, 1):
                if axis == 0 and side == 1:
                    most = 0.15  # crown
                if not self.chance(0.4):
                    continue
                cut = int(length * self.uniform(0, most if self.chance(0.3) else typical))
                if cut:
                    piece = slice(0, cut) if side == 0 else slice(length - cut, length)
                    index = tuple(piece if k == axis else slice(None) for k in range(3))
                    image[index] = 0
                    target[(slice(None), *index)] = 0

    def acquire(self, image: torch.Tensor, strength: float) -> torch.Tensor:
        """Bias field, blur, thick slices, noise."""
        shape = image.shape
        bias = self.smooth_field(shape, int(self.uniform(3, 6)))[0]
        image = image * torch.exp(self.uniform(0, 0.4) * strength * bias)
        if self.chance(0.4):
            weight = self.uniform(0.05, 0.33)
            kernel = torch.tensor([weight, 1 - 2 * weight, weight])
            for axis in range(3):
                form = [1, 1, 1, 1, 1]
                form[2 + axis] = 3
                pad = [0, 0, 0]
                pad[axis] = 1
                image = functional.conv3d(image[None, None], kernel.view(form), padding=pad)[0, 0]
        if self.chance(0.12):
            factors = [1, 1, 1]
            factors[int(self.uniform(0, 2.999))] = int(self.uniform(2, 3.999))
            thick = functional.avg_pool3d(image[None, None], factors, ceil_mode=True, count_include_pad=False)
            image = functional.interpolate(thick, size=shape, mode="trilinear", align_corners=False)[0, 0]
        level = float(image.mean()) * 3 * (self.uniform(0, 0.10) if self.chance(0.5) else 0.01)
        noisy = image + level * self.normal(*shape)
        return noisy.abs() if self.chance(0.5) else noisy.clamp(min=0)

    def sample(self, subject: Subject, real: bool, strength: float = 1.0) -> tuple[torch.Tensor, ...]:
        """One pair: image ``(1, 1, D, H, W)`` scaled as for inference, fractions ``(1, 3, D, H, W)``."""
        image = self.real(subject) if real else self.paint(subject)
        target = subject.target
        if self.chance(0.12):  # skull stripped, with a margin
            image = image * (subject.outside < self.uniform(-1, 4))
        where = self.deformation(subject, (0.78, 1.2), strength)
        stacked = torch.cat([image[None], target])[None]
        moved = functional.grid_sample(stacked, where[None], padding_mode="zeros", align_corners=False)[0]
        if self.chance(0.3):  # mirror the tissue below the head downwards instead of ending in air
            depth = where[:, :, :, 2]
            flipped = where * torch.tensor([1.0, 1.0, -1.0]) - torch.tensor([0.0, 0.0, 2.0])
            neck = functional.grid_sample(image[None, None], flipped[None], align_corners=False)
            below = (depth < -1) & (depth > -1.35)
            moved[0] = torch.where(below, neck[0, 0], moved[0])
        image, target = moved[0], moved[1:]
        image = self.acquire(image, strength)
        if self.chance(0.6):
            self.crop_view(image, target)
        image = scale_intensity(image)
        if not real and self.chance(0.3):
            image = image ** math.exp(self.uniform(-0.35, 0.35))
        background = (1 - target.sum(0, keepdim=True)).clamp(min=0)
        return image[None, None], torch.cat([background, target])[None]


def scale_intensity(image: torch.Tensor) -> torch.Tensor:
    """Percentiles of the whole grid to 0 and 1, clipped (estimated on every fifth voxel)."""
    some = image.flatten()[::5]
    low, high = torch.quantile(some, torch.tensor([p / 100 for p in CLIP_PERCENTILES]))
    return ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
