"""The instrument in a real Chromium: what the page's AudioWorklet plays is what the engine writes, sample by sample."""

import asyncio
import base64
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from playwright.async_api import async_playwright

from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import load_checkpoint
from tests.performance import playing

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
]

RATE = 32_000
SEED = 5

CAPTURE = """async (count) => {
  const { samples, start, breaks } = await window.rfm.capture(count);
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return { start, breaks, samples: btoa(text) };
}"""


async def capture(url: str) -> tuple[int, npt.NDArray[np.float32]]:
    """Listen on the page and return one second without a gap: its place in the stream, and its samples."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--autoplay-policy=no-user-gesture-required"]
        )
        try:
            page = await browser.new_page()
            await page.goto(url)
            await page.click("#listen")
            for _ in range(100):
                if await page.evaluate("Boolean(window.rfm.listener.node)"):
                    break
                await asyncio.sleep(0.05)
            await page.evaluate(CAPTURE, RATE // 2)  # the fade-in
            for _ in range(10):
                heard = await page.evaluate(CAPTURE, RATE)
                if heard["breaks"] == 0:
                    return heard["start"], np.frombuffer(base64.b64decode(heard["samples"]), "<f4")
        finally:
            await browser.close()
    raise AssertionError("no second without a gap in ten")


def test_the_worklet_plays_what_the_engine_of_the_same_seed_renders(tmp_path: Path) -> None:
    """The page's samples equal those of an engine in this process: stream, tape, socket and worklet change nothing."""
    with playing(tmp_path, "--sink", "null", "--seed", str(SEED), "--buffer", "1000") as performance:
        url = f"http://127.0.0.1:{performance.http_port}/"
        start, samples = asyncio.run(asyncio.wait_for(capture(url), 60))
    model = load_checkpoint(CHECKPOINT)
    engine = Engine(model, None, default_settings(CHECKPOINT, model.config, prompt=DEFAULT_PROMPT, seed=SEED))
    rendered = engine.render([], (start + len(samples)) / RATE + 0.1)
    assert np.abs(samples).max() > 0.01
    assert np.array_equal(samples, rendered[start : start + len(samples)])
