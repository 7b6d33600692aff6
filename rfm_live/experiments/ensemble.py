"""Many conditions played at once: one pass of the decoder makes a column of each. Used by the studio of experiments.

At the embedded checkpoint's size a step costs its calls rather than its arithmetic, so eight pieces together take about
a quarter of the time that they take one after the other. What a piece sounds like does not depend on its neighbours: it
has its own plan, its own draws and its own row, and equals the engine's but for the rounding of a wider product.

Shapes: N pieces, L layers, D width, K codebooks; the decoder's R rows are N with text and, under guidance, N without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rfm_live.concepts.clips import Samples
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.limiter import Limiter
from rfm_live.engine.prompts import Prompts
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.codec_stream import DecoderState, StreamingDecoder
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import KVCache
from rfm_live.model.injection import Injections
from rfm_live.model.sampling import SamplingSettings, guide, sample
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.plan import SteeringPlan

if TYPE_CHECKING:
    from rfm_live.experiments.conditions import Condition

VOICES = 8
Codes = npt.NDArray[np.int64]
Lead = tuple[str, int, float]
"""Prompt, seed and seconds of what is played before a condition's settings are made."""
_NOT_PUSHES = ("mode", "target", "rows")


@dataclass(frozen=True)
class _Begun:
    """A piece after its lead: its cache [2, L, rows, H, T, E], the columns [T + 1, K] so far, and its sound's state."""

    cache: Tensor
    columns: Codes
    decoder: DecoderState
    limiter_gain: float


class Ensemble:
    """One checkpoint with one bank, where up to `voices` conditions sound together."""

    def __init__(self, model: MusicGen, bank: ConceptBank, voices: int = VOICES) -> None:
        self._model, self._bank, self._voices = model, bank, voices
        self._settings = default_settings(model.path, model.config)
        self._prompts, self._sound = Prompts(model), StreamingDecoder(model.codec)
        self._silence = self._sound.copy_state()
        self._is_on_cpu = model.decoder.embedding.weight.device.type == "cpu"
        self._directions = torch.from_numpy(bank.directions).float()  # [C, L, D]
        self._overall = SteeringPlan(bank).overall_fields.keys()
        self._sides = 1 if self._settings.sampling.guidance == 1.0 else 2
        self._begun: dict[Lead, _Begun] = {}
        if model.decoder.precision is None:
            model.decoder.prepare()

    def can_play(self, condition: Condition) -> bool:
        """Whether the condition is of the kind that is played here: pushes alone, under text, within one context."""
        window, codebooks = self._settings.window, self._model.config.decoder.codebooks
        frames = self._frames(condition.lead_seconds) + self._frames(_steered_seconds(condition)) + codebooks
        fits = window is not None and frames < window.frames - window.priming_steps(window.prime)
        is_known = all(
            address.startswith("/concept/") or address[1:] in self._overall for address, _ in condition.settings
        )
        is_push = all(address.rsplit("/", 1)[-1] not in _NOT_PUSHES for address, _ in condition.settings)
        is_causal = self._sound.lookahead_samples == 0 and self._sound.start_frames == 1
        has_text = bool(condition.prompt.strip())
        return has_text and fits and is_known and is_push and is_causal and self._is_on_cpu

    def samples(self, conditions: Sequence[Condition]) -> Iterator[tuple[Condition, Samples]]:
        """Play conditions that `can_play` allows: each with its float32 [heard_seconds * rate], those of equal lengths
        that follow one another `voices` at a time.
        """
        for _, run in groupby(conditions, lambda one: (one.lead_seconds, one.settle_seconds, one.heard_seconds)):
            alike = list(run)
            for start in range(0, len(alike), self._voices):
                together = alike[start : start + self._voices]
                self._begin(together)
                yield from zip(together, self._play(together), strict=True)

    def _begin(self, together: Sequence[Condition]) -> None:
        """Play the leads that these conditions want and forget all others."""
        wanted = list(dict.fromkeys(_lead(one) for one in together))
        self._begun = {lead: begun for lead, begun in self._begun.items() if lead in wanted}
        missing = [lead for lead in wanted if lead not in self._begun]
        if not missing:
            return
        codebooks, pad = self._model.config.decoder.codebooks, self._model.config.decoder.pad_id
        first = np.full((len(missing), 1, codebooks), pad, np.int64)  # [N, 1, K]
        steps = self._frames(missing[0][2]) + codebooks - 1
        cache = self._model.decoder.new_cache(self._sides * len(missing), steps)
        cross = self._cross([prompt for prompt, _, _ in missing])
        columns = self._step(first, steps, cache, cross, [seed for _, seed, _ in missing], None)
        for place, lead in enumerate(missing):
            rows = self._rows(place, len(missing))
            decoder, gain, _ = self._sounded(self._silence, 1.0, columns[place], 0)
            self._begun[lead] = _Begun(cache.kv[:, :, rows].clone(), columns[place], decoder, gain)

    def _play(self, together: Sequence[Condition]) -> list[Samples]:
        begun = [self._begun[_lead(one)] for one in together]
        before = len(begun[0].columns) - 1
        first = together[0]
        steps = self._frames(_steered_seconds(first))
        cache = self._model.decoder.new_cache(self._sides * len(together), before + steps)
        for place, piece in enumerate(begun):
            cache.kv[:, :, self._rows(place, len(together)), :, :before] = piece.cache
        plans = [self._plan(one) for one in together]
        cross = self._cross([one.prompt for one in together])
        columns = self._step(
            np.stack([piece.columns for piece in begun]), steps, cache, cross, [one.seed for one in together], plans
        )
        heard = round(first.heard_seconds * self._model.config.sample_rate)
        found = []
        for place, piece in enumerate(begun):
            _, _, samples = self._sounded(piece.decoder, piece.limiter_gain, columns[place], before)
            found.append(samples[len(samples) - heard :])
        return found

    @torch.inference_mode()
    def _step(
        self,
        columns: Codes,
        steps: int,
        cache: KVCache,
        cross: CrossCache,
        seeds: Sequence[int],
        plans: Sequence[SteeringPlan] | None,
    ) -> Codes:
        """Go on from `columns` [N, T, K], of which the last is yet to be read: -> [N, T + steps, K]."""
        count, before, codebooks = columns.shape
        pad = self._model.config.decoder.pad_id
        made = np.concatenate([columns, np.full((count, steps, codebooks), pad, np.int64)], axis=1)
        for column in range(before - 1, before - 1 + steps):
            given = torch.from_numpy(made[:, column, :, None])  # [N, K, 1]
            pushes = None if plans is None else self._pushes(plans, column)
            rows = given.repeat(self._sides, 1, 1)
            logits = self._model.decoder(rows, column, cache, cross, pushes)[:, 0].numpy()  # [R, K, V]
            for place, seed in enumerate(seeds):
                sides, settings = logits[self._rows(place, count)], self._sampling(seed)
                made[place, column + 1] = sample(guide(sides, settings.guidance), settings, column)
            made[:, column + 1, column + 1 :] = pad
        return made

    def _pushes(self, plans: Sequence[SteeringPlan], column: int) -> Injections | None:
        found = [plan.coefficients(column) for plan in plans]
        if all(one is None for one in found):
            return None
        shape = self._bank.directions.shape[:2]
        table = np.stack([np.zeros(shape, np.float32) if one is None else one for one in found])  # [N, C, L]
        acting = np.flatnonzero(table.any(axis=(0, 2)))
        pushes = torch.einsum("ncl,cld->nld", torch.from_numpy(table[:, acting]), self._directions[acting])
        return Injections.pushing(pushes.repeat(self._sides, 1, 1)[:, None])  # [R, 1, L, D]

    def _sounded(
        self, decoder: DecoderState, gain: float, columns: Codes, before: int
    ) -> tuple[DecoderState, float, Samples]:
        """Sound the frames that `columns` [T, K] complete and the first `before` + 1 of them do not."""
        codebooks = columns.shape[1]
        done = max(before + 1 - codebooks, 0)
        frames = len(columns) - codebooks
        codes = np.stack([columns[1 + done + book : 1 + frames + book, book] for book in range(codebooks)])  # [K, n]
        self._sound.restore_state(decoder)
        samples = self._sound.push(torch.from_numpy(codes)).numpy()
        limiter = Limiter(self._model.config.sample_rate)
        limiter.gain = gain
        limited = limiter.process(samples)
        return self._sound.copy_state(), limiter.gain, limited

    def _plan(self, condition: Condition) -> SteeringPlan:
        plan = SteeringPlan(self._bank, condition.seed)
        for address, value in condition.settings:
            parts = address.split("/")[1:]
            if parts[0] == "concept":
                plan.set(parts[1], parts[2], value)
            else:
                plan.set_overall(address[1:], value)
        return plan

    def _sampling(self, seed: int) -> SamplingSettings:
        return replace(self._settings.sampling, seed=seed)

    def _rows(self, place: int, count: int) -> list[int]:
        """The rows of one of `count` pieces: with text, and without where there is guidance."""
        return [place + side * count for side in range(self._sides)]

    def _frames(self, seconds: float) -> int:
        return -(-round(seconds * self._model.config.sample_rate) // self._model.config.hop)

    @torch.inference_mode()
    def _cross(self, prompts: Sequence[str]) -> CrossCache:
        """The keys and values of one prompt a row."""
        states = [one for one in map(self._prompts.states, prompts) if one is not None]
        longest = max(one[0].shape[1] for one in states)
        padded = torch.cat([F.pad(s, (0, 0, 0, longest - s.shape[1])) for s, _ in states])
        mask = torch.cat([F.pad(m, (0, longest - m.shape[1])) for _, m in states])
        return self._model.decoder.new_cross(padded, mask)


def _lead(condition: Condition) -> Lead:
    return condition.prompt, condition.seed, condition.lead_seconds


def _steered_seconds(condition: Condition) -> float:
    return condition.settle_seconds + condition.heard_seconds
