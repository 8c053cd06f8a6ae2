"""Trains the embedded small bottom-up HRNet on the synthetic crowd, on a CPU.

    python tools/train_synthetic_crowd.py --out src/sandglass/sources/cards/hrnet-ae-tiny-synthetic.safetensors

Draws the train split once and trains on its images shifted, scaled, turned and mirrored by chance: heatmaps by squared
error, tags by pulling those of a person together and pushing people apart (Newell et al., 2017), and by drawing people
to their places from left to right. The test split shares no figure with it, and nothing is chosen by its metrics. The
weights are stored in half precision. The schedule counts steps, so that a seed gives the same network on the same
software.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save as to_safetensors

from sandglass.core.files import atomic_file
from sandglass.datasets import synthetic_crowd
from sandglass.models import hrnet_ae
from sandglass.vision import coco17

ARGUMENTS = {"width": 16, "modules": [1, 1, 1], "blocks": 2, "stem_channels": 32}
SIZE = 192
GRID = SIZE // 4
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIGMA = 1.25
CENTRE = 2.0  # input pixels from a heatmap pixel's corner to where the decoder sees its middle
TAG_RANGE, DRAWN = 10.0, 0.1  # tags from one side of the image to the other, and the weight of their place
BATCH = 16
KEYPOINTS = len(coco17.NAMES)
Scene = tuple[np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=2600, help="length of the cosine schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster where other work runs beside it")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    with Pool(2) as pool:
        scenes = list(pool.imap(scene, range(arguments.images), chunksize=50))
    print(f"{len(scenes)} images drawn in {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    train(scenes, arguments.steps, arguments.seed, arguments.out)
    print(f"trained in {(time.perf_counter() - started) / 60:.1f} min", flush=True)


def scene(index: int) -> Scene:
    """An image, keypoints (P, 17, 3) of its people, and boxes (Q, 4) of those who are annotated without keypoints."""
    image, people = synthetic_crowd.render(index, "train", 0)
    told = [person["keypoints"] for person in people if person["num_keypoints"]]
    untold = [person["bbox"] for person in people if not person["num_keypoints"]]
    return image, np.array(told, np.float64).reshape(-1, KEYPOINTS, 3), np.array(untold, np.float64).reshape(-1, 4)


def augmented(scene: Scene, random: np.random.Generator) -> Scene:
    """A scene as the network gets it: letterboxed into SIZE, then moved by chance; pixels (3, SIZE, SIZE) float32."""
    image, joints, boxes = scene
    height, width = image.shape[:2]
    zoom = SIZE / max(height, width) * float(np.exp(random.normal(0, 0.12)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.normal(0, 6), zoom)
    matrix[:, 2] += SIZE / 2 - np.array([width, height]) / 2 + random.normal(0, 6, 2)
    picture = cv2.warpAffine(image, matrix, (SIZE, SIZE))
    joints = joints.copy()
    joints[..., :2] = joints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) @ matrix[:, :2].T + matrix[:, 2]
    if random.random() < 0.5:
        picture, joints = picture[:, ::-1], joints[:, coco17.FLIP_PAIRS]
        joints[..., 0], corners[..., 0] = SIZE - 1 - joints[..., 0], SIZE - 1 - corners[..., 0]
    colour = random.normal(1, 0.12, 3) * random.normal(1, 0.1)
    pixels = np.clip(picture * np.float32(colour) + np.float32(random.normal(0, 10)), 0, 255)
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1), joints, corners


def targets(joints: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heatmaps (17, GRID, GRID), where they count (GRID, GRID), and places (M, 4): person, keypoint, row, column."""
    places = (joints[..., :2] - CENTRE) / 4
    nearest = np.rint(places).astype(int)
    shown = (joints[..., 2] > 0) & (nearest >= 0).all(-1) & (nearest < GRID).all(-1)
    axis = np.arange(GRID, dtype=np.float32)
    gauss_x, gauss_y = (np.exp(-((axis - places[..., i, None]) ** 2) / (2 * SIGMA**2)) for i in (0, 1))
    each = gauss_y[..., :, None] * gauss_x[..., None, :] * shown[..., None, None]
    heatmaps = each.max(axis=0, initial=0).astype(np.float32)
    counts = np.ones((GRID, GRID), np.float32)
    for box in corners:
        (left, top), (right, bottom) = np.clip(np.rint([box.min(0), box.max(0)]) / 4, 0, GRID).astype(int)
        counts[top:bottom, left:right] = 0
    person, keypoint = np.nonzero(shown)
    x, y = nearest[shown].T
    return heatmaps, counts, np.stack([person, keypoint, y, x], axis=1)


def tag_loss(tags: torch.Tensor, places: list[np.ndarray]) -> torch.Tensor:
    """Distance of tags (B, 17, h, w) from their person's mean, and of the means from where they should be.

    People of an image push each other away, and each is drawn towards its place from left to right. Without that all
    tags stay equal for most of the training: equal ones push each other nowhere.
    """
    total = tags.new_zeros(())
    for image, found in zip(tags, places, strict=True):
        if not len(found):
            continue
        person, keypoint, y, x = torch.from_numpy(found).T
        _, person = torch.unique(person, return_inverse=True)
        values = image[keypoint, y, x]
        count = int(person.max()) + 1
        sizes = torch.bincount(person, minlength=count)
        means = torch.zeros(count).index_add(0, person, values) / sizes
        columns = torch.zeros(count).index_add(0, person, x.float()) / sizes
        pull = torch.zeros(count).index_add(0, person, (values - means[person]) ** 2) / sizes
        drawn = (means - TAG_RANGE * (columns / GRID - 0.5)) ** 2
        total = total + pull.mean() + DRAWN * drawn.mean()
        if count > 1:
            near = torch.exp(-((means[:, None] - means[None]) ** 2) / 2)
            total = total + 0.5 * (near.sum() - count) / (count * (count - 1))
    return total / len(places)


def train(scenes: list[Scene], steps: int, seed: int, out: Path) -> None:
    """AdamW with a warm-up and a cosine over `steps`."""
    random = np.random.default_rng(seed)
    module = hrnet_ae.build(**ARGUMENTS).train().to(memory_format=torch.channels_last)
    torch.nn.init.normal_(module.head.final_layer.weight, std=0.001)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-4)
    losses = []
    for step in range(1, steps + 1):
        rate = 3e-3 * min(1.0, step / 200) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        chosen = [augmented(scenes[i], random) for i in random.integers(len(scenes), size=BATCH)]
        heatmaps, counts, places = zip(*(targets(joints, corners) for _, joints, corners in chosen), strict=True)
        inputs = torch.from_numpy(np.stack([pixels for pixels, _, _ in chosen]))
        maps = module(inputs.to(memory_format=torch.channels_last))
        errors = (maps[:, :KEYPOINTS] - torch.from_numpy(np.stack(heatmaps))) ** 2
        heat = (errors * torch.from_numpy(np.stack(counts))[:, None]).mean() * 1000
        tags = tag_loss(maps[:, KEYPOINTS:], list(places))
        optimizer.zero_grad()
        (heat + tags).backward()
        optimizer.step()
        losses.append((heat.item(), tags.item()))
        if step % 200 == 0 or step == steps:
            heat_mean, tag_mean = np.mean(losses[-200:], axis=0)
            print(f"step {step} of {steps}  heatmaps {heat_mean:.3f}  tags {tag_mean:.4f}", flush=True)
            save(module, out)


def save(module: torch.nn.Module, out: Path) -> None:
    """Write the state dict as safetensors, floats in half precision."""
    state = {key: value.detach().contiguous().numpy() for key, value in module.state_dict().items()}
    halves = {key: value.astype(np.float16) if value.dtype.kind == "f" else value for key, value in state.items()}
    with atomic_file(out) as temporary:
        temporary.write_bytes(to_safetensors(halves))


if __name__ == "__main__":
    main()
