"""What the commands print to, and how they end. Used by every command.

Both consoles print text as it is: prompts, device names and errors may hold brackets and colons, which rich would take
for markup and emoji.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from rfm_live.errors import RfmError

console = Console(highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn our own errors into one line and exit code 2, Ctrl-C into exit code 130.

    A library that Ctrl-C meets while it tidies up may fail there, and so raise something else in its place.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error):
            errors.print("rfm-live: stopped")
            raise typer.Exit(130) from None
        if not isinstance(error, RfmError):
            raise
        errors.print(Text.assemble(("rfm-live:", "red"), f" {error}"), soft_wrap=True)
        raise typer.Exit(2) from None


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or came while that was dealt with."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
