"""What the steering plan costs per frame: `python -m tests.plan_cost [CONCEPTS]`. Microseconds; JSON last.

A frame lasts 20 000 us. The floor is what must move: [C, L] strengths read and as many coefficients written. Time is
the processor's, so that what else runs on the machine counts little.
"""

import json
import statistics
import sys
import time

import numpy as np

from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.plan import SteeringPlan

LAYERS, WIDTH = 48, 1024
FRAMES = 2000
CASES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "pushes at rest": ({}, {}),
    "gated": ({"gate": 0.3}, {}),
    "all scheduled": ({"schedule": "sine"}, {}),
    "kept apart, norm budget": ({}, {"orthogonal": "dual", "budget_of": "norm", "budget": 1.0}),
    "all of these": (
        {"gate": 0.3, "schedule": "sine", "layers": "exponential", "rows": "conditional"},
        {"orthogonal": "least_squares", "budget_of": "norm", "budget": 1.0},
    ),
}


def random_bank(concepts: int) -> ConceptBank:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(concepts, LAYERS, WIDTH)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    table = rng.random((concepts, LAYERS), dtype=np.float32)
    ones = np.ones(concepts, np.float32)
    names = tuple(f"concept_{index}" for index in range(concepts))
    return ConceptBank(names, directions, table, table, table, ones, table, ones, ones.astype(np.int64), "")


def cost(bank: ConceptBank, knobs: dict[str, object], overall: dict[str, object]) -> dict[str, float]:
    """Median and 99th percentile of a frame, and the frame at which every knob is turned for the first time."""
    plan = SteeringPlan(bank)
    for field, value in overall.items():
        plan.set_overall(field, value)
    for name in bank.names:
        for field, value in {**knobs, "slew": 0.0, "eta": 0.5}.items():
            plan.set(name, field, value)
    times = []
    for frame in range(FRAMES):
        started = time.process_time()
        plan.steering(frame)
        times.append(1e6 * (time.process_time() - started))
    rest = sorted(times[1:])
    return {"median_us": statistics.median(rest), "p99_us": rest[len(rest) * 99 // 100], "turn_us": times[0]}


def main() -> None:
    concepts = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    bank = random_bank(concepts)
    print(f"{concepts} concepts, {LAYERS} layers: {12 * concepts * LAYERS} bytes must move per frame")
    results = {name: cost(bank, *case) for name, case in CASES.items()}
    for name, result in results.items():
        print(f"{name:26}" + "  ".join(f"{key} {value:7.1f}" for key, value in result.items()))
    print(json.dumps({"concepts": concepts, "layers": LAYERS, "cases": results}))


if __name__ == "__main__":
    main()
