"""The end of a conversion in parts: what every patch's status is, and the consolidated metadata last."""

from __future__ import annotations

import os

from cloudsen12_cube import record as records
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.place import place_of
from cloudsen12_cube.record import Tally
from cloudsen12_cube.report import write_failures
from cloudsen12_cube.status import Ledger, Status, look, open_ledger
from cloudsen12_cube.store import ROOT_KEY, told


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
        tally = _tally(ledger)
        learnt = tally.learnt() | {"state": "converting" if found.missing else "final"}
        for key, data in told(root, tally.status, learnt).items():
            if sink.get(key) != data:
                sink.put(key, data)
    write_failures(found.failures, cube)
    return look(open_ledger(cube))


def _tally(ledger: Ledger) -> Tally:
    products = ledger.settings["products"]
    times = next(iter(products.values()))["shard"][1]
    there = (record for product in products for _, record in ledger.records(product) if record is not None)
    return records.tally(products, len(ledger.order), times, there)
