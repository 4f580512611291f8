"""Draw the picture of the modules: ``python docs/modules.py`` writes ``docs/modules.svg``."""

from __future__ import annotations

from pathlib import Path

STAGES: tuple[tuple[str, str, str], ...] = (
    ("words", "bands, classes, properties, errors", "assets classes properties errors redact header"),
    ("forms", "how each published form is read", "form form_tif form_dat form_taco taco padding"),
    ("archive", "where a file lies, and its pixels", "listing archive metadata raster grid tif_folder access fetch"),
    ("catalogue", "one row a patch; conditions on it", "catalogue conditions split"),
    ("plan", "the shards to make", "plan plan_document place share"),
    ("read, encode", "a patch checked, a shard's bytes", "patch shard layout codec"),
    ("commit", "objects, whole or not at all", "sink record tables store bucket lease patient"),
    (
        "convert",
        "each missing shard, once",
        "convert options opening cube changes accept tally workers cluster finalise report "
        "origin resharding shared reshard",
    ),
    ("subset", "shards from cube to cube", "subset excerpt preview target copying cut provenance"),
    ("check", "the cube equals its archive", "verify verify_metadata verify_cube status info costs"),
    (
        "open",
        "lazily, from a disk or a bucket",
        "reader backend lazy clients client_fsspec client_obstore ranges remote_store chunks patches virtual "
        "virtual_array virtual_chunks planes",
    ),
    (
        "view",
        "classes, masks, queries, one patch",
        "accessor array_accessor labels class_view query reflectance patch_view cog footprints rowwise",
    ),
    ("look", "pictures and pages", "picture plot plot_accessor plot_evaluation html gallery browse stac stac_items"),
    ("leave", "a cube as an archive again", "export export_shard export_folder export_note metadata_csv"),
    (
        "train",
        "batches, statistics, predictions",
        "stream stream_inputs stream_weights samples recipe cutout pipeline explain torch_stream census statistics "
        "prediction",
    ),
    ("evaluate", "counts that add, table 6", "confusion counting evaluation accuracy table_six"),
    ("ends", "the command line, a small archive", "cli arguments terminal demo testing testing_metadata scene"),
)
"""Stage, its idea, its modules, in the order of the data."""

PACKAGE = Path(__file__).resolve().parents[1] / "cloudsen12_cube"
_WIDTH, _LEFT, _RIGHT, _LINE, _CHIP, _LETTER = 900, 268, 884, 30, 22, 7.0


def modules() -> dict[str, list[str]]:
    """Stage -> its modules, of those that there are."""
    return {stage: [n for n in names.split() if (PACKAGE / f"{n}.py").exists()] for stage, _, names in STAGES}


def picture() -> str:
    """Draw it."""
    there, ideas = modules(), {stage: idea for stage, idea, _ in STAGES}
    parts, y = [], 16.0
    for number, (stage, names) in enumerate(there.items()):
        rows = _rows(names)
        height = len(rows) * _LINE + 14
        parts.append(f'<rect class="band{number % 2}" x="0" y="{y:g}" width="{_WIDTH}" height="{height}"/>')
        parts.append(f'<text class="stage" x="34" y="{y + 20:g}">{stage}</text>')
        parts.append(f'<text class="idea" x="34" y="{y + 36:g}">{ideas[stage]}</text>')
        parts.append(f'<circle cx="16" cy="{y + 16:g}" r="4"/>')
        for row, chips in enumerate(rows):
            parts += [_chip(name, x, y + 10 + row * _LINE) for name, x in chips]
        y += height
    line = f'<path class="flow" d="M16 32V{y - 28:g}"/>'
    size = f'viewBox="0 0 {_WIDTH} {y + 16:g}" width="{_WIDTH}" height="{y + 16:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>Modules by stage</title>'
    ground = f'<rect class="ground" width="{_WIDTH}" height="{y + 16:g}"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", ground, *_ordered(parts, line), "</svg>", ""])


def _ordered(parts: list[str], line: str) -> list[str]:
    """Put the bands behind the line, and all else before it."""
    bands = [part for part in parts if part.startswith('<rect class="band')]
    return [*bands, line, *(part for part in parts if part not in bands)]


def _rows(names: list[str]) -> list[list[tuple[str, float]]]:
    rows: list[list[tuple[str, float]]] = [[]]
    x = float(_LEFT)
    for name in names:
        width = _width(name)
        if x + width > _RIGHT:
            rows.append([])
            x = float(_LEFT)
        rows[-1].append((name, x))
        x += width + 8
    return rows


def _width(name: str) -> float:
    return len(name) * _LETTER + 18


def _chip(name: str, x: float, y: float) -> str:
    box = f'<rect class="chip" x="{x:g}" y="{y:g}" width="{_width(name):g}" height="{_CHIP}" rx="4"/>'
    return f'{box}<text class="name" x="{x + _width(name) / 2:g}" y="{y + 15:g}">{name}</text>'


_STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1d1d1f}"
    ".ground{fill:#fff}.band0{fill:#f4f4f2}.band1{fill:#fff}"
    ".stage{font-size:14px;font-weight:600}.idea{font-size:11.5px;fill:#6a6a6a}"
    ".chip{fill:#fff;stroke:#c9c9c6}.name{font:11.5px ui-monospace,Menlo,monospace;text-anchor:middle}"
    ".flow{stroke:#d55e00;stroke-width:2;fill:none}circle{fill:#d55e00}"
)

if __name__ == "__main__":
    Path(__file__).with_name("modules.svg").write_text(picture())
