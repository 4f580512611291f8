"""The end of a conversion in parts: what every patch's status is, and the consolidated metadata last."""

from __future__ import annotations

import os

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.layout import layout_of
from cloudsen12_cube.place import place_of
from cloudsen12_cube.report import write_failures
from cloudsen12_cube.status import Ledger, Status, look, open_ledger
from cloudsen12_cube.store import ROOT_KEY, Contents, told
from cloudsen12_cube.tables import Frame
from cloudsen12_cube.tally import Tally


def finalise(cube: str | os.PathLike[str]) -> Status:
    """End a conversion that was made in parts; the cube alone is needed.

    What is missing is named, and stays absent: run its part again, and this. As long as a shard is missing, the cube's
    state remains ``converting``.

    Returns
    -------
    Status
        What is done, missing and failed; ``exit_code`` is 1 if anything is not done.

    Raises
    ------
    StoreError
        If there is no cube at the place, or one whose creation was cut short.
    DestinationError
        If another process is writing the cube.
    """
    open_ledger(cube)  # no lock makes a folder where there is no cube
    sink = place_of(cube)
    with sink.locked():
        ledger = open_ledger(cube)
        root = sink.get(ROOT_KEY)
        if root is None or not ledger.order:
            raise StoreError(f"the creation of {sink.root} was cut short: run any of its parts again")
        found = look(ledger)
        for key, data in told(root, _contents(ledger, "converting" if found.missing else "final")).items():
            if sink.get(key) != data:
                sink.put(key, data)
    write_failures(found.failures, cube)
    return look(open_ledger(cube))


def _contents(ledger: Ledger, state: str) -> Contents:
    layouts = tuple(layout_of(product, row) for product, row in ledger.settings["products"].items())
    tally = Tally.empty(layouts, len(ledger.order))
    for layout in layouts:
        for _, record in ledger.records(layout.product):
            if record is not None:
                tally.add(record)
    frame = Frame(ledger.order, layouts[0].times, ledger.table)
    scale = ledger.settings.get("probability_scale") or tally.scale
    return Contents(frame, layouts, tally.status, ledger.settings | {"state": state}, scale=scale)
