"""Directions learned from turns, on a tiny model: the loss is the decoder's own, and pushes lower it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rfm_live.concepts.turning import CODEBOOK_SHARE, LENGTH, Turns, learn_turns, read_turns, turn_loss
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.delay import delay
from rfm_live.model.injection import Injections

TURN = 6


def some_turns(count: int = 4, frames: int = 16) -> Turns:
    """Behind the turn, concept 0 repeats code 3 and concept 1 repeats code 40."""
    codes = np.random.default_rng(0).integers(0, 64, (count, 4, frames))
    codes[0::2, :, TURN:], codes[1::2, :, TURN:] = 3, 40
    return Turns(codes, TURN, np.tile(np.eye(2, dtype=np.float32), (count // 2, 1)), ["calm piano"] * count)


def test_the_loss_is_that_of_the_decoder_under_the_same_push(tiny_model: MusicGen) -> None:
    turns, decoder = some_turns(2), tiny_model.decoder
    pushes = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(1))
    states = tiny_model.text_encoder().encode("calm piano")
    assert states is not None
    cross = decoder.new_cross(*states)  # the first row alone reads a text
    columns = torch.stack([delay(clip, 64) for clip in torch.from_numpy(turns.codes)])  # [B, K, 20]
    steering = torch.zeros(2, 19, 3, 128)
    steering[:, TURN:] = pushes[:, None]
    with torch.no_grad():
        found = turn_loss(decoder, turns, cross, pushes)
        cache = decoder.new_cache(2, 19)
        logits = decoder(columns[:, :, :-1], 0, cache, cross, Injections.pushing(steering))  # [B, 19, K, V]
    nats, weights = [], []
    for row in range(2):
        for column in range(TURN, 19):
            for book in range(4):
                code = int(columns[row, book, column + 1])
                if code != 64:
                    nats.append(float(-F.log_softmax(logits[row, column, book], 0)[code]))
                    weights.append(CODEBOOK_SHARE**book * (0.1 + np.exp(-(column - TURN) / 30)))
    assert float(found) == pytest.approx(np.average(nats, weights=weights), rel=1e-4)


def test_pushes_make_the_turns_likelier_each_concept_its_own(tiny_model: MusicGen) -> None:
    turns = some_turns()
    norms = np.linalg.norm(read_turns(tiny_model, replace_long(turns)), axis=-1).mean(axis=0).astype(np.float32)
    pushes = learn_turns(tiny_model, turns, norms, batch=2)
    assert pushes.shape == (2, 3, 128)
    np.testing.assert_allclose((np.linalg.norm(pushes, axis=-1) / norms).mean(axis=1), LENGTH, rtol=1e-4)
    none, own, swapped = (
        float(turn_loss(tiny_model.decoder, turns, None, torch.from_numpy(table[turns.shares.argmax(axis=1)])))
        for table in (0 * pushes, pushes, pushes[::-1].copy())
    )
    assert own < none - 0.2 and own < swapped - 0.2, (none, own, swapped)


def test_training_makes_the_turns_likelier_than_their_gradient_does(tiny_model: MusicGen) -> None:
    turns = some_turns(8)
    norms = np.linalg.norm(read_turns(tiny_model, replace_long(turns)), axis=-1).mean(axis=0).astype(np.float32)
    told: list[tuple[int, int]] = []
    gradient, trained = (
        learn_turns(tiny_model, turns, norms, epochs, 4, lambda done, count: told.append((done, count)))
        for epochs in (0, 8)
    )
    assert told[1] == (8, 8) and told[-1] == (72, 72)
    for times in (0.5, 1.5):
        by_gradient, by_training = (
            float(turn_loss(tiny_model.decoder, turns, None, times * torch.from_numpy(table[turns.shares.argmax(1)])))
            for table in (gradient, trained)
        )
        assert by_training < by_gradient - 0.02, (times, by_training, by_gradient)


def replace_long(turns: Turns) -> Turns:
    """The turns with enough behind them to be read."""
    return Turns(np.tile(turns.codes, (1, 1, 3)), TURN, turns.shares, turns.prompts)


def test_the_same_turns_teach_the_same_and_the_model_stays_as_it_is(tiny_model: MusicGen) -> None:
    before = {name: values.clone() for name, values in tiny_model.decoder.state_dict().items()}
    first, second = (learn_turns(tiny_model, some_turns(), np.ones(3, np.float32), batch=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert all(torch.equal(values, before[name]) for name, values in tiny_model.decoder.state_dict().items())


def test_a_turn_without_words_is_refused(tiny_model: MusicGen) -> None:
    turns = some_turns()
    blank = Turns(turns.codes, TURN, turns.shares, ["calm piano", " "] * 2)
    with pytest.raises(StartError, match="prompt of a turn is ' ', expected words"):
        learn_turns(tiny_model, blank, np.ones(3, np.float32))
