"""`rfm-live devices`: the sound outputs of this machine."""

from rich.table import Table

from rfm_live.audio.devices import list_devices
from rfm_live.cli.console import console


def run_devices() -> None:
    """Print every output that PortAudio sees. Raises AudioError without PortAudio."""
    cards = list_devices()
    if not cards:
        console.print("no sound card with an output; `rfm-live play` plays in the browser")
        return
    table = Table("number", "name", "host", "channels", "rate", "default")
    for card in cards:
        table.add_row(
            str(card.index), card.name, card.host, str(card.channels), f"{card.rate} Hz", "*" if card.is_default else ""
        )
    console.print(table)
