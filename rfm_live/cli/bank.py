"""`rfm-live bank`: look into concept banks, merge them, rename concepts, and check one against a checkpoint."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rfm_live.cli.console import console, one_line_errors
from rfm_live.cli.models import AsJson, TrustPickle
from rfm_live.errors import BankError, StartError
from rfm_live.places import EMBEDDED, checkpoint_folder, shipped_bank
from rfm_live.steering.bank import ConceptBank, load_bank, merged, read_bank, renamed, save_bank

bank = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Describe, merge, rename and check concept banks.")

Output = Annotated[Path, typer.Option("--out", "-o", help="bank to write (.safetensors)")]
Force = Annotated[bool, typer.Option("--force", help="write over an existing file")]
_PICTURES = (".png", ".svg", ".pdf")


@bank.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="bank; default: the one that ships")] = None,
    as_json: AsJson = False,
    picture: Annotated[
        Path | None, typer.Option(help="draw the scores of all blocks into this .png, .svg or .pdf")
    ] = None,
) -> None:
    """Tell what a bank's concepts can and cannot do, where they come from and which of them lie close together."""
    from rfm_live.concepts.report import as_json as described

    with one_line_errors():
        path = _existing(file)
        found = read_bank(path)
        if picture is not None:
            draw_scores(found, picture)
        if as_json:
            console.print(json.dumps({"file": str(path), **described(found)}, indent=2), soft_wrap=True)
            return
        console.print(
            f"{path}: for the checkpoint {found.checkpoint_sha256[:12]}, {found.layers} blocks at {found.site}",
            soft_wrap=True,
        )
        print_concepts(found)


def print_concepts(found: ConceptBank) -> None:
    """The table of a bank's concepts, and the pairs that lie close."""
    from rfm_live.concepts.report import best_layers, closest, push_share, verdict

    table = Table("concept", "score", "best blocks", "push", "range", "what it does")
    for index, (name, card) in enumerate(zip(found.names, found.cards, strict=True)):
        share, layers = push_share(found, index), best_layers(found, index)
        low, high = card.suggested_range
        cells = (
            name,
            f"{'AUC' if card.score_kind == 'auc' else 'R2'} {found.scores[index].max(initial=0.0):.3f}",
            " ".join(map(str, layers)),
            "" if share is None else f"{share:.0%} of |h|",
            f"{low:g}..{high:g}",
            verdict(card),
        )
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)
    for told in dict.fromkeys((card.method, card.origin, card.licence) for card in found.cards):
        console.print(
            f"learned by {told[0]} from {told[1] or 'unknown audio'}; licence: {told[2] or 'unknown'}", soft_wrap=True
        )
    if pairs := closest(found):
        told_pairs = ", ".join(
            f"{' / '.join(pair['concepts'])} {pair['cosine']:+.2f} (block {pair['layer']})" for pair in pairs
        )
        console.print(f"closest directions, cosine: {told_pairs}", soft_wrap=True)


def draw_scores(found: ConceptBank, picture: Path) -> None:
    """Draw the scores of every concept at every block into a picture.

    Raises:
        StartError: matplotlib is missing, or the file cannot be written.
    """
    if picture.suffix.lower() not in _PICTURES:
        raise StartError(f"picture '{picture}' ends in '{picture.suffix}', expected {', '.join(_PICTURES)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StartError("pictures need matplotlib: pip install 'rfm-live[train]'") from None
    concepts, layers = len(found.names), found.layers
    figure = Figure(figsize=(2.5 + 0.5 * layers, 1.2 + 0.3 * max(concepts, 1)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(found.scores, vmin=0.5, vmax=1.0, aspect="auto", cmap="viridis")
    axes.set_xticks(range(layers))
    axes.set_yticks(range(concepts), found.names)
    axes.set_xlabel("block")
    kinds = {card.score_kind for card in found.cards}
    figure.colorbar(
        image,
        label="score on held-out groups: " + " or ".join({"auc": "AUC", "r2": "R2"}[kind] for kind in sorted(kinds)),
    )
    try:
        figure.savefig(picture, dpi=120)
    except OSError as error:
        raise StartError(f"picture '{picture}' cannot be written: {error.strerror}") from error
    console.print(f"drew {picture}", soft_wrap=True)


@bank.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="banks of one checkpoint and site")],
    out: Output,
    rename_clashes: Annotated[
        bool, typer.Option("--rename-clashes", help="call the second concept of a name NAME_2 instead of refusing it")
    ] = False,
    force: Force = False,
) -> None:
    """Write all concepts of several banks into one."""
    with one_line_errors():
        check_target(out, force)
        banks = [read_bank(_existing(file)) for file in files]
        whole = merged(_without_clashes(banks) if rename_clashes else banks)
        save_bank(whole, out)
        console.print(f"wrote {out}: {len(whole.names)} concepts", soft_wrap=True)


def _without_clashes(banks: list[ConceptBank]) -> list[ConceptBank]:
    """The banks with every name that an earlier one has taken numbered."""
    taken: set[str] = set()
    apart = []
    for one in banks:
        names = {}
        for name in one.names:
            number, free = 2, name
            while free in taken or (free != name and free in one.names):
                free, number = f"{name}_{number}", number + 1
            names[name] = free
            taken.add(free)
        apart.append(renamed(one, names))
    return apart


@bank.command()
def rename(
    file: Annotated[Path, typer.Argument(help="bank to change")],
    names: Annotated[list[str], typer.Argument(help="OLD=NEW, one or more")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write here instead of over FILE")] = None,
    force: Force = False,
) -> None:
    """Give concepts other names; their knobs' addresses follow."""
    with one_line_errors():
        pairs = dict(_renaming(text) for text in names)
        found = renamed(read_bank(_existing(file)), pairs)
        if out is not None:
            check_target(out, force)
        save_bank(found, out or file)
        console.print(f"wrote {out or file}: {', '.join(found.names)}", soft_wrap=True)


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise BankError(f"'{text}' is no renaming, expected OLD=NEW")
    return old, new


@bank.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="bank; default: the one that ships")] = None,
    checkpoint: Annotated[str, typer.Option(help="embedded, a folder, or OWNER/NAME[@REVISION]")] = EMBEDDED,
    trust_pickle: TrustPickle = False,
) -> None:
    """Read a bank whole and see whether it was made for a checkpoint."""
    with one_line_errors():
        path, folder = _existing(file), checkpoint_folder(checkpoint)
        read_bank(path)

        from rfm_live.model.checkpoint import hash_files, open_checkpoint

        opened = open_checkpoint(folder, trust_pickle)
        decoder = opened.config.decoder
        found = load_bank(path, decoder.layers, decoder.width, hash_files(opened.files))
        console.print(f"{path}: whole, {len(found.names)} concepts, made for {checkpoint}", soft_wrap=True)


def check_target(file: Path, force: bool) -> None:
    """Raises StartError for a file that cannot be written, or that is there already without `force`."""
    if file.suffix != ".safetensors":
        raise StartError(f"bank '{file}' ends in '{file.suffix}', expected .safetensors")
    if not file.absolute().parent.is_dir():
        raise StartError(f"bank '{file}': its folder does not exist")
    if file.exists() and not force:
        raise StartError(f"bank '{file}' exists: --force writes over it")


def _existing(file: Path | None) -> Path:
    found = shipped_bank() if file is None else file
    if not found.is_file():
        raise StartError(f"bank '{found}' does not exist")
    return found
