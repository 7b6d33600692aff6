"""The steering plan: from knobs to the steering of one frame. Engine process, frame loop; numpy only.

S[l] = sum_c strength * eta_c(t) * phi_c(t) * g_c(t) * unit_c * b[c, l] * w[c, l] * q[c, l]

with the glide eta, schedule phi, gate g, the bank's unit and layer weights b, the layer weights w of the chosen form,
and the direction q. This is MusicRFM's rule for several directions, its gate drawn once per concept and frame and
shared by all layers, not per layer as in the public release. Everything left of q is a coefficient [C, L]. A budget
scales all of them at once, and re-orthogonalisation mixes those of one layer. What is drawn or derived is no state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rfm_live.errors import ControlError
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.frame import Coefficients, FrameSteering
from rfm_live.steering.gates import GateDraws
from rfm_live.steering.glide import Glide
from rfm_live.steering.knobs import BUDGETS, CONCEPT_FIELDS, RESHAPING, Choice, Range, overall_fields
from rfm_live.steering.reach import Reach
from rfm_live.steering.schedules import FADE_SHAPES, SHAPES, Points, Schedule, read_points, span_frames

FRAME_MS = 20.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlanState:
    """Everything a plan remembers. `knobs` holds an array [C] per concept field, `overall` a number per overall field.

    `points` are the breakpoints per concept. `began` [C] and `fade_began` are the frames at which the schedules and the
    cross-fade began, NaN until the next frame; `turned` [C] those at which an eta left 0, infinite while it is there.
    """

    seed: int
    overall: dict[str, float]
    knobs: dict[str, Floats]
    points: tuple[Points, ...]
    glide: Glide
    began: Floats
    fade_began: float
    turned: Floats

    def copied(self) -> "PlanState":
        """A copy that shares nothing that is written in place."""
        return replace(
            self,
            overall=dict(self.overall),
            knobs={field: values.copy() for field, values in self.knobs.items()},
            began=self.began.copy(),
            turned=self.turned.copy(),
        )


class SteeringPlan:
    """The knobs of one bank and what they make of a frame. Settings take effect at the next frame that is asked for."""

    _state: PlanState
    # Derived by `_take_over` and `_move`:
    _etas: Floats  # [C] as they have glided
    _active: npt.NDArray[np.bool_] | None = None  # [C]
    _settled_at: float
    _order: npt.NDArray[np.intp]
    _mixing: npt.NDArray[np.float32] | None  # [N, C * L]
    _overlaps: Floats | None
    _schedules: list[tuple[int, int, Schedule]]  # concept, first frame, curve: those that are not constant
    _fade: tuple[int, int, Schedule] | None  # the concept that leaves, the one that joins, the share of the latter
    _is_gated: bool
    _is_turned: bool
    _is_reshaped: bool

    def __init__(self, bank: ConceptBank, seed: int = 0) -> None:
        concepts = len(bank.names)
        self._index = {name: index for index, name in enumerate(bank.names)}
        self._reach, self._draws = Reach(bank), GateDraws(concepts)
        self.overall_fields: Mapping[str, Range | Choice] = overall_fields(bank.names)
        knobs = {name: np.full(concepts, field.default) for name, field in CONCEPT_FIELDS.items()}
        knobs |= {"gate": bank.gate.astype(np.float64), "period": bank.period.astype(np.float64)}
        overall = {name: field.default for name, field in self.overall_fields.items()}
        self.restore_state(
            PlanState(
                seed,
                overall,
                knobs,
                points=(Points(),) * concepts,
                glide=Glide.at_rest(concepts),
                began=np.zeros(concepts),
                fade_began=0.0,
                turned=np.full(concepts, np.inf),
            )
        )

    def set(self, name: str, field: str, value: object) -> None:
        """Turn one knob of concept `name`: a field of CONCEPT_FIELDS, `schedule_points` or `schedule_start`.

        A schedule begins anew when its shape is set. Raises ControlError for an unknown concept or field and for a
        value outside the field's domain, and then changes nothing.
        """
        if name not in self._index:
            raise ControlError(f"concept {name!r} is not in the bank")
        index, address = self._index[name], f"/concept/{name}/{field}"
        if field == "schedule_points":
            points = read_points(address, value)
            before = self._state.points
            self._state = replace(self._state, points=(*before[:index], points, *before[index + 1 :]))
        elif field == "schedule_start":
            if Range(-np.inf, np.inf, 0.0).check(address, value):  # 0 is the release of a button
                self._state.began[index] = np.nan
        elif field in CONCEPT_FIELDS:
            self._state.knobs[field][index] = CONCEPT_FIELDS[field].check(address, value)
            if field == "schedule":
                self._state.began[index] = np.nan
        else:
            known = ", ".join((*CONCEPT_FIELDS, "schedule_points", "schedule_start"))
            raise ControlError(f"concept field {field!r} is unknown, expected one of {known}")
        self._is_turned = True
        self._is_reshaped |= field in RESHAPING

    def set_overall(self, field: str, value: object) -> None:
        """Turn one of `overall_fields`. Raises ControlError for another and for a value outside its domain."""
        if field not in self.overall_fields:
            raise ControlError(f"overall field {field!r} is unknown, expected one of {', '.join(self.overall_fields)}")
        number = self.overall_fields[field].check(f"/{field}", value)
        if field == "crossfade/on" and number and not self._state.overall[field]:
            self._state = replace(self._state, fade_began=np.nan)
        self._state.overall[field] = number
        self._is_turned = True
        self._is_reshaped |= field in RESHAPING

    def set_seed(self, seed: int) -> None:
        """Draw the gates by another seed."""
        self._state = replace(self._state, seed=seed)

    def release(self) -> None:
        """Set every eta to 0 without a glide."""
        self._state.knobs["eta"][:] = 0.0
        self._state = replace(self._state, glide=Glide.at_rest(len(self._index)))
        self._is_turned = True

    def steering(self, frame: int) -> FrameSteering | None:
        """The steering of `frame`, None when nothing is steered. Frames must not go backwards."""
        coefficients = self.coefficients(frame)
        return None if coefficients is None else self._reach.frame_steering(coefficients)

    def coefficients(self, frame: int) -> Coefficients | None:
        """Weigh every direction at `frame`: [C, L], or None when nothing is steered. Frames must not go backwards."""
        if self._is_turned:
            self._take_over(frame)
        if frame <= self._settled_at:
            self._move(frame)
        if not len(self._order):
            return None
        etas = self._etas * self._state.overall["strength"]  # [C]
        if self._schedules or self._fade is not None:
            etas = etas * self._shares(frame)
        etas = self._within_budget(etas)
        if self._is_gated:
            etas = np.where(self._is_open(frame), etas, 0.0)
        if not etas.any():
            return None
        strengths = self._reach.strengths
        if self._mixing is None:
            weighed: Coefficients = (etas[:, None] * strengths).astype(np.float32)
        else:
            weighed = (etas[self._order].astype(np.float32) @ self._mixing).reshape(strengths.shape)
        return weighed

    def _take_over(self, frame: int) -> None:
        """Derive what the knobs say from `frame` on: all that stays as it is until the next one is turned."""
        state, knobs, overall = self._state, self._state.knobs, self._state.overall
        state.began[np.isnan(state.began)] = frame
        heard = knobs["solo"] if knobs["solo"].any() else 1.0
        targets = knobs["eta"] * knobs["on"] * heard  # [C]
        frames = np.maximum(np.ceil(knobs["slew"] / FRAME_MS), 1.0)
        self._state = state = replace(
            state,
            glide=state.glide.towards(targets, frame, frames),
            fade_began=frame if np.isnan(state.fade_began) else state.fade_began,
        )
        self._is_gated = bool(((knobs["gate"] < 1.0) | (knobs["period"] > 1.0)).any())
        spans = map(span_frames, knobs["schedule_seconds"].tolist())
        self._schedules = [
            (index, int(state.began[index]), Schedule.of(SHAPES[int(shape)], span, state.points[index]))
            for index, (shape, span) in enumerate(zip(knobs["schedule"].tolist(), spans, strict=True))
            if shape
        ]
        leaving, joining = int(overall["crossfade/from"]) - 1, int(overall["crossfade/to"]) - 1
        self._fade = None
        if overall["crossfade/on"] and leaving >= 0 and joining >= 0 and leaving != joining:
            shape, span = FADE_SHAPES[int(overall["crossfade/shape"])], span_frames(overall["crossfade/seconds"])
            self._fade = leaving, joining, Schedule.of_fade(shape, span)
        if self._is_reshaped:
            self._reach.turn(knobs, overall)
            self._active = None
        self._settled_at = np.inf  # `_move` looks when it is
        self._is_turned = self._is_reshaped = False

    def _move(self, frame: int) -> None:
        """Glide to `frame`, and arrange the concepts anew where one has left 0 or come back to it."""
        self._etas, self._settled_at = self._state.glide.values(frame), self._state.glide.settles_at
        active = self._etas != 0.0  # [C]
        if self._active is not None and (active == self._active).all():
            return
        self._active, turned = active, self._state.turned
        turned[:] = np.where(active, np.minimum(turned, frame), np.inf)
        acting = np.flatnonzero(active)
        self._order = acting[np.argsort(turned[acting], kind="stable")]  # [N]: what was turned first goes first
        self._reach.arrange(self._order)
        mixing = self._reach.mixing()
        self._mixing = None if mixing is None else mixing.reshape(len(mixing), -1).astype(np.float32)
        is_by_norm = self._state.overall["budget_of"] == BUDGETS.index("norm")
        self._overlaps = self._reach.overlaps() if is_by_norm else None  # [N, N]

    def _shares(self, frame: int) -> Floats:
        """phi(t) of every concept, cross-fade included: [C]."""
        shares = [1.0] * len(self._index)
        for index, began, schedule in self._schedules:
            shares[index] = schedule.share(frame - began)
        if self._fade is not None:
            leaving, joining, schedule = self._fade
            share = schedule.share(frame - self._state.fade_began)
            shares[leaving] *= 1.0 - share
            shares[joining] *= share
        return np.array(shares)

    def _within_budget(self, etas: Floats) -> Floats:
        """Scale all of `etas` [C] down to what the budget allows of their sum or of their summed push."""
        if self._overlaps is None:
            total = np.abs(etas).sum()
        else:
            acting = etas[self._order]
            total = max(float(acting @ self._overlaps @ acting), 0.0) ** 0.5
        budget = self._state.overall["budget"]
        return etas * (budget / total) if total > budget else etas

    def _is_open(self, frame: int) -> npt.NDArray[np.bool_]:
        """Say which concepts act at `frame`: [C]. A period above 1 replaces the draw; a gate of 0 is always closed."""
        gate, period = self._state.knobs["gate"], self._state.knobs["period"]
        is_drawn = (self._draws.uniforms(self._state.seed, frame) < gate) | (period > 1.0)
        is_open: npt.NDArray[np.bool_] = is_drawn & (gate > 0.0) & (frame % period == 0.0)
        return is_open

    def copy_state(self) -> PlanState:
        """Return a copy that later turns of knobs do not change."""
        return self._state.copied()

    def restore_state(self, state: PlanState) -> None:
        """Take over a copied state; the copy stays usable."""
        self._state = state.copied()
        self._is_turned = self._is_reshaped = True
