"""What a subset says of itself: the conversion that made its pixels, and what was taken out of what, step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from cloudsen12_cube import accept
from cloudsen12_cube.assets import files_of
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.excerpt import Excerpt
from cloudsen12_cube.redact import without_secrets

_MADE = ("layout_version", "tool", "created", "source", "metadata", "test_meaning")
"""Settings of the conversion that made the pixels."""


def settings_for(excerpt: Excerpt, times: int) -> dict[str, Any]:
    """Make the settings of a subset: those of its cube, and in ``subsets`` one step more.

    Parameters
    ----------
    excerpt : Excerpt
    times : int
        Length of ``time``.
    """
    layouts = (replace(layout, times=times) for layout in excerpt.layouts)
    return {
        **{key: excerpt.settings[key] for key in _MADE},
        "selection": _both(excerpt),
        "products": {layout.product: layout.as_json() for layout in layouts},
        "subsets": [*excerpt.settings.get("subsets", []), _step(excerpt)],
        **({"resharded_from": excerpt.settings["resharded_from"]} if "resharded_from" in excerpt.settings else {}),
        **accept.as_setting(_gaps(excerpt)),
        **({"full_scale": excerpt.full_scale} if excerpt.full_scale else {}),
    }


def _step(excerpt: Excerpt) -> dict[str, Any]:
    asked = excerpt.selection
    return {
        "cube": without_secrets(excerpt.source.root),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool": f"cloudsen12-cube {version('cloudsen12-cube')}",
        "selection": {"where": list(asked.where), "bbox": asked.bbox and list(asked.bbox), "rois": list(asked.rois)},
        "products": [layout.product for layout in excerpt.layouts],
    }


def _both(excerpt: Excerpt) -> dict[str, Any]:
    """Say the cube's conditions and these in one; two boxes are not always a box, so the ROIs are named instead."""
    before, asked = excerpt.settings["selection"], excerpt.selection
    rois, box = list(asked.rois) or before["rois"], list(asked.bbox) if asked.bbox else before["bbox"]
    if asked.bbox and before["bbox"] not in (None, box):
        rois = excerpt.catalogue.rois
    return {"where": list(dict.fromkeys([*before["where"], *asked.where])), "bbox": box, "rois": rois}


def _gaps(excerpt: Excerpt) -> frozenset[accept.Gap]:
    """Give the accepted failures that go along: not those of patches and products that stay behind."""
    behind = excerpt.dates.keys() - set(excerpt.catalogue.keys)
    files = {file for layout in excerpt.layouts for file in files_of(layout.product)} | {""}
    known = accept.in_settings(excerpt.settings)
    return frozenset(gap for gap in known if (gap.roi_id, gap.s2_id_gee) not in behind and gap.asset in files)


def continued(found: dict[str, Any], wanted: dict[str, Any], place: str) -> dict[str, Any]:
    """Give the settings of a subset that is continued: as wanted, less the day on which it was begun.

    Parameters
    ----------
    found : dict
        Settings of the cube that lies at the place.
    wanted : dict
        As `settings_for` gives them.
    place : str
        For the message.

    Raises
    ------
    DestinationError
        If it is no subset, or one of another cube or another selection.
    """
    if not found.get("subsets"):
        raise DestinationError(f"{place} holds a cube that is no subset: give the subset a place of its own")
    for name, has, asks in _compared(found, wanted):
        if has != asks:
            raise DestinationError(
                f"{place} holds a subset with other {name} ({has}, now {asks}): give the same, or another place"
            )
    return wanted | {"subsets": [*wanted["subsets"][:-1], found["subsets"][-1]]}


def _compared(found: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Pair what must be equal, the telling first: where the cube lies now is not asked, it may have moved."""
    layouts = wanted["products"].items()
    return [
        ("conditions", _told(found), _told(wanted)),
        ("origin", _origin(found), _origin(wanted)),
        *((f"layout of {name}", *_differing(found["products"].get(name, {}), layout)) for name, layout in layouts),
    ]


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, str]:
    """Write what differs, not all that is the same."""
    names = [name for name in wanted if found.get(name) != wanted[name]]
    has, asks = (", ".join(f"{name} {row.get(name)}" for name in names) for row in (found, wanted))
    return has, asks


def _told(settings: dict[str, Any]) -> str:
    step = settings["subsets"][-1]
    asked = step["selection"]
    parts = [*asked["where"], *([f"bbox {asked['bbox']}"] if asked["bbox"] else []), *asked["rois"]]
    return f"{' and '.join(parts) or 'no condition'}; {', '.join(step['products'])}"


def _origin(settings: dict[str, Any]) -> str:
    """Name the cube: the conversion that made it, and what it was taken out of itself."""
    made = ", ".join(str(settings.get(key)) for key in _MADE)
    return "; subset of ".join([made, *(step["created"] for step in settings["subsets"][:-1])])
