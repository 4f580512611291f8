"""Train the paper's cloud detector from a cube, and predict a label layer back.

    python examples/train_unet.py train   CUBE unet.pt
    python examples/train_unet.py predict CUBE unet.pt unet.zarr --split test

The setup is that of the paper, Aybar et al. 2022: U-Net with a MobileNetV2 encoder on the 13 bands of Sentinel-2 L1C in
reflectance, Adam with 1e-3, batches of 32, cross-entropy without the unlabelled pixels, a tenth of the learning rate
after four epochs without a better validation loss, the end after ten. The patches of 509 pixels are reflected to 512,
one row and column before and two after, as in the authors' code. Their notebook differs from the paper: AdamW, 50
epochs, 16-bit floats, the padding counts in the loss, and 816 of its 903 validation patches are in its training set.
Here no ROI is in both: the published validation split is used or, if the cube has none (metadata v1.0), a tenth of the
training ROIs, drawn by the seed.

The weights of the best epoch are in CHECKPOINT.part until the training ends, then in CHECKPOINT. A training without
labelled pixels, or whose loss is not finite, ends with an error and leaves no CHECKPOINT.

It needs ``pip install 'cloudsen12-cube[torch]' segmentation-models-pytorch``; the second gives the U-Net. With
``--model small`` a network of three layers takes its place, which learns on any processor in seconds. A file of weights
of the package ``cloudsen12_models`` (UNetMobV2_V1.pt, UNetMobV2_V2.pt, cloudsen12.pt) can be given to ``predict``, and
to ``train`` with ``--weights``, to go on from.

On a GPU the threads of the stream decode while it computes; ``stream(...).explain()`` tells whether they keep up.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.predictions import Predicted, write_layer
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.training import TorchStream, loader
from cloudsen12_cube.training.transform import PadAt

PAD_AT: PadAt = "both"  # one row and column before, two after
INPUTS: dict[str, list[str] | None] = {"s2l1c": None}
SCALE = 1e-4  # reflectance of 1; the stored integers are copied to the GPU, in half the bytes of floats
UNLABELLED = 255
VALIDATION_SHARE = 0.1  # of the training ROIs, where the cube has no validation split
STALE, PATIENCE = 4, 10  # epochs without a better validation loss, until the rate drops and until the end


@dataclass(frozen=True)
class Settings:
    """Settings of a training."""

    model: str = "unet"
    weights: str | None = None
    target: str = "manual_hq"
    batch_size: int = 32
    epochs: int = 1000
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    crop: int | None = None


def make_model(name: str) -> nn.Module:
    """Create a network from 13 bands to 4 classes."""
    if name == "unet":
        import segmentation_models_pytorch as smp

        return smp.Unet("mobilenet_v2", encoder_weights=None, in_channels=13, classes=4)
    layers = [nn.Conv2d(13, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)]
    return nn.Sequential(*layers)


class TrainingError(Exception):
    """A training that cannot give weights."""


def load_weights(model: nn.Module, path: str) -> PadAt:
    """Load a checkpoint of this script, or a file of ``cloudsen12_models``, whose keys may begin with ``model.``.

    Returns
    -------
    {"both", "end"}
        Where the patches were padded in training. Checkpoints of this script without a record are of the time before
        there was a choice: ``end``. The authors' weights are for ``both``.
    """
    checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    of_authors = state is checkpoint or any(key.startswith("model.") for key in state)
    return checkpoint.get("pad_at", "both" if of_authors else "end")


def dataset(cube: xr.DataTree, settings: Settings, split: str, training: bool) -> TorchStream:
    """Stream a split: augmented and shuffled for training, in order and uncropped otherwise."""
    options = c12.StreamOptions(
        crop=settings.crop if training else None,
        pad=32,
        pad_at=PAD_AT,
        augment=training,
        shuffle=training,
        last="drop" if training else "keep",
    )
    stream: TorchStream = cube.cloudsen12.torch_dataset(
        INPUTS, settings.target, split, settings.batch_size, settings.seed, options
    )
    return stream


def datasets(cube: xr.DataTree, settings: Settings) -> dict[str, TorchStream]:
    """Stream the training and the validation patches; without a validation split, draw a tenth of the training ROIs."""
    if (cube["split"] == "validation").any():
        return {split: dataset(cube, settings, split, split == "train") for split in ("train", "validation")}
    rois = sorted(set(dataset(cube, settings, "train", True).stream.patches["roi"]))
    if len(rois) < 2:
        raise TrainingError(f"the cube has no validation split and {len(rois)} training ROIs: two are needed")
    count = max(1, round(VALIDATION_SHARE * len(rois)))
    drawn = set(np.random.default_rng(settings.seed).permutation(rois)[:count].tolist())
    print(
        f"no validation split, as in metadata v1.0: {count} of {len(rois)} training ROIs, drawn by seed "
        f"{settings.seed}, are for validation",
        flush=True,
    )
    parts = {"train": [roi for roi in rois if roi not in drawn], "validation": sorted(drawn)}
    chosen = {name: cube.cloudsen12.query(roi=part) for name, part in parts.items()}
    return {name: dataset(part, settings, "train", name == "train") for name, part in chosen.items()}


def mean_loss(model: nn.Module, batches: Any, device: str, optimizer: torch.optim.Optimizer | None = None) -> float:
    """Run one epoch, training if there is an optimizer; return the mean loss of the batches with labelled pixels.

    Raises
    ------
    TrainingError
        If no batch has a labelled pixel, or a loss is not finite.
    """
    model.train(optimizer is not None)
    criterion = nn.CrossEntropyLoss(ignore_index=UNLABELLED)
    values = []
    for batch in batches:
        pixels = batch["pixels"].to(device, non_blocking=True).float() * SCALE
        target = batch["target"].to(device, non_blocking=True).long()
        if (target == UNLABELLED).all():  # the mean over no pixel is not a number
            continue
        with torch.set_grad_enabled(optimizer is not None):
            loss = criterion(model(pixels), target)
        values.append(loss.item())
        if not math.isfinite(values[-1]):
            raise TrainingError(f"the loss is {values[-1]}: begin with other weights, or lower the learning rate")
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    if not values:
        raise TrainingError(
            f"no labelled pixel in {len(batches)} batches of {'training' if optimizer else 'validation'}: give another "
            "--target, or a --batch-size that is not larger than the number of patches"
        )
    return float(np.mean(values))


def train(cube: xr.DataTree, checkpoint: Path, settings: Settings) -> list[float]:
    """Train, and keep the weights of the best epoch in a checkpoint.

    Returns
    -------
    list of float
        Mean training loss of each epoch.

    Raises
    ------
    TrainingError
        If there are no labelled pixels, or a loss is not finite; there is no checkpoint then.
    """
    if settings.epochs < 1:
        raise TrainingError(f"epochs is {settings.epochs}: give 1 or more")
    torch.manual_seed(settings.seed)
    model = make_model(settings.model).to(settings.device)
    if settings.weights:
        load_weights(model, settings.weights)
    pinned = settings.device.startswith("cuda")
    parts = {name: loader(stream, pin_memory=pinned) for name, stream in datasets(cube, settings).items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=STALE)
    best, stale, curve = float("inf"), 0, []
    part = checkpoint.with_name(f"{checkpoint.name}.part")
    for epoch in range(settings.epochs):
        curve.append(mean_loss(model, parts["train"], settings.device, optimizer))
        validation = mean_loss(model, parts["validation"], settings.device)
        scheduler.step(validation)
        print(f"epoch {epoch}: training loss {curve[-1]:.4f}, validation loss {validation:.4f}", flush=True)
        stale = 0 if validation < best else stale + 1
        if validation < best:
            best = validation
            torch.save({"state_dict": model.state_dict(), "model": settings.model, "pad_at": PAD_AT}, part)
        if stale >= PATIENCE:
            break
    os.replace(part, checkpoint)
    return curve


def predictions(
    cube: xr.DataTree, model: nn.Module, settings: Settings, split: str | None, pad_at: PadAt
) -> Iterator[Predicted]:
    """Predict the classes of every patch of a split, in order, without the padding."""
    options = c12.StreamOptions(pad=32, pad_at=pad_at, shuffle=False)
    stream = cube.cloudsen12.torch_dataset(INPUTS, None, split, settings.batch_size, options=options)
    rows, columns = stream.stream.inner
    model.eval()
    for batch in loader(stream):
        with torch.inference_mode():
            pixels = batch["pixels"].to(settings.device).float() * SCALE
            codes = model(pixels).argmax(1).to(torch.uint8).cpu().numpy()
        yield batch["roi"], batch["time"].tolist(), codes[:, rows, columns]


def predict(cube: xr.DataTree, weights: str, layer: Path, settings: Settings, split: str | None) -> int:
    """Predict a cube's patches, and write them as a label layer named after the file."""
    model = make_model(settings.model).to(settings.device)
    pad_at = load_weights(model, weights)
    return write_layer(cube, layer, layer.stem, predictions(cube, model, settings, split, pad_at))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "predict"))
    parser.add_argument("cube")
    parser.add_argument("checkpoint", type=Path, help="weights to write, or to predict with")
    parser.add_argument("layer", type=Path, nargs="?", help="store of the predicted layer, such as unet.zarr")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="predict this one only")
    parser.add_argument("--model", choices=("unet", "small"), default="unet")
    parser.add_argument("--weights", help="weights to begin with")
    parser.add_argument("--target", default="manual_hq", help="label layer to learn")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--device", default=Settings.device)
    given = parser.parse_args()
    options = {"batch_size": given.batch_size, "epochs": given.epochs, "device": given.device}
    settings = Settings(given.model, given.weights, given.target, **options)
    cube = c12.open_cube(given.cube)
    if given.task == "train":
        try:
            train(cube, given.checkpoint, settings)
        except (TrainingError, SelectionError) as error:
            sys.exit(f"{parser.prog}: {error}")
    elif given.layer is None:
        parser.error("predict needs the place of the layer")
    else:
        count = predict(cube, str(given.checkpoint), given.layer, settings, given.split)
        print(f"{count} patches predicted into {given.layer}")


if __name__ == "__main__":
    main()
