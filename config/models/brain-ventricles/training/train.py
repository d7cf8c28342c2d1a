"""Train the network on synthetic and deformed images of two heads (see prepare.py and synthesis.py).

    python train.py --prepared prepared --output run --minutes 60

The learning rate follows the clock, not the step count: it rises for 5 % of the time and falls along a cosine
to zero when the time is over, so a slow or busy machine gives fewer steps but a finished schedule. The
weights that are kept are an exponential moving average; ``best.pt`` is the average with the best score on
held-out deformations of the real images, ``last.pt`` the newest one.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from network import HeadUNet
from synthesis import Painter, Subject
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

PEAK_RATE = 2e-3
AVERAGE_DECAY = 0.995
#: Until this share of the time the network sees random boxes of this shape, afterwards the whole grid.
BOX_UNTIL = 0.65
BOX = (96, 112, 80)


class Pairs(IterableDataset):
    """Endless stream of training pairs, made in a process of its own."""

    def __init__(self, folder: Path, seed: int, real: float, template: float) -> None:
        super().__init__()
        self.folder, self.seed, self.real, self.template = folder, seed, real, template

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Make pairs until the process ends."""
        torch.set_num_threads(1)
        head = Subject.load(self.folder / "head.npz")
        template = Subject.load(self.folder / "mni.npz")
        painter = Painter(self.seed)
        while True:
            subject = template if painter.chance(self.template) else head
            yield painter.sample(subject, real=painter.chance(self.real), strength=0.85)


def random_box(image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random box of image and target."""
    cut: list[slice] = [slice(None), slice(None)]
    for length, wanted in zip(image.shape[2:], BOX, strict=True):
        start = int(torch.randint(0, length - wanted + 1, ()))
        cut.append(slice(start, start + wanted))
    return image[tuple(cut)], target[tuple(cut)]


def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy with soft targets plus soft Dice of the two foreground classes."""
    logits = logits.float()
    entropy = -(target * functional.log_softmax(logits, 1)).sum(1).mean()
    probability = logits.softmax(1)[:, 1:].flatten(2)
    wanted = target[:, 1:].flatten(2)
    overlap = (probability * wanted).sum(2)
    size = (probability**2).sum(2) + (wanted**2).sum(2)
    dice = (2 * overlap + 10) / (size + 10)
    return 2 * entropy + (1 - dice).mean()


@torch.no_grad()
def dice_scores(network: HeadUNet, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Hard Dice of parenchyma and ventricles for every pair, shape (pairs, 2)."""
    network.eval()
    rows = []
    for image, target in pairs:
        with torch.autocast("cpu", torch.bfloat16):
            found = network(image).argmax(1)
        wanted = target.argmax(1)
        row = []
        for label in (1, 2):
            a, b = found == label, wanted == label
            row.append(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))
        rows.append(torch.stack(row))
    network.train()
    return torch.stack(rows)


def rate_at(progress: float, peak: float) -> float:
    """Learning rate at a share of the time."""
    warm = 0.05
    if progress < warm:
        return peak * (0.1 + 0.9 * progress / warm)
    return peak * (0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - warm) / (1 - warm)))) + 1e-6


def main() -> None:
    """Train for a given number of minutes."""
    parser = argparse.ArgumentParser(description="Train the network.")
    parser.add_argument("--prepared", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--start", type=Path, help="checkpoint to go on from")
    parser.add_argument("--peak", type=float, default=PEAK_RATE, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=float, default=0.5, help="share of real (not painted) images")
    parser.add_argument("--template", type=float, default=0.15, help="share of images made from MNI152")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    head = Subject.load(arguments.prepared / "head.npz")
    template = Subject.load(arguments.prepared / "mni.npz")
    keeper = Painter(987654321)
    held_out = [keeper.sample(head, real=True) for _ in range(8)] + [keeper.sample(template, real=True)]

    network = HeadUNet()
    if arguments.start:
        network.load_state_dict(torch.load(arguments.start))
    network = network.to(memory_format=torch.channels_last_3d)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.peak, weight_decay=1e-2)
    print("weights", sum(p.numel() for p in network.parameters()), flush=True)

    stream = Pairs(arguments.prepared, arguments.seed, arguments.real, arguments.template)
    pairs = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=3))
    began = time.monotonic()
    seconds = arguments.minutes * 60
    best, step, mean_loss, next_check = -1.0, 0, 0.0, 180.0
    while True:
        elapsed = time.monotonic() - began
        finished = elapsed >= seconds
        if finished or elapsed >= next_check:
            next_check = elapsed + min(240.0, seconds / 8)
            scores = dice_scores(average, held_out)
            score = float(scores.mean())
            torch.save(average.state_dict(), arguments.output / "last.pt")
            if score > best:
                best = score
                torch.save(average.state_dict(), arguments.output / "best.pt")
            print(
                f"{elapsed / 60:6.1f} min  step {step:5d}  loss {mean_loss:.4f}  "
                f"dice {scores[:, 0].mean():.4f} {scores[:, 1].mean():.4f}  "
                f"worst {scores[:, 0].min():.3f} {scores[:, 1].min():.3f}",
                flush=True,
            )
        if finished:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate_at(elapsed / seconds, arguments.peak)
        image, target = next(pairs)
        if elapsed < BOX_UNTIL * seconds:
            image, target = random_box(image, target)
        image = image.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image)
        loss = loss_of(logits, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        step += 1
        mean_loss = float(loss.detach()) if step == 1 else 0.98 * mean_loss + 0.02 * float(loss.detach())
        decay = min(AVERAGE_DECAY, 1 - 1 / (step + 1)) if not arguments.start else AVERAGE_DECAY
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)


if __name__ == "__main__":
    main()
