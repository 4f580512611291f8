"""A plan as a document that a person can read: versioned JSON, one line a shard."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cloudsen12_cube.assets import files_of
from cloudsen12_cube.plan import Plan, ShardTask
from cloudsen12_cube.redact import without_secrets

PLAN_VERSION = 1


def as_json(plan: Plan, workers: int) -> str:
    """Write a plan; equal plans give equal texts."""
    return document(plan, workers, map(_shard_json, plan.tasks()))


def document(plan: Plan, workers: int, shards: Iterable[dict[str, Any]]) -> str:
    """Write what plans have in common, and a line for each shard."""
    head = {
        "plan_version": PLAN_VERSION,
        "layout_version": plan.layouts[0].form.version,
        "source": without_secrets(plan.archive.root),
        "metadata": plan.source,
        "test_meaning": plan.catalogue.test_meaning,
        "selection": {
            "where": list(plan.selection.where),
            "bbox": plan.selection.bbox,
            "rois": list(plan.selection.rois),
        },
        "products": {layout.product: layout.as_json() for layout in plan.layouts},
        "totals": plan.totals(workers),
        "faults": [vars(fault) for fault in plan.faults()],
    }
    lines = ",\n  ".join(map(json.dumps, shards))
    return json.dumps(head, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n'


def _shard_json(task: ShardTask) -> dict[str, Any]:
    files = files_of(task.layout.product)
    patches = {
        patch.s2_id_gee: None
        if patch.files is None
        else {
            "folder": patch.files.folder,
            "files": {
                task.decoder.path(patch.files, f).removeprefix(f"{patch.files.folder}/"): patch.files.sizes[f]
                for f in files
                if f in patch.files.names
            },
        }
        for patch in task.patches
    }
    return {
        "roi": task.roi_id,
        "product": task.layout.product,
        "raw_bytes": task.layout.shard_bytes,
        "patches": patches,
    }
