"""The network: a small 3D U-Net that works at half resolution and refines at full resolution.

The first convolution halves the grid, four levels of a U-Net follow (4, 8, 16 and 32 mm for a 2 mm input),
and a light head at full resolution puts the sharp edges back. Normalisation is by instance (whole volume).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Convolution 3x3x3, instance normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.normalisation = nn.InstanceNorm3d(outputs, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        return functional.leaky_relu(self.normalisation(self.convolution(x)), 0.05)


class Double(nn.Module):
    """Two blocks with a residual connection around the second."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = Block(inputs, outputs, stride)
        self.second = Block(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both blocks."""
        x = self.first(x)
        return x + self.second(x)


class HeadUNet(nn.Module):
    """Segmentation of a head into background, parenchyma and ventricles.

    Input ``(N, 1, D, H, W)`` with every side a multiple of 16; output logits ``(N, 3, D, H, W)``.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48, 48), fine: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.fine = Block(1, fine)
        self.down = nn.ModuleList()
        previous = fine
        for width in widths:
            self.down.append(Double(previous, width, stride=2))
            previous = width
        self.up = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(Block(previous + width, width))
            previous = width
        self.expand = nn.Conv3d(previous, fine, 1, bias=False)
        self.refine = Block(fine, fine)
        self.classify = nn.Conv3d(fine, classes, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        fine = self.fine(image)
        x = fine
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
        skips.pop()
        for level in self.up:
            x = functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = level(torch.cat([x, skips.pop()], dim=1))
        x = functional.interpolate(self.expand(x), scale_factor=2, mode="trilinear", align_corners=False)
        return self.classify(self.refine(x + fine))
