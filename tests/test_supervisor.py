"""The supervisor: what it does when a child refuses, dies, hangs, or is ended in the middle of its start."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rfm_live.engine.tape import Tape
from rfm_live.errors import RfmError, StartError
from rfm_live.server import supervisor
from rfm_live.server.children import Child, Message
from rfm_live.server.supervisor import Performance, PlayOptions, Started
from tests import children
from tests.oscpeer import ask


class Stage:
    """A performance with stand-in children; what it told, and the tape it made."""

    def __init__(self) -> None:
        self.started: list[Started] = []
        self.warned: list[str] = []
        self.tapes: list[str] = []
        self.performance: Performance | None = None

    async def play(
        self,
        prompt: str,
        then: Callable[[], Awaitable[None]] | None = None,
        sink: str = "null",
        device: int | None = None,
    ) -> None:
        """Play until `then` is through, or until it ends by itself."""
        options = PlayOptions(
            Path("nowhere"), prompt=prompt, sink=sink, device=device, osc_port=0, reply_port=None, http_port=0
        )
        self.performance = Performance(options, self.started.append, self.warned.append)
        running = asyncio.create_task(self.performance.run())
        if then is not None:
            acting = asyncio.create_task(then())
            await asyncio.wait((running, acting), return_when=asyncio.FIRST_COMPLETED)
            self.performance.stop()
            await asyncio.gather(acting) if acting.done() else acting.cancel()
        await running

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"{what}; warned: {self.warned}"
            await asyncio.sleep(0.005)

    def assert_nothing_is_left(self) -> None:
        assert not multiprocessing.active_children()
        for name in self.tapes:
            with pytest.raises(FileNotFoundError):
                Tape.attach(name)
        assert self.tapes


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made, create = Stage(), Tape.create

    def noted(seconds: float) -> Tape:
        tape = create(seconds)
        made.tapes.append(tape.name)
        return tape

    monkeypatch.setattr(supervisor, "engine_main", children.engine)
    monkeypatch.setattr(supervisor, "playout_main", children.playout)
    monkeypatch.setattr(Tape, "create", noted)
    return made


@pytest.mark.parametrize(
    ("prompt", "sink", "words"),
    [
        ("refuse", "null", "this checkpoint is no good"),
        ("die at once", "null", "the engine ended before it was ready"),
        ("play", "jack", "jack cannot be opened"),
        ("die when ready", "null", "the engine has stopped by itself 4 times"),
    ],
)
def test_a_performance_that_cannot_begin_or_go_on_says_why_and_leaves_nothing(
    stage: Stage, prompt: str, sink: str, words: str
) -> None:
    with pytest.raises(StartError, match=words):
        asyncio.run(stage.play(prompt, sink=sink))
    stage.assert_nothing_is_left()


def test_a_sound_card_that_nobody_named_and_that_fails_is_only_told(stage: Stage) -> None:
    asyncio.run(stage.play("play", lambda: stage.until(lambda: bool(stage.started), "it plays"), sink="auto"))
    assert stage.warned == ["auto cannot be opened"]
    stage.assert_nothing_is_left()


def test_a_killed_engine_is_started_again_and_told_every_setting_once(stage: Stage) -> None:
    async def act() -> None:
        await stage.until(lambda: bool(stage.started), "it plays")
        port = stage.started[0].osc_port
        await asyncio.to_thread(ask, port, "/concept/note_d/eta", 0.75)
        await asyncio.to_thread(ask, port, "/gain", -6.0)
        await stage.until(lambda: "/gain -6.0" in stage.warned, "the first engine hears the knob")
        os.kill(_pid(stage, "_engine"), signal.SIGTERM)
        await stage.until(lambda: stage.warned.count("/gain -6.0") == 2, "the second engine hears it, too")

    asyncio.run(stage.play("play", act))
    (crash,) = [at for at, text in enumerate(stage.warned) if "started again" in text]
    told = stage.warned[crash + 1 :]
    assert "/concept/note_d/eta 0.75" in told
    assert len(told) == len({text.split()[0] for text in told})
    assert len(stage.started) == 1
    stage.assert_nothing_is_left()


def test_a_dead_playout_is_started_again_and_the_engine_goes_on(stage: Stage) -> None:
    async def act() -> None:
        await stage.until(lambda: bool(stage.started), "it plays")
        engine = _pid(stage, "_engine")
        playout = _pid(stage, "_playout")
        os.kill(playout, signal.SIGTERM)
        await stage.until(lambda: _pid(stage, "_playout") != playout, "another playout")
        assert _pid(stage, "_engine") == engine

    asyncio.run(stage.play("play", act))
    assert len(stage.warned) == 1 and "the playout has stopped by itself" in stage.warned[0]
    stage.assert_nothing_is_left()


def test_an_engine_that_hangs_is_ended_and_started_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)

    async def act() -> None:
        await stage.until(lambda: bool(stage.started), "it plays")
        first = _pid(stage, "_engine")
        await stage.until(lambda: _pid(stage, "_engine") != first, "another engine")

    asyncio.run(stage.play("play", act))  # the stand-in tells one status and then only answers
    assert stage.warned[0] == "the engine has said nothing for 0.2 s"
    assert stage.warned[1] == "the engine has stopped by itself (exit code -9) and is started again"
    stage.assert_nothing_is_left()


def test_a_playout_whose_device_never_opens_does_not_hold_up_the_performance_for_good(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_OPENING_SECONDS", 0.3)
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.1)
    with pytest.raises(StartError, match="the playout has stopped by itself 4 times"):
        asyncio.run(stage.play("play", sink="soundcard", device=7))
    assert stage.warned[0] == "the playout has not opened its device after 0.3 s"
    stage.assert_nothing_is_left()


@pytest.mark.parametrize("prompt", ["play", "hang"])
def test_a_stop_in_the_middle_of_the_start_ends_everything(stage: Stage, prompt: str) -> None:
    asyncio.run(stage.play(prompt, lambda: asyncio.sleep(0)))
    assert not stage.started and not stage.warned
    stage.assert_nothing_is_left()


def test_a_child_that_will_not_end_is_made_to() -> None:
    async def act() -> tuple[float, int | None]:
        heard: asyncio.Queue[Message | None] = asyncio.Queue()
        child = Child("stubborn", children.engine, "", {"prompt": "hang"}, heard.put_nowait)
        await asyncio.wait_for(heard.get(), 30)  # it hangs
        began = time.monotonic()
        await asyncio.to_thread(child.stop)
        took = time.monotonic() - began
        assert await asyncio.wait_for(heard.get(), 10) is None
        return took, child.exit_code

    took, exit_code = asyncio.run(act())
    assert took < 5.0  # 0.6 s on an idle machine; without force, 60
    assert exit_code == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system has no signal mask")
def test_ctrl_c_does_not_reach_a_child_even_while_it_loads() -> None:
    async def act() -> Message | None:
        heard: asyncio.Queue[Message | None] = asyncio.Queue()
        child = Child("engine", children.engine, "", {"prompt": "play"}, heard.put_nowait)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGHUP)
        first = await asyncio.wait_for(heard.get(), 30)
        await asyncio.to_thread(child.stop)
        return first

    message = asyncio.run(act())
    assert message is not None and message["op"] == "ready"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sink": "speaker"}, "expected auto, soundcard, jack, null or wav:PATH"),
        ({"sink": "wav:"}, "expected auto"),
        ({"buffer_ms": 5.0}, "expected 60..10000"),
        ({"seed": 2**31}, "/seed is 2147483648"),
        ({"prompt": "la " * 200}, "at most 500 characters"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_loaded(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(RfmError, match=words):
        PlayOptions(Path("nowhere"), **wrong)


def _pid(stage: Stage, child: str) -> int:
    assert stage.performance is not None
    pid = getattr(stage.performance, child).pid
    assert isinstance(pid, int)
    return pid
