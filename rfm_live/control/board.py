"""The control board: the present value of every address, and what one message changes. Server process, sans-IO.

Who uses it: the hub alone writes it, on the event loop; surfaces read values through the hub.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfm_live.control.table import ControlTable, Refused, Value


@dataclass(frozen=True)
class Change:
    """One value that changed. `source` sent exactly this; None when it followed from something else."""

    address: str
    value: Value
    source: str | None


class ControlBoard:
    """Values by address. `accepted` and `refused` (by reason) count every message that came in."""

    def __init__(self, table: ControlTable) -> None:
        self.table = table
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self._values: dict[str, Value] = {
            parameter.address: parameter.default
            for parameter in table
            if parameter.kind != "trigger" and parameter.address != "/error"
        }

    def apply(self, address: str, args: Sequence[object], source: str) -> list[Change]:
        """Take one message and return what changed: nothing for a value that is there already.

        /panic is followed by every eta that it sets to 0. Raises Refused, and counts it.
        """
        try:
            value = self.table.check(address, args)
        except Refused as refusal:
            self.count_refusal(refusal)
            raise
        self.accepted += 1
        if self.table.lookup(address).kind == "trigger":
            return self._pull(address, source) if value else []
        if self._values[address] == value:
            return []
        self._values[address] = value
        return [Change(address, value, source)]

    def _pull(self, address: str, source: str) -> list[Change]:
        changes = [Change(address, True, source)]
        if address == "/panic":
            for eta in (f"/concept/{name}/eta" for name in self.table.concepts):
                if self._values[eta] != 0.0:
                    self._values[eta] = 0.0
                    changes.append(Change(eta, 0.0, None))
        return changes

    def value(self, address: str) -> Value:
        """The value that a message without arguments asks for. Raises Refused, and counts it."""
        try:
            self.table.lookup(address)
            if address not in self._values:
                raise Refused("write only", f"{address} has no value to ask for")
        except Refused as refusal:
            self.count_refusal(refusal)
            raise
        self.accepted += 1
        return self._values[address]

    def report(self, values: Mapping[str, float]) -> dict[str, Value]:
        """Store measurements at read-only addresses, held inside the table's range, and return them as stored.

        Comes from our own engine, so an unknown address is our mistake: KeyError.
        """
        stored: dict[str, Value] = {}
        for address, measured in values.items():
            if self.table.lookup(address).access != "r" or address not in self._values:
                raise KeyError(f"{address} is not a measurement")
            parameter = self.table.lookup(address)
            stored[address] = parameter.check(min(max(measured, parameter.low), parameter.high))
        self._values.update(stored)
        return stored

    def count_refusal(self, refusal: Refused) -> None:
        """Count a message that was refused before it came here, such as a broken datagram."""
        self.refused[refusal.reason] += 1

    def full_state(self) -> dict[str, Value]:
        """Every address that has a value, measurements included."""
        return dict(self._values)

    def settings(self) -> dict[str, Value]:
        """Every address that can be set, with its value: what a fresh engine must be told."""
        return {address: value for address, value in self._values.items() if self.table.lookup(address).access == "rw"}
