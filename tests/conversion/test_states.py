"""Any sequence of conversions, kills, damage, repair and growth, against a dictionary that says what comes of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import ONE, PRODUCTS, SMALL, Killed, Pixels, contents, dying, shown
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import cloudsen12_cube as c12
from cloudsen12_cube.testing import make_archive

Shard = tuple[str, str]
"""(product, roi)"""

_ROIS = 3
_PICK = st.integers(0, 10**6)
_SETTINGS = settings(
    max_examples=6,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),  # a life takes seconds: to shrink one takes minutes
    suppress_health_check=list(HealthCheck),
)
_TABLE = "cloudsen12_metadata.csv"


class Life(RuleBasedStateMachine):
    """A cube and its archive; ``cube`` is the model: shard -> status by image, None where nothing is committed."""

    base: Path
    truth: Pixels

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.place, self.source = self.folder / "c.zarr", self.folder / "archive"
        self.cube: dict[Shard, dict[str, int] | None] = {}
        self.rotten: set[Shard] = set()
        self.damaged: set[tuple[str, str]] = set()
        self.known: set[str] = set()
        self.images: dict[str, list[str]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        """The middle ROI is there from the start, the others arrive later: one in front, one behind."""
        shutil.copytree(self.base, self.source)
        self.lines = (self.source / _TABLE).read_text().splitlines(keepends=True)
        for _, roi, image in self.truth:
            if image not in self.images.setdefault(roi, []):
                self.images[roi].append(image)
        rois = c12.plan(self.source).order
        self.coming = [rois[2], rois[0]]
        for roi in self.coming:
            shutil.move(next(self.source.glob(f"*/{roi}")), self.folder / roi)
        self._reveal(rois[1])

    def _reveal(self, roi: str) -> None:
        self.known.add(roi)
        rows = [line for line in self.lines[1:] if any(known in line.split(",") for known in self.known)]
        (self.source / _TABLE).write_text("".join([self.lines[0], *rows]))
        self.cube |= {(product, roi): None for product in PRODUCTS}

    def _wanted(self, shard: Shard) -> dict[str, int]:
        product, roi = shard
        bad = {image for of, image in self.damaged if of == roi and product == "s1"}
        return {image: 2 if image in bad else 1 for image in self.images[roi]}

    def _made_by_a_run(self, shard: Shard, repair: bool = False) -> bool:
        state = self.cube[shard]
        return state is None or 2 in state.values() or (repair and (shard in self.rotten or self._changed(shard)))

    def _changed(self, shard: Shard) -> bool:
        """A finished patch whose file was emptied."""
        return shard[0] == "s1" and any(roi == shard[1] for roi, _ in self.damaged)

    def _run(self, options: c12.Options, share: set[str]) -> None:
        report = c12.convert(self.source, self.place, PRODUCTS, options=options)
        made = [s for s in self.cube if s[1] in share and self._made_by_a_run(s, options.repair)]
        assert report.written == len(made)
        for shard in made:
            self.cube[shard] = self._wanted(shard)
            self.rotten.discard(shard)
        failed = sum(2 in (self.cube[s] or {}).values() for s in self.cube if s[1] in share)
        assert report.exit_code == (1 if failed else 0)

    @rule()
    def convert(self) -> None:
        self._run(ONE, self.known)
        assert c12.status(self.place).state == "final"

    @rule()
    def repair(self) -> None:
        self._run(c12.Options(workers=0, repair=True), self.known)
        assert not self.rotten

    @rule(count=st.integers(1, 3), pick=_PICK)
    def convert_part(self, count: int, pick: int) -> None:
        part = c12.Part(pick % count + 1, count)
        rois = sorted(self.known, key=lambda roi: int(roi[4:]))
        self._run(c12.Options(workers=0, part=part), set(part.of(rois)))

    @rule(step=st.integers(0, 25), torn=st.booleans(), repair=st.booleans())
    def kill(self, step: int, torn: bool, repair: bool) -> None:
        """Die early in what this run has to write; what was committed is told by the records."""
        with dying(step, torn), suppress(Killed):
            c12.convert(self.source, self.place, PRODUCTS, options=c12.Options(workers=0, repair=repair))
        for shard, before in self.cube.items():
            found = self._record(shard)
            if found != before:
                assert self._made_by_a_run(shard, repair)
                assert found in (None, self._wanted(shard))
                self.cube[shard] = found
            if found == self._wanted(shard) and repair and not self._differs(shard):
                self.rotten.discard(shard)
            if found is None:
                self.rotten.discard(shard)

    def _path(self, shard: Shard) -> Path:
        return self.place / shard[0] / shard[0] / "records" / f"{shard[1]}.json"

    def _record(self, shard: Shard) -> dict[str, int] | None:
        path = self._path(shard)
        if not path.exists():
            return None
        return {patch["s2_id_gee"]: patch["status"] for patch in json.loads(path.read_text())["patches"]}

    def _object(self, shard: Shard) -> Path:
        index = json.loads(self._path(shard).read_text())["index"]
        return self.place / shard[0] / shard[0] / f"c/{index}/0/0/0/0"

    def _differs(self, shard: Shard) -> bool:
        stated = json.loads(self._path(shard).read_text())["sha256"]
        path = self._object(shard)
        return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest() != stated

    @precondition(lambda self: self.coming)
    @rule()
    def append(self) -> None:
        roi = self.coming.pop()
        kind = next(p.parent.name for p in self.base.glob(f"*/{roi}"))
        (self.source / kind).mkdir(exist_ok=True)
        shutil.move(self.folder / roi, self.source / kind / roi)
        self._reveal(roi)

    @rule(pick=_PICK)
    def damage_a_source(self, pick: int) -> None:
        roi, image = self._some(sorted((roi, image) for roi in self.known for image in self.images[roi]), pick)
        next(self.source.glob(f"*/{roi}/{image}/S1.tif")).write_bytes(b"")
        self.damaged.add((roi, image))

    @precondition(lambda self: self.damaged)
    @rule(pick=_PICK)
    def mend_a_source(self, pick: int) -> None:
        roi, image = self._some(sorted(self.damaged), pick)
        whole = next(self.base.glob(f"*/{roi}/{image}/S1.tif"))
        next(self.source.glob(f"*/{roi}/{image}/S1.tif")).write_bytes(whole.read_bytes())
        self.damaged.discard((roi, image))

    @rule(pick=_PICK)
    def damage_a_shard(self, pick: int) -> None:
        there = [s for s in sorted(self.cube) if self.cube[s] and s not in self.rotten and self._object(s).exists()]
        if there:
            shard = self._some(there, pick)
            path = self._object(shard)
            data = bytearray(path.read_bytes())
            data[pick % len(data)] ^= 1 << pick % 8
            path.write_bytes(data)
            self.rotten.add(shard)

    @staticmethod
    def _some(choices: list[Any], pick: int) -> Any:
        return choices[pick % len(choices)]

    @precondition(lambda self: self._readable())
    @rule()
    def verify(self) -> None:
        """What the catalogue has, is either right, or rotten, or was never converted."""
        result = c12.verify(self.place)
        named = {tuple(text.split(":")[0].split(" of ")) for text in result.differences}
        in_it = set(c12.open_cube(self.place).to_dataset()["roi"].values)
        assert named == {s for s in self.cube if s[1] in in_it and (self.cube[s] is None or s in self.rotten)}

    @precondition(lambda self: self._readable())
    @rule()
    def finalise(self) -> None:
        found = c12.finalise(self.place)
        rois = set(c12.open_cube(self.place).to_dataset()["roi"].values)
        assert set(found.missing) == {s for s in self.cube if s[1] in rois and self.cube[s] is None}
        status = {p: c12.open_cube(self.place)[p].to_dataset() for p in PRODUCTS}
        for shard in self.cube:
            if shard[1] in rois:
                images = status[shard[0]].sel(roi=shard[1])
                told = dict(zip(images["s2_id_gee"].values.tolist(), images["status"].values.tolist(), strict=True))
                assert told == (self.cube[shard] or dict.fromkeys(self.images[shard[1]], 0))

    def _readable(self) -> bool:
        try:
            c12.open_cube(self.place)
        except c12.CubeError:
            return False
        return True

    @precondition(lambda self: not self.rotten)
    @invariant()
    def nothing_but_the_truth_is_shown(self) -> None:
        for key, pixels in shown(self.place).items():
            np.testing.assert_array_equal(pixels, self.truth[key])

    @invariant()
    def what_has_rotted_raises(self) -> None:
        tree = c12.open_cube(self.place) if self.rotten and self._readable() else {}
        for product, roi in self.rotten if tree else ():
            if roi in tree[product]["roi"].values:
                with pytest.raises((ValueError, RuntimeError)):
                    tree[product].to_dataset()[product].sel(roi=roi).load()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_archive(tmp_path_factory.mktemp("base"), rois=_ROIS, seed=3, options=SMALL)
    for path in root.rglob("*.tif"):
        if path.parent.name == "extra" or path.stem.startswith(("S2", "thumb")):
            path.unlink()
    return root


def test_lives(base: Path, tmp_path: Path) -> None:
    c12.convert(base, tmp_path / "c.zarr", PRODUCTS, options=ONE)
    Life.base, Life.truth = base, shown(tmp_path / "c.zarr")
    life: Any = Life
    run_state_machine_as_test(life, settings=_SETTINGS)


def test_the_model_is_not_blind(base: Path, tmp_path: Path) -> None:
    """The same bytes come of a life with everything in it as of none."""
    c12.convert(base, tmp_path / "b.zarr", PRODUCTS, options=ONE)
    Life.base, Life.truth = base, shown(tmp_path / "b.zarr")
    life = Life()
    life.begin()
    life.append()
    life.append()
    life.kill(3, True, False)
    life.damage_a_source(0)
    life.convert_part(2, 1)
    life.damage_a_shard(5)
    life.verify()
    life.mend_a_source(0)
    life.repair()
    life.nothing_but_the_truth_is_shown()
    c12.convert(life.source, tmp_path / "c.zarr", PRODUCTS, options=ONE)
    assert contents(life.place) == contents(tmp_path / "c.zarr")
    life.teardown()
