"""Trains ResNet-18 (CIFAR variant) on CIFAR-10, on a GPU where there is one.

    python tools/train_cifar.py --images cifar-10-batches-bin --out resnet18_cifar10.safetensors
    sandglass deploy resnet18-cifar10 --checkpoint resnet18_cifar10.safetensors --to onnxruntime:fp32 --out out

SGD with momentum and a cosine over all epochs; images are moved by up to 4 pixels and mirrored. After each epoch the
state is kept in `OUT.resume`: the same command goes on after a kill, with the batches of an undisturbed run. `--images`
is what the dataset `cifar10` reads; a single file is the training set, and `--test` then the test set. Nothing is
chosen by the accuracy on the test set, which is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as to_safetensors
from torch import Tensor, nn

from sandglass.core.files import atomic_file
from sandglass.datasets import LabelledDataset, cifar10
from sandglass.sources.export import build_module
from sandglass.sources.load_card import load_card

MODEL = "resnet18-cifar10"
PADDING = 4
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Of the training. `rate` is the learning rate at its highest, after `warm_up` steps."""

    epochs: int = 200
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    warm_up: int = 400
    seed: int = 0


def main() -> None:
    """Train, save, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="CIFAR-10: a folder, or a file of training images")
    parser.add_argument("--test", type=Path, help="a file of test images, where --images is a file")
    parser.add_argument("--out", type=Path, required=True, help="weights, .safetensors")
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    settings = Settings(arguments.epochs, arguments.batch, arguments.rate, seed=arguments.seed)
    train_set = cifar10.load(arguments.images, split="train")
    test_set = cifar10.load(arguments.test or arguments.images, split="test")
    card = load_card(MODEL)
    torch.manual_seed(settings.seed)
    module = build_module(card)
    pixels, labels = tensors(train_set, arguments.device)
    train(module, pixels, labels, card.input.mean, card.input.std, settings, arguments.out, _print)
    save(module, arguments.out)
    right = accuracy(module, *tensors(test_set, arguments.device), card.input.mean, card.input.std)
    _print(f"top-1 {right:.4f} on {test_set.protocol['dataset']}, {test_set.protocol['subset']}")


def tensors(dataset: LabelledDataset, device: str) -> tuple[Tensor, Tensor]:
    """All images (N, 3, 32, 32) uint8 and labels (N,) on the device."""
    pixels = np.stack([dataset.read(i).transpose(2, 0, 1) for i in dataset.image_ids])
    labels = np.array([dataset.labels[i] for i in dataset.image_ids])
    return torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)


def train(
    module: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: Settings,
    out: Path,
    say: Say,
) -> None:
    """Train `module` in place, from the state in `OUT.resume` where there is one of the same settings."""
    device, state_file = pixels.device, out.with_name(f"{out.name}.resume")
    module.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        module.parameters(), settings.rate, settings.momentum, weight_decay=settings.decay, nesterov=True
    )
    done = _resume(state_file, module, optimizer, settings, say)
    steps = -(-len(labels) // settings.batch)
    for epoch in range(done, settings.epochs):
        started, losses, right = time.perf_counter(), 0.0, 0
        random = torch.Generator().manual_seed(settings.seed * 100003 + epoch)
        order = torch.randperm(len(labels), generator=random).to(device)
        for step, chosen in enumerate(order.split(settings.batch)):
            rate = learning_rate(settings, epoch * steps + step, settings.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = normalized(augmented(pixels[chosen], random), mean, std)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = module(images)
            loss = nn.functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(chosen)
            right += int((logits.argmax(1) == labels[chosen]).sum())
        _keep(state_file, epoch + 1, module, optimizer, settings)
        seconds = time.perf_counter() - started
        say(f"epoch {epoch + 1} of {settings.epochs}  loss {losses / len(labels):.4f}  "
            f"top-1 {right / len(labels):.4f}  {seconds:.1f} s")  # fmt: skip
    module.eval()


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """A straight warm-up under a cosine that ends at 0."""
    return settings.rate * min(1.0, (step + 1) / settings.warm_up) * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))


def augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) moved by up to PADDING pixels, with black beyond the border, and half of them mirrored."""
    count, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels, [PADDING] * 4)
    down, across = (torch.randint(2 * PADDING + 1, (2, count), generator=random)).to(pixels.device)
    mirrored = (torch.rand(count, generator=random) < 0.5).to(pixels.device)
    rows = down[:, None] + torch.arange(height, device=pixels.device)
    columns = across[:, None] + torch.arange(width, device=pixels.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    images = torch.arange(count, device=pixels.device)
    return padded.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def normalized(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What the network eats: float32, channels last in memory."""
    offset, scale = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (mean, std))
    return ((pixels - offset) / scale).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(
    module: nn.Module, pixels: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> float:
    """Top-1 in float32."""
    parts = zip(pixels.split(500), labels.split(500), strict=True)
    right = sum(int((module(normalized(part, mean, std)).argmax(1) == wanted).sum()) for part, wanted in parts)
    return right / len(labels)


def save(module: nn.Module, out: Path) -> None:
    """Write the state dict as safetensors."""
    state = {key: np.ascontiguousarray(value.detach().cpu().numpy()) for key, value in module.state_dict().items()}
    with atomic_file(out) as temporary:
        temporary.write_bytes(to_safetensors(state))


def _keep(path: Path, epochs: int, module: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    state = {"epochs": epochs, "settings": vars(settings), "module": module.state_dict(),
             "optimizer": optimizer.state_dict()}  # fmt: skip
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, say: Say) -> int:
    """Epochs that are done already; raises SystemExit where they were done with other settings."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != vars(settings):
        raise SystemExit(f"{path} was begun with {state['settings']}: use the same settings, or remove it")
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    say(f"going on after epoch {state['epochs']}")
    return int(state["epochs"])


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
