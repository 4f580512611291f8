"""The command line as a user meets it: real processes, one line on failure, the right exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import COMMAND, failed, run
from conftest import SHARED, needs_shared
from rich.console import Console

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.cli.demo import demo
from cloudsen12_cube.cli.render import duration, make_console, show_report, size
from cloudsen12_cube.conversion.report import Report
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.format import Fault


def test_the_whole_way(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    planned = run("plan", archive, place, "--json", tmp_path / "plan.json", columns=60)
    assert planned.returncode == 0
    assert max(map(len, planned.stdout.splitlines())) <= 60
    assert json.loads((tmp_path / "plan.json").read_text())["totals"]["rois"] == 4
    assert not place.exists()
    done = run("convert", archive, place, "--products", "s2l1c,labels", "--workers", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 of 8 shards written" in done.stdout
    assert "0 of 8 shards written" in run("convert", archive, place, "--products", "s2l1c,labels").stdout
    assert run("verify", place, "--source", archive).returncode == 0
    assert json.loads(run("verify", place, "--json").stdout)["shards"] == 8
    told = run("info", place)
    assert "s2l1c" in told.stdout
    assert "high 10" in told.stdout
    assert json.loads(run("info", place, "--json").stdout)["patches"] == 20
    state = json.loads(run("status", place, "--json").stdout)
    assert [(row["product"], row["done"]) for row in state["products"]] == [("s2l1c", 20), ("labels", 20)]


def test_dry_run_and_conditions(archive: Path, tmp_path: Path) -> None:
    where = ["--where", "label_type=high", "--where", "difficulty<=3"]
    told = run("convert", archive, tmp_path / "c.zarr", "--dry-run", *where, "--bbox=-180,-90,180,90")
    assert told.returncode == 0
    assert "2 ROIs, 6 patches" in told.stdout
    assert not (tmp_path / "c.zarr").exists()


def test_errors_are_one_line(archive: Path, cube: Path, tmp_path: Path) -> None:
    new = tmp_path / "c.zarr"
    assert "does not exist" in failed(run("convert", tmp_path / "nothing", new))
    assert "no CloudSEN12 archive" in failed(run("convert", tmp_path, new))
    assert "selection is empty" in failed(run("convert", archive, new, "--where", "difficulty>5"))
    assert "unknown product 's9'" in failed(run("convert", archive, new, "--products", "s9"))
    assert "no property 'x'" in failed(run("plan", archive, new, "--where", "x=1"))
    assert "one worker needs" in failed(run("convert", archive, new, "--memory", "1MiB"))
    assert "no cube" in failed(run("info", tmp_path))
    assert "no cube" in failed(run("verify", tmp_path / "nothing"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("x")
    assert "holds something else" in failed(run("convert", archive, tmp_path / "mine"))
    assert "other products" in failed(run("convert", archive, cube, "--products", "s1"))


def test_usage_errors_exit_with_2(archive: Path) -> None:
    for arguments in (
        [],
        ["convert"],
        ["convert", archive, "c", "--bbox", "1,2"],
        ["plan", archive, "c", "--memory", "x"],
    ):
        result = run(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "2"], "'2' is not a size with its unit: write it as 2GiB or 500MiB"),
        (["--bbox", "5e5,4e6,6e5,4.1e6"], "give degrees of WGS 84, not metres of a projection"),
        (["--bbox", "-180,-90,-179.9,-89.9"], "the selection is empty: no patch of 20 has bbox -180.0,"),
        (["--where", "label_typ=high"], "no property 'label_typ'; did you mean 'label_type'?"),
        (["--where", "land_cover=Built up"], "land_cover has no class 'Built up'; did you mean 'Built-up'?"),
        (["--where", "land_cover=mangroves"], "land_cover has no value 'mangroves'; values here: 10 ("),
        (["-o", "anon=true"], "--storage-option is for URLs, and c is a path: leave the option out"),
    ],
)
def test_messages_name_the_value_and_the_way_out(archive: Path, arguments: list[str], message: str) -> None:
    result = run("plan", archive, "c", *arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["s3://bucket/c.zarr", "--client", "fsspec", "-o", "anno=true"],
            "no storage option 'anno' for s3://; did you mean 'anon'?",
        ),
        (["ftp://127.0.0.1:9/c.zarr"], "cannot be opened"),
        (["github://c.zarr"], "check the address and the storage options"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line(arguments: list[str], message: str) -> None:
    assert message in failed(run("info", *arguments))


def test_land_cover_is_selected_by_its_names(archive: Path) -> None:
    named = run("plan", archive, "c", "--where", "land_cover=tree cover|Shrubland")
    assert named.stdout == run("plan", archive, "c", "--where", "land_cover=10|20").stdout
    assert named.stdout == run("plan", archive, "c", "--where", "land_cover=10.0|2e1").stdout
    assert named.returncode == 0


def test_damage_is_one_line_a_table_and_exit_code_1(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    victim = sorted(source.rglob("labels/sen2cor.tif"))[0]
    victim.write_text("no tif")
    result = run("convert", source, tmp_path / "c.zarr")
    assert result.returncode == 1
    assert str(victim.relative_to(source)) in result.stderr
    assert "no TIFF" in result.stdout
    strict = run("convert", source, tmp_path / "d.zarr", "--strict")
    assert strict.returncode == 1
    assert len(strict.stderr.strip().splitlines()) == 1
    assert run("convert", source, tmp_path / "d.zarr").returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_rights_that_are_lacking(archive: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "no permission" in failed(run("convert", archive, tmp_path / "c.zarr"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system can be mounted by root alone")
    return place


def test_a_full_disk_is_told_and_resumed(archive: Path, tiny_disk: Path) -> None:
    try:
        assert "is full" in failed(run("convert", archive, tiny_disk / "c.zarr"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
        assert run("convert", archive, tiny_disk / "c.zarr").returncode == 0
        assert c12.verify(tiny_disk / "c.zarr", source=archive).exit_code == 0
    finally:
        subprocess.run(["umount", "-l", str(tiny_disk)], check=True)


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Run a command in this process, check its exit code, and give what it said on standard error."""
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as error:  # of the parser
        found = int(error.code or 0)
    said = capsys.readouterr().err
    assert found == code, said
    return said


def test_a_disk_that_may_only_be_read(archive: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root is not kept out by rights, but by the file system."""
    place, rest = tiny_disk / "c.zarr", ["--products", "s1", "--quiet"]
    try:
        subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
        told(capsys, 0, "convert", archive, place, *rest)
        subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
        assert told(capsys, 0, "convert", archive, place, *rest) == "", "nothing is to be written"
        told(capsys, 0, "status", place)
        told(capsys, 0, "verify", place)
        assert "no permission" in told(capsys, 2, "convert", archive, tiny_disk / "d.zarr", *rest)
        subprocess.run(["mount", "-o", "remount,rw", str(tiny_disk)], check=True)
        next(place.rglob("records/*")).unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
        assert "no permission" in told(capsys, 2, "convert", archive, place, *rest)
    finally:
        subprocess.run(["umount", "-l", str(tiny_disk)], check=True)


def test_parts_from_the_command_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    arguments = ["convert", str(archive), "c.zarr", "--products", "s1", "--workers", "0", "--part"]
    for part, code in (("2/2", 1), ("1/2", 0)):
        assert main([*arguments, part]) == 0
        assert f"part {part}: 2 of 2 shards written" in capsys.readouterr().out
        assert main(["finalise", "c.zarr"]) == code
        said = capsys.readouterr()
        assert max(map(len, said.out.splitlines())) <= 60
        assert len(said.err.splitlines()) == code
    told(capsys, 0, "status", "c.zarr", "--source", archive, "--checksum")


def test_what_is_wrong_with_options_is_told(
    archive: Path, cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "c.zarr"
    for part in ("0/3", "4/3", "a/b", ""):
        assert "is not a part" in told(capsys, 2, "convert", archive, new, "--part", part)
    assert "no cube" in told(capsys, 2, "finalise", tmp_path / "nothing")
    assert "without a part" in told(capsys, 2, "convert", archive, new, "--part", "1/2", "--repair")
    assert "cannot be read" in told(capsys, 2, "convert", archive, cube, "--accept", tmp_path / "nothing.json")
    assert "give a source" in told(capsys, 2, "status", cube, "--checksum")
    assert not new.exists()


def test_a_killed_run_is_continued(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    arguments = [*COMMAND, "convert", str(archive), str(place)]
    for records in (1, 4, 9):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(place.glob("*/*/records/*.json"))) < records:
            pass
        process.kill()
        process.wait()
    assert run("convert", archive, place).returncode == 0
    assert c12.verify(place, source=archive).exit_code == 0
    assert not [p for p in place.rglob("*") if p.name.endswith(".partial")]


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    c12.testing.make_archive(folder / "archive", rois=3, options=c12.testing.ArchiveOptions(size=64))
    assert main(["demo", str(folder), "--quiet"]) == 0
    assert "no differences" in capsys.readouterr().out
    assert (folder / "overview.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(DestinationError, match="a folder of its own"):
        demo(tmp_path / "full", Console())


def test_words_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**30, 2**41)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "2.0 TiB"]
    assert [duration(s) for s in (3, 150, 12_000)] == ["3 s", "2 min", "3 h 20 min"]


@needs_shared
def test_every_planted_fault_is_named_and_nothing_else_is_lost(tmp_path: Path) -> None:
    broken, place = tmp_path / "broken", tmp_path / "c.zarr"
    script = [sys.executable, str(SHARED / "break_archive.py"), str(SHARED / "archive_a"), str(broken)]
    subprocess.run(script, check=True, capture_output=True)
    planted = json.loads((broken / "faults.json").read_text())
    assert run("convert", broken, place).returncode == 1
    failures = json.loads((tmp_path / "c.zarr.failures.json").read_text())["failures"]
    told = {(f["roi_id"], f["s2_id_gee"]) for f in failures} | {f["path"] for f in failures}
    for fault in planted["faults"]:
        if "skipped" in fault:
            continue
        key = ("../../evil" if fault["name"] == "evil_roi_id" else fault["roi_id"], fault["s2_id_gee"])
        assert key in told or fault["path"] in told, fault
    result = c12.verify(place, source=broken)
    assert result.differences == ()
    for patch in planted["untouched"]:
        _, roi, image = patch.split("/")
        for product in ("s2l1c", "s2l2a", "s1", "extra", "labels"):
            images = c12.open_cube(place)[product].to_dataset().sel(roi=roi)
            assert images["status"].values[list(images["s2_id_gee"].values).index(image)] == 1


ESCAPES = "\x1b]0;title\x07\x1b[31m\u202e\u2028\n\rforged [bold]x[/] :smile: [/nothing]"


def test_nothing_unprintable_reaches_a_terminal(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What metadata and records say is printed as it is: no control sequence, no markup, no line of its own."""
    copy, place = Path(shutil.copytree(archive, tmp_path / "a")), tmp_path / "c.zarr"
    c12.convert(copy, place, ["s1"])
    path = next(place.glob("s1/s1/records/*.json"))
    record = json.loads(path.read_text())
    fault = {"s2_id_gee": "x", "product": "s1", "asset": "S1", "path": ESCAPES, "found": ESCAPES, "expected": ESCAPES}
    record["patches"][0] |= {"status": 2, "faults": [fault | {"roi_id": record["roi_id"]}]}
    path.write_text(json.dumps(record))
    assert main(["status", str(place)]) == 1
    table = copy / "cloudsen12_metadata.csv"
    text = table.read_text(encoding="utf-8")
    row = next(csv.DictReader(io.StringIO(text)))
    for name, code in (("s2_date", 2), ("s2_id_gee", 0)):
        table.write_text(text.replace(row[name], f'"{ESCAPES}"', 1), encoding="utf-8", newline="")
        assert main(["plan", str(copy), str(tmp_path / "x.zarr")]) == code
    shown = "".join(capsys.readouterr())
    assert [line for line in shown.split("\n") if not line.isprintable()] == []
    assert shown.count("\\x1b]0;title") >= 5
    assert not any(line.startswith("forged") for line in shown.split("\n"))


def test_a_table_prints_faults_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault("ROI_1", "x", "s1", "", ESCAPES, ESCAPES, "[/b]")
    show_report(make_console(), Report(1, 0, 1, 0, 1, 0, 10, (fault,)))
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "[/b]" in shown
