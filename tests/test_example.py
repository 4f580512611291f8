"""The baseline of ``examples/``: it learns, writes a checkpoint, and predicts a layer that the accessor treats as any.

The paper's U-Net comes from segmentation-models-pytorch, where that is installed; else its test is skipped, while the
small network goes through the same code.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import xarray as xr

import cloudsen12_cube as c12
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.testing import ArchiveOptions, make_archive

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_unet.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_unet", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_unet"] = module
    spec.loader.exec_module(module)
    return module


def test_it_learns_and_predicts_back(example: ModuleType, cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    settings = example.Settings(model="small", target="fmask", batch_size=5, epochs=16, device="cpu")
    curve = example.train(tree, tmp_path / "small.pt", settings)
    assert curve[-1] < 0.7 * curve[0]
    assert example.predict(tree, str(tmp_path / "small.pt"), tmp_path / "small.zarr", settings, None) == 20
    both = tree.cloudsen12.with_layer(tmp_path / "small.zarr").cloudsen12
    found, expected = both.classes("small"), both.classes("fmask")
    assert found.dims == expected.dims
    assert (found != 255).all()
    majority = np.bincount(expected.values.ravel(), minlength=256)[:4].max() / expected.size
    assert float((found == expected).mean()) > majority


def test_the_command(example: ModuleType, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, layer = tmp_path / "m.pt", tmp_path / "m.zarr"
    common = [str(cube), str(checkpoint), "--model", "small", "--batch-size", "4", "--device", "cpu"]
    for task, *more in (["train", "--epochs", "1", "--target", "fmask"], ["predict", str(layer), "--split", "test"]):
        monkeypatch.setattr(sys, "argv", ["train_unet.py", task, *common[:2], *more, *common[2:]])
        example.main()
    tree = c12.open_cube(cube)
    codes, test = tree.cloudsen12.with_layer(layer).cloudsen12.classes("m").values, (tree["split"] == "test").values
    assert (codes[test] != 255).all()
    assert (codes[~test] == 255).all()


def small(example: ModuleType, **changes: Any) -> Any:
    return example.Settings(
        **{"model": "small", "target": "fmask", "batch_size": 2, "epochs": 1, "device": "cpu"} | changes
    )


def without_labels(path: Path, layer: str, rois: int = 3, **options: Any) -> xr.DataTree:
    """Convert an archive in which every pixel of a layer is unlabelled, and no patch has scribbles."""
    root = make_archive(path / "a", rois=rois, options=ArchiveOptions(size=32, label_types=("high",), **options))
    for file in root.glob(f"*/*/*/labels/{layer}.tif"):
        with rasterio.open(file, "r+") as image:
            image.write(np.full(image.shape, 255, image.dtypes[0]), 1)
    for file in root.glob("*/*/*/labels/manual_sc.tif"):
        file.unlink()
    c12.convert(root, path / "c.zarr", ["s2l1c", "labels"])
    return c12.open_cube(path / "c.zarr")


def test_a_training_without_labels_is_an_error(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, checkpoint = without_labels(tmp_path, "fmask"), tmp_path / "m.pt"
    with pytest.raises(example.TrainingError, match=r"no labelled pixel in \d batches of training"):
        example.train(tree, checkpoint, small(example))
    with pytest.raises(example.TrainingError, match=r"no labelled pixel in 0 batches of training"):
        example.train(tree, checkpoint, small(example, target="sen2cor", batch_size=99))
    with pytest.raises(SelectionError, match="has a label in manual_sc"):
        example.train(tree, checkpoint, small(example, target="manual_sc"))
    with pytest.raises(example.TrainingError, match="epochs is 0"):
        example.train(tree, checkpoint, small(example, epochs=0))
    for target in ("fmask", "manual_sc"):
        words = ["train_unet.py", "train", str(tmp_path / "c.zarr"), str(checkpoint), "--model", "small"]
        monkeypatch.setattr(sys, "argv", [*words, "--target", target, "--batch-size", "2", "--device", "cpu"])
        with pytest.raises(SystemExit, match="label"):
            example.main()
    assert not list(tmp_path.glob("m.pt*"))


def test_unlabelled_batches_are_left_out(example: ModuleType) -> None:
    model = example.make_model("small")
    rows = [{"pixels": torch.ones(1, 13, 8, 8), "target": torch.full((1, 8, 8), code)} for code in (255, 1, 255, 2)]
    optimizer = torch.optim.Adam(model.parameters())
    assert np.isfinite(example.mean_loss(model, rows, "cpu", optimizer))
    assert all(bool(torch.isfinite(weights).all()) for weights in model.parameters())


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_not_finite_is_an_error(
    example: ModuleType, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    real, calls = example.mean_loss, []

    def poisoned(model: Any, *arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 2 * epoch + 1:
            with torch.no_grad():
                next(model.parameters()).fill_(float("inf"))
        return float(real(model, *arguments))

    monkeypatch.setattr(example, "mean_loss", poisoned)
    with pytest.raises(example.TrainingError, match="the loss is nan"):
        example.train(c12.open_cube(cube), tmp_path / "m.pt", small(example, epochs=3))
    assert not (tmp_path / "m.pt").exists()
    assert (tmp_path / "m.pt.part").exists() == (epoch > 0)


def test_without_a_validation_split_rois_of_the_training_split_validate(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_archive(tmp_path / "a", rois=5, options=ArchiveOptions(size=16, label_types=("high",)))
    table = pd.read_csv(root / "cloudsen12_metadata.csv", dtype=str, keep_default_na=False)
    table["test"] = (table["roi_id"] == table["roi_id"].max()).astype(int)  # as in v1.0
    table.to_csv(root / "cloudsen12_metadata.csv", index=False)
    c12.convert(root, tmp_path / "c.zarr", ["s2l1c", "labels"])
    tree = c12.open_cube(tmp_path / "c.zarr")
    train = set(tree["roi"].values[tree["split"].values == "train"])
    assert len(train) == 4
    drawn = set()
    for seed in range(6):
        parts = example.datasets(tree, small(example, target="manual_hq", seed=seed))
        rois = {name: set(stream.stream.patches["roi"]) for name, stream in parts.items()}
        assert rois["train"] | rois["validation"] == train
        assert not rois["train"] & rois["validation"]
        assert len(rois["validation"]) == 1
        again = example.datasets(tree, small(example, target="manual_hq", seed=seed))["validation"].stream.patches
        assert set(again["roi"]) == rois["validation"]
        assert not parts["validation"].stream.options.shuffle
        assert f"1 of 4 training ROIs, drawn by seed {seed}," in capsys.readouterr().out
        drawn |= rois["validation"]
    assert len(drawn) > 1
    one = tree.cloudsen12.query(roi=min(train))
    with pytest.raises(example.TrainingError, match="no validation split and 1 training ROIs"):
        example.datasets(one, small(example, target="manual_hq"))


class Position(torch.nn.Module):
    """A model whose class is the position of a pixel in the batch, modulo 4."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(pixels.shape[2])[:, None] + torch.arange(pixels.shape[3])
        return torch.nn.functional.one_hot(rows % 4, 4).permute(2, 0, 1).float().expand(len(pixels), 4, *rows.shape)


@pytest.mark.parametrize(
    ("checkpoint", "before"),
    [
        ({"state_dict": {}, "model": "small", "pad_at": "both"}, 8),
        ({"state_dict": {}, "model": "small", "pad_at": "end"}, 0),
        ({"state_dict": {}, "model": "small"}, 0),
        ({}, 8),
    ],
)
def test_predictions_are_cut_as_the_checkpoint_was_padded(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: dict[str, Any], before: int
) -> None:
    root = make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=48))
    c12.convert(root, tmp_path / "c.zarr", ["s2l1c"])
    tree = c12.open_cube(tmp_path / "c.zarr")
    monkeypatch.setattr(example, "make_model", lambda _: Position())
    torch.save(checkpoint, tmp_path / "m.pt")
    example.predict(tree, str(tmp_path / "m.pt"), tmp_path / "m.zarr", small(example), None)
    found = tree.cloudsen12.with_layer(tmp_path / "m.zarr").cloudsen12.classes("m").values
    rows = np.arange(before, before + 48)
    np.testing.assert_array_equal(found[0], np.broadcast_to((rows[:, None] + rows) % 4, found[0].shape))


def test_a_checkpoint_records_the_padding(example: ModuleType, cube: Path, tmp_path: Path) -> None:
    example.train(c12.open_cube(cube), tmp_path / "m.pt", small(example))
    assert torch.load(tmp_path / "m.pt", weights_only=True)["pad_at"] == "both"
    assert example.load_weights(example.make_model("small"), str(tmp_path / "m.pt")) == "both"
    assert not (tmp_path / "m.pt.part").exists()


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_of_other_packages_load(example: ModuleType, tmp_path: Path, prefix: str, wrapped: bool) -> None:
    """As cloudsen12_models stores them: bare, or as a state_dict whose keys begin with ``model.``."""
    source, target = example.make_model("small"), example.make_model("small")
    weights = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "w.pt")
    assert example.load_weights(target, str(tmp_path / "w.pt")) == ("end" if wrapped and not prefix else "both")
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


@pytest.mark.skipif(
    not importlib.util.find_spec("segmentation_models_pytorch"), reason="the U-Net's package is optional"
)
def test_the_papers_network(example: ModuleType, cube: Path, tmp_path: Path) -> None:
    settings = example.Settings(target="fmask", batch_size=2, epochs=2, device="cpu", crop=32)
    curve = example.train(c12.open_cube(cube), tmp_path / "unet.pt", settings)
    assert len(curve) == 2
    assert curve[1] < curve[0]
