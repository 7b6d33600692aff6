"""The console in a real Chromium: sound sample by sample, sliders both ways, the codec, the jitter buffer."""

import asyncio
import base64
import shutil
import socket
import time
from collections.abc import Awaitable, Callable

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from playwright.async_api import Page, async_playwright

from rfm_live.control import osc, wire
from rfm_live.control.board import ControlBoard
from rfm_live.control.osc import OscMessage
from rfm_live.control.table import ControlTable
from rfm_live.control.wire import Get, Hello, Set, Subscribe
from rfm_live.server.hub import Hub
from rfm_live.server.osc import OscServer
from rfm_live.server.web import WebServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
]

RATE = 32000
FADE = 160  # samples, 5 ms
ETA = "/concept/note_c/eta"
SLIDER = f".keyboard [data-address='{ETA}']"
NOTES = [f"note_{note}" for note in "c c_sharp d d_sharp e f f_sharp g g_sharp a a_sharp b".split()]
CONCEPTS = [*NOTES, "chord_minor", "tempo", "timbre_piano"]


class RealTimeNoise:
    """Known noise whose play head follows the clock."""

    underruns = 0

    def __init__(self) -> None:
        self.noise = np.random.default_rng(5).uniform(-1, 1, 60 * RATE).astype(np.float32)
        self._start = time.monotonic()

    @property
    def played(self) -> int:
        return int(RATE * (time.monotonic() - self._start))

    @property
    def written(self) -> int:
        return self.played + RATE // 10

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        return self.noise[start : start + count]


class Stage:
    """Hub, OSC and web server, and the page in a browser."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.source = RealTimeNoise()
        self.board = ControlBoard(ControlTable(CONCEPTS))
        self.hub = Hub(self.board, lambda address, value: self.told.append((address, value)), tape=self.source)
        self.osc = OscServer(self.hub, port=0, reply_port=None)
        self.web = WebServer(self.hub, port=0, tape=self.source)
        self.complaints: list[str] = []
        self.page: Page

    async def until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not is_true():
            assert time.monotonic() < deadline, self.told
            await asyncio.sleep(0.005)

    async def until_page(self, expression: str) -> None:
        """Playwright's own wait_for_function needs eval, which the page forbids."""
        deadline = time.monotonic() + 10
        while not await self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            await asyncio.sleep(0.02)


def on_stage(play: Callable[[Stage], Awaitable[None]]) -> None:
    """Play on a page that is connected; afterwards it must have logged no error, and everything stops."""

    async def run() -> None:
        on = Stage()
        await on.osc.start()
        await on.web.start()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--autoplay-policy=no-user-gesture-required"]
            )
            on.page = await browser.new_page(viewport={"width": 1280, "height": 900})
            on.page.on("pageerror", lambda error: on.complaints.append(str(error)))
            on.page.on("console", lambda line: on.complaints.append(line.text) if line.type == "error" else None)
            try:
                await on.page.goto(on.web.url)
                await on.page.wait_for_selector(SLIDER)
                await play(on)
                assert on.complaints == []
            finally:
                await on.web.stop()
                await on.osc.stop()
                await browser.close()

    asyncio.run(asyncio.wait_for(run(), 60))


FLOATS_AS_TEXT = """
(floats) => {
  const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}
"""


def floats(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_the_page_plays_exactly_the_samples_of_the_stream() -> None:
    capture = f"""async (count) => {{
      const {{ samples, start, breaks }} = await window.rfm.capture(count);
      return {{ start, breaks, samples: ({FLOATS_AS_TEXT})(samples) }};
    }}"""

    async def play(on: Stage) -> None:
        await on.page.click("#listen")
        await on.until_page("Boolean(window.rfm.listener.node)")
        first = await on.page.evaluate(capture, RATE // 4)
        samples, start = floats(first["samples"]), first["start"]
        fade_in = np.minimum(np.arange(1, len(samples) + 1) / FADE, 1)
        expected = on.source.noise[start : start + len(samples)] * fade_in
        if first["breaks"] == 0:
            assert np.array_equal(samples[FADE:], expected[FADE:].astype(np.float32))
            assert np.abs(samples - expected).max() < 1e-7
        for _ in range(5):  # a busy machine may make a gap; then the next second counts
            later = await on.page.evaluate(capture, RATE)
            samples, start = floats(later["samples"]), later["start"]
            at = np.flatnonzero(on.source.noise == samples[FADE])[0] - FADE  # where it is, told by the noise alone
            if later["breaks"] == 0 and np.array_equal(samples, on.source.noise[at : at + RATE]):
                assert at == start
                break
        else:
            pytest.fail("five seconds in a row were interrupted or altered")
        assert await on.page.evaluate("window.rfm.listener.context.sampleRate") == RATE
        await on.until_page("document.getElementById('heard').textContent.includes('gaps')")
        await on.page.click("#listen")
        await on.until_page("document.getElementById('heard').textContent === 'off'")

    on_stage(play)


def test_moving_a_slider_sets_the_value_and_osc_moves_the_slider() -> None:
    async def play(on: Stage) -> None:
        slider = on.page.locator(SLIDER)
        await slider.fill("0.75")
        await on.until(lambda: (ETA, 0.75) in on.told)
        box = await slider.bounding_box()
        assert box is not None
        await on.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await on.page.mouse.down()
        await on.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2, steps=8)
        await on.page.mouse.up()
        await on.until(lambda: on.told[-1:] == [(ETA, 2.0)])
        assert await on.page.locator(".strip[data-concept=note_c] output").text_content() == "+2.00"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(osc.encode(OscMessage(ETA, (-0.5,))), ("127.0.0.1", on.osc.port))
            await on.until_page(f'document.querySelector("{SLIDER}").value === "-0.5"')
        assert on.told[-1] == (ETA, -0.5)  # the page does not send back what it is shown
        await slider.dblclick()
        await on.until(lambda: on.told[-1:] == [(ETA, 0.0)])

    on_stage(play)


def test_buttons_prompt_and_keys_reach_the_engine() -> None:
    async def play(on: Stage) -> None:
        page = on.page
        await page.fill("#prompt input", "slow strings")
        await page.press("#prompt input", "Enter")
        await on.until(lambda: on.told[-1:] == [("/prompt", "slow strings")])
        await page.click(".play")
        await on.until(lambda: on.told[-1:] == [("/transport/play", 0)])
        await page.click("h1")
        await page.keyboard.press("Space")
        await on.until(lambda: on.told[-1:] == [("/transport/play", 1)])
        await page.click(".strip[data-concept=tempo] .solo")
        await on.until(lambda: on.told[-1:] == [("/concept/tempo/solo", 1)])
        await page.fill(".seed", "77")
        await page.press(".seed", "Enter")
        await on.until(lambda: on.told[-1:] == [("/seed", 77)])
        await page.fill(".strip[data-concept=tempo] .slider", "1.5")
        await on.until(lambda: on.told[-1:] == [("/concept/tempo/eta", 1.5)])
        await page.click(".panic")
        await on.until(lambda: on.told[-2:] == [("/panic", True), ("/concept/tempo/eta", 0.0)])
        await on.until_page("document.querySelector('.strip[data-concept=tempo] .slider').value === '0'")
        await page.keyboard.press("Escape")
        await on.until(lambda: on.told[-1:] == [("/panic", True)])

    on_stage(play)


def test_choices_points_and_switches_of_the_details_reach_the_engine_and_show_what_others_choose() -> None:
    async def play(on: Stage) -> None:
        page, at = on.page, f"/concept/{CONCEPTS[0]}"
        await page.click(f".strip[data-concept={CONCEPTS[0]}] .cap")
        await page.click(".details summary")
        await page.select_option(f"select[data-address='{at}/mode']", "clamp")
        await on.until(lambda: on.told[-1:] == [(f"{at}/mode", "clamp")])
        points = f"input[data-address='{at}/schedule_points']"
        await page.fill(points, "0:0 2.5:1")
        await page.press(points, "Enter")
        await on.until(lambda: on.told[-1:] == [(f"{at}/schedule_points", "0:0 2.5:1")])
        await page.fill(points, "0:7")  # a share above 1 is taken back, and not sent
        await page.press(points, "Enter")
        await on.until_page(f"""document.querySelector("{points}").value === "0:0 2.5:1" """)
        await page.click(f"button[data-address='{at}/schedule_start']")
        await on.until(lambda: on.told[-1:] == [(f"{at}/schedule_start", True)])
        await page.click("#side > .shaping summary")
        await page.select_option("select[data-address='/crossfade/to']", CONCEPTS[1])
        await page.click("button[data-address='/crossfade/on']")
        await on.until(lambda: on.told[-2:] == [("/crossfade/to", CONCEPTS[1]), ("/crossfade/on", 1)])
        on.hub.handle("/orthogonal", ["dual"], "osc:1")
        await on.until_page("""document.querySelector("select[data-address='/orthogonal']").value === "dual" """)

    on_stage(play)


def test_every_address_that_can_be_set_has_a_control() -> None:
    async def play(on: Stage) -> None:
        seen: set[str] = set()
        for concept in CONCEPTS:
            await on.page.click(f".strip[data-concept={concept}] .cap")
            seen |= set(
                await on.page.evaluate("[...document.querySelectorAll('[data-address]')].map((e) => e.dataset.address)")
            )
        assert seen == {p.address for p in on.board.table if p.access != "r"} - {"/sync"}

    on_stage(play)


def test_the_status_line_shows_measurements_and_the_page_comes_back_after_a_lost_server() -> None:
    async def play(on: Stage) -> None:
        on.hub.engine_status({"frame": 50, "step_ms": 8.0})
        await on.until_page("document.getElementById('speed').textContent === '2.50 ×'")
        assert await on.page.text_content("#buffer") == "100 ms"
        await on.web.stop()
        await on.until_page("document.getElementById('connection').dataset.mood === 'bad'")
        on.hub.handle(ETA, [1.0], "osc:1")
        on.web = WebServer(on.hub, port=on.web.port, tape=on.source)
        await on.web.start()
        await on.until_page(f'document.querySelector("{SLIDER}").value === "1"')
        await on.until_page("document.getElementById('connection').dataset.mood === 'good'")
        on.complaints[:] = [text for text in on.complaints if "WebSocket connection" not in text]

    on_stage(play)


CONTENTS = [
    None, True, False, 0.5, -0.1, 1e300, "", "ä♯𝄞", "x" * 31, "x" * 32, "x" * 256, "x" * 70000,
    0, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53 - 1,
    -1, -32, -33, -128, -129, -32769, -(2**31), -(2**31) - 1, -(2**53) + 1,
    [], [1, [2, [3]]], list(range(16)), list(range(70000)), {}, {str(i): i for i in range(16)},
    {str(i): i for i in range(70000)}, {"a": {"b": [None, 1.5, "c"]}},
]  # fmt: skip


def test_the_page_reads_and_writes_the_same_msgpack_as_the_server() -> None:
    translate = """(text) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const { encode, decode } = window.rfm.wire;
      let back = "";
      for (const byte of encode(decode(bytes.buffer))) back += String.fromCharCode(byte);
      return btoa(back);
    }"""

    async def play(on: Stage) -> None:
        async def echo(data: bytes) -> bytes:
            return base64.b64decode(await on.page.evaluate(translate, base64.b64encode(data).decode()))

        for content in CONTENTS:
            assert msgpack.unpackb(await echo(msgpack.packb(content))) == content
        for size in (0, 1, 255, 256, 70000):
            assert msgpack.unpackb(await echo(msgpack.packb(bytes(size)))) == bytes(size)
        assert msgpack.unpackb(await echo(msgpack.packb(0.25, use_single_float=True))) == 0.25
        for message in (Set(ETA, 0.75), Set("/prompt", "regen ☂"), Get(ETA), Subscribe(True, False)):
            assert wire.decode(await echo(wire.encode(message))) == message
        hello = Hello(tuple(on.board.table), on.board.full_state(), RATE)
        assert wire.decode(await echo(wire.encode(hello))) == hello

    on_stage(play)


def test_the_jitter_buffer_fades_on_a_gap_and_on_a_jump_and_drops_the_oldest() -> None:
    # An OfflineAudioContext renders the worklet without a clock, so everything is queued up before.
    # Every sample is 0.5, so that fades can be read off.
    render = f"""async ([seconds, parts]) => {{
      const context = new OfflineAudioContext(1, seconds * {RATE}, {RATE});
      await context.audioWorklet.addModule("worklet.js");
      const player = new AudioWorkletNode(context, "rfm-player", {{ numberOfInputs: 0, outputChannelCount: [1] }});
      player.connect(context.destination);
      const report = () => new Promise((resolve) => {{
        player.port.onmessage = ({{ data }}) => resolve(data);
        player.port.postMessage({{ report: true }});
      }});
      for (const [start, count] of parts)
        player.port.postMessage({{ start, samples: new Float32Array(count).fill(0.5) }});
      await report(); // so that everything has arrived
      const rendered = await context.startRendering();
      return {{ sound: ({FLOATS_AS_TEXT})(rendered.getChannelData(0)), last: await report() }};
    }}"""

    async def play(on: Stage) -> None:
        rise, fall = np.arange(1, FADE + 1) / FADE / 2, np.arange(FADE - 1, -1, -1) / FADE / 2

        def heard(*parts: npt.ArrayLike) -> npt.NDArray[np.float64]:
            return np.concatenate([np.atleast_1d(part) for part in parts])

        def held(count: int) -> npt.NDArray[np.float64]:
            return np.full(count - FADE, 0.5)

        def check(sound: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
            begin = int(np.flatnonzero(sound)[0])
            assert np.abs(sound[begin : begin + len(expected)] - expected).max() < 1e-6

        silence = np.zeros(1000)
        gap = await on.page.evaluate(render, [1.0, [[0, 6400]]])
        check(floats(gap["sound"]), heard(rise, held(6400), fall, silence))
        assert (gap["last"]["gaps"], gap["last"]["dropped"]) == (1, 0)
        jump = await on.page.evaluate(render, [1.0, [[0, 3200], [32000, 6400]]])
        check(floats(jump["sound"]), heard(rise, held(3200), fall, 0, rise, held(6400), fall, silence))
        assert (jump["last"]["gaps"], jump["last"]["dropped"]) == (1, 0)
        joined = await on.page.evaluate(render, [1.0, [[0, 3200], [3200, 6400]]])
        check(floats(joined["sound"]), heard(rise, held(9600), fall, silence))
        few = await on.page.evaluate(render, [0.5, [[0, 3839]]])
        assert not floats(few["sound"]).any()
        many = await on.page.evaluate(render, [1.0, [[0, 1000], [1000, 1000], [2000, 17600]]])
        check(floats(many["sound"]), heard(rise, held(17600), fall, silence))
        assert (many["last"]["gaps"], many["last"]["dropped"]) == (1, 2000)

    on_stage(play)
