"""Times in conditions: a date, month or year is a period, a time of day an instant; both in UTC."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cloudsen12_cube.errors import CubeError

_TIME = re.compile(
    r"(?:(\d{4}-\d\d-\d\d)(?:[T ](\d\d(?::\d\d(?::\d\d(?:\.\d{1,9})?)?)?))?|(\d{4}(?:-\d\d)?))"
    r"\s*(?:Z|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?",
    re.IGNORECASE,
)
_MICROSECOND = np.timedelta64(1, "us")  # the resolution of a cube


class TimeSpan(NamedTuple):
    """First and last microsecond of a period, in UTC; equal for an instant."""

    first: np.datetime64
    last: np.datetime64


def now_text() -> str:
    """Return the time in ISO 8601, UTC: that of ``SOURCE_DATE_EPOCH`` if it is set, so that two builds are equal.

    Raises
    ------
    CubeError
        If the variable holds no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        raise CubeError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, expected whole seconds since 1970: correct it, or unset it"
        ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: Any) -> TimeSpan:
    """Return the period or instant that a value states.

    Parameters
    ----------
    value : str, datetime.datetime, datetime.date, numpy.datetime64 or pandas.Period
        Texts are ISO 8601: ``2019``, ``2019-08``, ``2019-08-11`` or ``2019-08-11T10:00``, with ``Z`` or an offset such
        as ``+02:00``; without one, in UTC. A ``numpy.datetime64`` in years, months, weeks or days is a period.

    Returns
    -------
    TimeSpan

    Raises
    ------
    ValueError
        If the text is not a time in ISO 8601, or the time is NaT.
    TypeError
        If the value is of another type.
    """
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, pd.Period):
        return TimeSpan(np.datetime64(value.start_time, "us"), np.datetime64(value.end_time, "us"))
    if isinstance(value, datetime):  # also pandas.Timestamp
        moment = pd.Timestamp(value)
        value = (moment.tz_convert(None) if moment.tzinfo else moment).to_datetime64()
    elif isinstance(value, date):
        value = np.datetime64(value, "D")
    if not isinstance(value, np.datetime64):
        raise TypeError(f"{value!r} is not a time")
    return _span(value)


def _parse_text(text: str) -> TimeSpan:
    match = _TIME.fullmatch(text.strip())
    if match is None or (match[4] and not match[1]):  # years and months have no offset
        raise ValueError(f"{text!r} is not a time in ISO 8601")
    day, clock, longer, sign, hours, minutes = match.groups()
    span = _span(np.datetime64(longer or (f"{day}T{clock}" if clock else day)))
    offset = np.timedelta64(int(hours or 0) * 60 + int(minutes or 0), "m") * (-1 if sign == "-" else 1)
    return TimeSpan(span.first - offset, span.last - offset)


def _span(moment: np.datetime64) -> TimeSpan:
    if np.isnat(moment):
        raise ValueError("NaT is not a time")
    first = moment.astype("M8[us]")
    unit: Any = np.datetime_data(moment)[0]
    if unit not in ("Y", "M", "W", "D"):
        return TimeSpan(first, first)
    return TimeSpan(first, (moment + np.timedelta64(1, unit)).astype("M8[us]") - _MICROSECOND)
