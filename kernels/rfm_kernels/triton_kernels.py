"""The Triton kernels. Imported by `fused` only, for importing this imports triton; `plain` tells what each computes.

Everything that a performer changes is read from memory. Compiled in are dtypes, block sizes and whether there is a row
without text. One program owns one row (of the stream, of the gates, of one codebook's logits) and reads it once.
"""

import triton
import triton.language as tl

from rfm_kernels import plain, reference

BLEND = tl.constexpr(int(reference.Mode.BLEND))
CLAMP = tl.constexpr(int(reference.Mode.CLAMP))
GATE_DRAWS = tl.constexpr(plain.GATE_DRAWS)
CONCEPT_BITS = tl.constexpr(plain.CONCEPT_BITS)
CODEBOOK_BITS = tl.constexpr(plain.CODEBOOK_BITS)
CODE_BITS = tl.constexpr(plain.CODE_BITS)
SMALLEST_UNIFORM = tl.constexpr(plain.SMALLEST_UNIFORM)
KEY_HALVINGS = tl.constexpr(32)  # halve any range of fp32 keys down to one


@triton.jit(do_not_specialize=["layers", "concepts"], do_not_specialize_on_alignment=["layer_pointer"])
def add_inject_norm(
    hidden,
    contribution,
    norm_weight,
    norm_bias,
    eta,
    gate,
    mode,
    target,
    layer_weights,
    directions,
    layer_pointer,
    stream,
    normed,
    epsilon,
    layers,
    concepts,
    width,
    BLOCK: tl.constexpr,
):
    """Compute one row of `plain.add_inject_norm`; BLOCK is a power of two, at least `width`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_inside = column < width
    place = row * width + column
    h = tl.load(hidden + place, mask=is_inside, other=0.0).to(tl.float32)
    h += tl.load(contribution + place, mask=is_inside, other=0.0).to(tl.float32)
    layer = tl.load(layer_pointer).to(tl.int64)

    # h' = (h + |h| * sum_blend s * q) / (1 + sum_blend |s|) + sum_add s * q + sum_clamp s * (target - <h, q>) * q
    length = tl.sqrt(tl.sum(h * h, 0))
    blend = tl.zeros([BLOCK], dtype=tl.float32)
    push = tl.zeros([BLOCK], dtype=tl.float32)
    share = length * 0.0
    steered = 0
    concept = 0
    while concept < concepts:  # not a range: triton 3.6 cannot interpret one over an argument beside numpy 2.4
        knob = row * concepts + concept
        strength = tl.load(eta + knob) * tl.load(gate + knob) * tl.load(layer_weights + layer * concepts + concept)
        if strength != 0.0:
            steered = 1
            how = tl.load(mode + knob)
            direction = directions + (layer * concepts + concept) * width
            q = tl.load(direction + column, mask=is_inside, other=0.0).to(tl.float32)
            if how == BLEND:
                blend += strength * q
                share += tl.abs(strength)
            elif how == CLAMP:
                goal = tl.load(target + (row * layers + layer) * concepts + concept)
                push += (strength * (goal - tl.sum(h * q, 0))) * q
            else:
                push += strength * q
        concept += 1
    if steered != 0:
        h = tl.div_rn(h + length * blend, 1.0 + share) + push

    rounded = h.to(stream.dtype.element_ty)
    tl.store(stream + place, rounded, mask=is_inside)
    h = rounded.to(tl.float32)
    mean = tl.sum(h, 0) / width
    centred = tl.where(is_inside, h - mean, 0.0)
    deviation = tl.sqrt_rn(tl.sum(centred * centred, 0) / width + epsilon)
    scale = tl.load(norm_weight + column, mask=is_inside, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + column, mask=is_inside, other=0.0).to(tl.float32)
    out = tl.div_rn(centred, deviation) * scale + shift
    tl.store(normed + place, out.to(normed.dtype.element_ty), mask=is_inside)


@triton.jit(do_not_specialize=["concepts"], do_not_specialize_on_alignment=["step_pointer"])
def draw_gates(probability, period, seed, step_pointer, gate, concepts, BLOCK: tl.constexpr):
    """Draw one row of `plain.draw_gates`; BLOCK is a power of two, at least `concepts`."""
    row = tl.program_id(0)
    concept = tl.arange(0, BLOCK)
    is_inside = concept < concepts
    place = row * concepts + concept
    step = tl.load(step_pointer)
    chance = tl.load(probability + place, mask=is_inside, other=0.0)
    every = tl.load(period + place, mask=is_inside, other=1).to(tl.int64)
    uniform = tl.rand(tl.load(seed + row), (step << CONCEPT_BITS) + concept + GATE_DRAWS)
    is_drawn = (uniform < chance) | (chance >= 1.0) | (every > 1)
    is_open = is_drawn & (chance > 0.0) & (step % every == 0)
    tl.store(gate + place, is_open.to(tl.float32), mask=is_inside)


@triton.jit
def ordered_key(value):
    """Map an fp32 number to an int64 that orders as the numbers do."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def number_of_key(key):
    """Undo `ordered_key`."""
    bits = key.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def kth_largest(values, least, most, k):
    """The k-th largest of `values`, by halving the range of keys: the largest t that k of them reach.

    `least` and `most` bound it; lanes of -inf beyond the row reach no t above `least`.
    """
    low, high = ordered_key(least), ordered_key(most)
    for _ in range(KEY_HALVINGS):
        middle = low + ((high - low + 1) >> 1)
        reached = tl.sum((values >= number_of_key(middle)).to(tl.int32), 0)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle - 1)
    return number_of_key(low)


@triton.jit
def nucleus_threshold(values, weights, least, most, limit):
    """The least t such that the weights of the values above t are below `limit`, and no more than the largest value."""
    low, high = ordered_key(least), ordered_key(most)
    for _ in range(KEY_HALVINGS):
        middle = low + ((high - low) >> 1)
        above = tl.sum(tl.where(values > number_of_key(middle), weights, 0.0), 0)
        low = tl.where(above < limit, low, tl.minimum(middle + 1, high))
        high = tl.where(above < limit, middle, high)
    return number_of_key(high)


@triton.jit(do_not_specialize=["streams"], do_not_specialize_on_alignment=["step_pointer"])
def sample_codes(
    logits,
    temperature,
    guidance,
    top_k,
    top_p,
    seed,
    step_pointer,
    codes,
    streams,
    vocab,
    IS_GUIDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw the code of one stream and codebook of `plain.sample_codes`; BLOCK is a power of two, at least `vocab`."""
    stream, book, books = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    code = tl.arange(0, BLOCK)
    is_inside = code < vocab
    place = (stream * books + book).to(tl.int64) * vocab + code
    guided = tl.load(logits + place, mask=is_inside, other=0.0)
    if IS_GUIDED:
        half = streams.to(tl.int64) * books * vocab
        without = tl.load(logits + half + place, mask=is_inside, other=0.0)
        guided = without + tl.load(guidance + stream) * (guided - without)
    guided = tl.where(is_inside, guided, -float("inf"))

    heat = tl.load(temperature + stream)
    is_greedy = heat <= 0.0
    heat = tl.where(is_greedy, 1.0, heat)
    most = tl.max(guided, 0)
    threshold = tl.min(tl.where(is_inside, guided, float("inf")), 0)
    k = tl.load(top_k + stream)
    if (k > 0) & (k < vocab):
        threshold = kth_largest(guided, threshold, most, k)
    p = tl.load(top_p + stream)
    if p < 1.0:
        weights = tl.exp(tl.div_rn(guided - most, heat))
        weights = tl.where(is_inside & (guided >= threshold), weights, 0.0)
        threshold = nucleus_threshold(guided, weights, threshold, most, p * tl.sum(weights, 0))

    # Gumbel-max: the argmax of logit / temperature - log(-log(u)) is distributed as softmax(logits / temperature).
    offset = (((tl.load(step_pointer) << CODEBOOK_BITS) + book) << CODE_BITS) + code
    uniform = tl.maximum(tl.rand(tl.load(seed + stream), offset), SMALLEST_UNIFORM)
    scores = tl.where(is_greedy, guided, tl.div_rn(guided, heat) - tl.log(-tl.log(uniform)))
    scores = tl.where(is_inside & (guided >= threshold), scores, -float("inf"))
    tl.store(codes + stream * books + book, tl.argmax(scores, 0).to(tl.int64))
