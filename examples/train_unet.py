"""Train the paper's cloud detector from a cube, and predict a label layer back.

    python examples/train_unet.py train   CUBE unet.pt
    python examples/train_unet.py predict CUBE unet.pt unet.zarr --split test

The setup is that of Aybar et al. 2022: U-Net with a MobileNetV2 encoder on the 13 bands of Sentinel-2 L1C in
reflectance, Adam with 1e-3, batches of 32, cross-entropy without the unlabelled pixels, a tenth of the learning rate
after four epochs without a better validation loss, the end after ten.

It needs ``pip install 'cloudsen12-cube[torch]' segmentation-models-pytorch``; the second gives the U-Net. With
``--model small`` a network of three layers takes its place, which learns on any processor in seconds. A file of weights
of the package ``cloudsen12_models`` (UNetMobV2_V1.pt, UNetMobV2_V2.pt, cloudsen12.pt) can be given to ``predict``, and
to ``train`` with ``--weights``, to go on from.

On a GPU the threads of the stream decode while it computes; ``stream(...).explain()`` tells whether they keep up.
"""

from __future__ import annotations

import argparse
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
from cloudsen12_cube.training import TorchStream, loader

INPUTS: dict[str, list[str] | None] = {"s2l1c": None}
SCALE = 1e-4  # reflectance of 1; the stored integers are copied to the GPU, in half the bytes of floats
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


def load_weights(model: nn.Module, path: str) -> None:
    """Load a checkpoint of this script, or a file of ``cloudsen12_models``, whose keys may begin with ``model.``."""
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})


def dataset(cube: xr.DataTree, settings: Settings, split: str) -> TorchStream:
    """Stream a split: augmented and shuffled for training, in order and uncropped otherwise."""
    training = split == "train"
    options = c12.StreamOptions(
        crop=settings.crop if training else None,
        pad=32,
        augment=training,
        shuffle=training,
        last="drop" if training else "keep",
    )
    stream: TorchStream = cube.cloudsen12.torch_dataset(
        INPUTS, settings.target, split, settings.batch_size, settings.seed, options
    )
    return stream


def losses(model: nn.Module, batches: Any, device: str, optimizer: torch.optim.Optimizer | None = None) -> list[float]:
    """Run one epoch, training if there is an optimizer; return the loss of every batch."""
    model.train(optimizer is not None)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    values = []
    for batch in batches:
        pixels = batch["pixels"].to(device, non_blocking=True).float() * SCALE
        target = batch["target"].to(device, non_blocking=True).long()
        with torch.set_grad_enabled(optimizer is not None):
            loss = criterion(model(pixels), target)
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        values.append(loss.item())
    return values


def train(cube: xr.DataTree, checkpoint: Path, settings: Settings) -> list[float]:
    """Train, and keep the weights of the best epoch in a checkpoint.

    Returns
    -------
    list of float
        Mean training loss of each epoch.
    """
    torch.manual_seed(settings.seed)
    model = make_model(settings.model).to(settings.device)
    if settings.weights:
        load_weights(model, settings.weights)
    pinned = settings.device.startswith("cuda")
    parts = {split: loader(dataset(cube, settings, split), pin_memory=pinned) for split in ("train", "validation")}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=STALE)
    best, stale, curve = float("inf"), 0, []
    for epoch in range(settings.epochs):
        curve.append(float(np.mean(losses(model, parts["train"], settings.device, optimizer))))
        validation = float(np.mean(losses(model, parts["validation"], settings.device)))
        scheduler.step(validation)
        print(f"epoch {epoch}: training loss {curve[-1]:.4f}, validation loss {validation:.4f}", flush=True)
        stale = 0 if validation < best else stale + 1
        if validation < best:
            best = validation
            torch.save({"state_dict": model.state_dict(), "model": settings.model}, checkpoint)
        if stale >= PATIENCE:
            break
    return curve


def predictions(cube: xr.DataTree, model: nn.Module, settings: Settings, split: str | None) -> Iterator[Predicted]:
    """Predict the classes of every patch of a split, in order, without the padding."""
    height, width = (cube["s2l1c"]["s2l1c"].sizes[dim] for dim in ("y", "x"))
    options = c12.StreamOptions(pad=32, shuffle=False)
    stream = cube.cloudsen12.torch_dataset(INPUTS, None, split, settings.batch_size, options=options)
    model.eval()
    for batch in loader(stream):
        with torch.inference_mode():
            pixels = batch["pixels"].to(settings.device).float() * SCALE
            codes = model(pixels).argmax(1).to(torch.uint8).cpu().numpy()
        yield batch["roi"], batch["time"].tolist(), codes[:, :height, :width]


def predict(cube: xr.DataTree, weights: str, layer: Path, settings: Settings, split: str | None) -> int:
    """Predict a cube's patches, and write them as a label layer named after the file."""
    model = make_model(settings.model).to(settings.device)
    load_weights(model, weights)
    return write_layer(cube, layer, layer.stem, predictions(cube, model, settings, split))


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
        train(cube, given.checkpoint, settings)
    elif given.layer is None:
        parser.error("predict needs the place of the layer")
    else:
        count = predict(cube, str(given.checkpoint), given.layer, settings, given.split)
        print(f"{count} patches predicted into {given.layer}")


if __name__ == "__main__":
    main()
