"""The baseline of ``examples/``: it learns, writes a checkpoint, and predicts a layer that the accessor treats as any.

The paper's U-Net comes from segmentation-models-pytorch, where that is installed; else its test is skipped, while the
small network goes through the same code.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import cloudsen12_cube as c12

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
    settings = example.Settings(model="small", target="fmask", batch_size=5, epochs=8, device="cpu")
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


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_of_other_packages_load(example: ModuleType, tmp_path: Path, prefix: str, wrapped: bool) -> None:
    """As cloudsen12_models stores them: bare, or as a state_dict whose keys begin with ``model.``."""
    source, target = example.make_model("small"), example.make_model("small")
    weights = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "w.pt")
    example.load_weights(target, str(tmp_path / "w.pt"))
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
