"""Where pushes lead in rehearsals: the concepts that a piece shows, and captions that ask for something else.

Used by the recipe only. A decoder that has never been pushed must be pushed hard to leave what it plays, and then loses
its prompt as well. So it is pushed while it rehearses, and what comes back after its own playing is a piece that shows
what the pushes said and, in all else, what the caption asks. The pushes learn along with the decoder.

Shapes: B rows, C concepts, L blocks, D width, T frames, K codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.turning import LENGTH, of_one_length
from rfm_live.embedded.composer import INSTRUMENTS, MODE_SHARES, PITCH_CLASSES, SCALES, TEXTURES, Style
from rfm_live.embedded.decoder_lessons import Lessons
from rfm_live.embedded.studies import Study
from rfm_live.embedded.turns import concept_sets

SETS = {
    "notes": 0.19,
    "chords": 0.09,
    "mode": 0.05,
    "tempo": 0.04,
    "density": 0.06,
    "timbres": 0.15,
    "drums": 0.03,
    "textures": 0.04,
}
"""The share of rows that are pushed to a concept of each set; all others are not pushed."""
BESIDE = 0.3
"""Of these rows, the share that is pushed to a concept of another set as well."""
BESIDES = ("timbres", "drums", "density", "notes")
LENGTHS = (0.8, 2.5)
"""Least and greatest length of a push, in lengths in which banks learn theirs (`turning.LENGTH`)."""
OTHER_TEXTURE = 0.6
"""How often the caption of a piece that pushes to a note call for asks for a texture of its own."""
_TEXTURE_SHARES = (0.3, 0.15, 0.2, 0.15, 0.2)
_CHORD_TEXTURE_SHARES = (0.25, 0.15, 0.2, 0.25, 0.15)
_ONE_NOTE, _HARMONIC = ("ostinato", "pedal"), ("chords", "arpeggio", "melody")

Rng = np.random.Generator
Codes = npt.NDArray[np.integer]
Choice = TypeVar("Choice")


def led_concepts() -> tuple[str, ...]:
    """Every concept that pushes lead to, in the order of the banks' sets."""
    return tuple(name for chosen in SETS for name in concept_sets()[chosen])


class Pushes:
    """One push for each of C concepts: `directions` [C, L, D] are learned, and count by their mean length over blocks
    being 1; `norms` [L] are the lengths of hidden states in which pushes are told.
    """

    def __init__(self, directions: Tensor, norms: Tensor) -> None:
        self.directions, self._norms = directions.requires_grad_(True), norms

    @classmethod
    def drawn(cls, count: int, norms: Tensor, width: int, seed: int) -> Pushes:
        """Pushes in random directions, to begin with."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(count, len(norms), width, generator=generator) / width**0.5, norms)

    @classmethod
    def load(cls, file: Path) -> Pushes | None:
        """What `save` left in `file`, if it is there."""
        stored = kept(file)
        if stored is None:
            return None
        return cls(torch.from_numpy(stored["directions"]), torch.from_numpy(stored["norms"]))

    def save(self, file: Path) -> None:
        """Write the pushes to `file`. Raises StartError where that cannot be."""
        keep({"directions": self.unit().numpy(), "norms": self._norms.numpy()}, file)

    def unit(self) -> Tensor:
        """The directions at a mean length of 1 over the blocks, outside of any graph."""
        return of_one_length(self.directions.detach())

    def along(self, shares: Tensor, since: Tensor, frames: int) -> Tensor:
        """What is added to the blocks' outputs [B, T, L, D] by `shares` [B, C] from the frames `since` [B] on."""
        scaled = (of_one_length(self.directions) * self._norms[:, None]).to(shares.device)
        pushed = torch.einsum("bc,cld->bld", LENGTH * shares, scaled)
        is_on = torch.arange(frames, device=shares.device) >= since[:, None]  # [B, T]
        return pushed[:, None] * is_on[..., None, None]


@dataclass(frozen=True)
class Led:
    """A piece that pushes lead to: its `codes` [K, T] and `style`, what pushes say of it, by concept from -1 to 1 times
    their length, and the style `asked` for by its caption.
    """

    codes: Codes
    style: Style
    shares: dict[str, float]
    asked: Style


class Repertoire:
    """The pieces of the corpus and the studies, by the set of the concepts that they show."""

    def __init__(self, lessons: Lessons, studies: Sequence[Study], codes: Sequence[Codes]) -> None:
        """`codes` [K, T] of every study; there must be one of a note and one of a chord at least."""
        corpus = [(None, style) for style in lessons.styles]
        self._shown = [*corpus, *((study.concept, study.piece.style) for study in studies)]
        self._codes = [*lessons.codes, *codes]
        corpus_places = range(len(corpus))
        about = {
            kind: [place for place, (concept, _) in enumerate(self._shown) if (concept or "").startswith(kind)]
            for kind in ("note", "chord")
        }
        styles = lessons.styles
        self._places: dict[str, Sequence[int]] = dict.fromkeys(SETS, corpus_places)
        self._places["notes"] = [p for p in corpus_places if styles[p].texture in _ONE_NOTE] + about["note"]
        self._places["chords"] = about["chord"]
        self._places["mode"] = [
            p for p in corpus_places if styles[p].mode in ("minor", "major") and styles[p].texture in _HARMONIC
        ]
        self._places["tempo"] = [p for p in corpus_places if styles[p].tempo != "medium"]
        self._notes = frozenset(self._places["notes"])
        self._sets = [name for name in SETS if len(self._places[name])]

    def draw(self, rng: Rng) -> Led:
        """A piece, pushed to one of its concepts or two, under a caption that asks for another style in these."""
        likely = np.asarray([SETS[name] for name in self._sets])
        chosen = str(rng.choice(self._sets, p=likely / likely.sum()))
        place = _one_of(rng, self._places[chosen])
        concept, style = self._shown[place]
        names = [chosen]
        if rng.random() < BESIDE:
            others = [name for name in BESIDES if name != chosen and (name != "notes" or place in self._notes)]
            names.append(_one_of(rng, [name for name in others if name != "density" or concept is None]))
        shares, asked = dict[str, float](), style
        for name in names:
            led, share, asked = _led(rng, name, style, concept, asked)
            shares[led] = share * float(rng.uniform(*LENGTHS))
        return Led(self._codes[place], style, shares, asked)


@dataclass(frozen=True)
class Leads:
    """What rehearsals need to lead: the pieces, and one of the `pushes` for each of `concepts`."""

    repertoire: Repertoire
    pushes: Pushes
    concepts: tuple[str, ...]


def _led(rng: Rng, name: str, style: Style, study: str | None, asked: Style) -> tuple[str, float, Style]:
    """The concept of the set `name` that a piece shows, 1 or -1 for its opposite, and a style that lacks it."""
    match name:
        case "notes":
            if rng.random() < OTHER_TEXTURE:
                asked = replace(asked, texture=str(rng.choice(TEXTURES, p=_TEXTURE_SHARES)))
            return f"note_{PITCH_CLASSES[style.tonic]}", 1.0, asked
        case "chords":
            assert study is not None  # only studies show a chord quality
            texture, mode = rng.choice(TEXTURES, p=_CHORD_TEXTURE_SHARES), rng.choice(list(SCALES), p=MODE_SHARES)
            return study, 1.0, replace(asked, texture=str(texture), mode=str(mode))
        case "mode":
            return f"mode_{style.mode}", 1.0, replace(asked, mode="minor" if style.mode == "major" else "major")
        case "tempo":
            other = _one_of(rng, [tempo for tempo in ("slow", "medium", "fast") if tempo != style.tempo])
            return "tempo", 1.0 if style.tempo == "fast" else -1.0, replace(asked, tempo=other)
        case "density":
            return "density", 1.0 if style.dense else -1.0, replace(asked, dense=not style.dense)
        case "drums":
            return "drums", 1.0 if style.drums else -1.0, replace(asked, drums=not style.drums)
        case "textures":
            other = _one_of(rng, [texture for texture in TEXTURES if texture != style.texture])
            return f"texture_{style.texture}", 1.0, replace(asked, texture=other)
    family = style.instrument.family
    instrument = _one_of(rng, [one for one in INSTRUMENTS if one.family != family])
    return f"timbre_{family}", 1.0, replace(asked, instrument=instrument)


def _one_of(rng: Rng, choices: Sequence[Choice]) -> Choice:
    return choices[int(rng.integers(len(choices)))]
