"""The commands `models list`, `pull` and `check`, against a hub on this machine."""

import hashlib
import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import EncodecModel, MusicgenForConditionalGeneration, T5Config, T5EncoderModel
from typer.testing import CliRunner, Result

from rfm_live.cli import app
from rfm_live.model.hub import needed_files
from tests.hub_server import COMMIT, Hub, running
from tests.performance import command, environment
from tests.tiny import tiny_checkpoint, tiny_tokenizer

FIXTURE = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
NAME = "someone/tiny"
WAIT_SECONDS = 30.0


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub()) as served:
        yield served


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def large_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of more than the 10 MB that the hub's library writes at a time."""
    return tiny_checkpoint(tmp_path_factory.mktemp("large"), width=640, layers=2, heads=2, ffn_width=1024)


def surroundings(home: Path, hub: Hub | None, **more: str) -> dict[str, str]:
    variables = {key: value for key, value in environment().items() if not key.startswith(("HF_", "HUGGING"))}
    variables |= {"HF_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"} | more
    return variables | ({"HF_ENDPOINT": hub.url} if hub is not None else {})


def run(home: Path, hub: Hub | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = surroundings(home, hub, **more)
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=env, timeout=120)


def here(*arguments: str) -> Result:
    """A command in this process, for those that need no hub and no cache of their own."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def run_on_terminal(home: Path, hub: Hub, *arguments: str) -> str:
    """What a command shows on a terminal, where progress bars are drawn."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (25, 120))
    process = subprocess.Popen(command(*arguments), env=surroundings(home, hub), stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 65_536):
            shown += block
    except OSError:  # so ends the terminal of a process that has ended
        pass
    os.close(ours)
    assert process.wait(WAIT_SECONDS) == 0, shown
    return shown.decode()


def snapshot(home: Path, name: str) -> Path:
    return home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command ends; warnings of others go before it."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("rfm-live: ") and "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    return lines[-1]


def test_a_pull_brings_only_what_is_needed_and_the_rest_works_offline(hub: Hub, home: Path, tmp_path: Path) -> None:
    folder = hub.models[NAME] = tiny_checkpoint(tmp_path / "model")
    (folder / "README.md").write_text("# Tiny\n")
    for useless in ("pytorch_model.bin", "state_dict.bin", "flax_model.msgpack", "decoder.onnx"):
        (folder / useless).write_bytes(b"x" * 1000)
    assert "model.safetensors: 100%" in run_on_terminal(home, hub, "models", "pull", NAME)
    found = {file.name for file in snapshot(home, NAME).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= found
    assert not found & {"pytorch_model.bin", "state_dict.bin", "flax_model.msgpack", "decoder.onnx"}
    assert (snapshot(home, NAME) / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    asked = len(hub.requests)
    listed = run(home, hub, "models", "list", "--json", HF_HUB_OFFLINE="1")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["embedded", NAME]
    assert [row["state"] for row in json.loads(listed.stdout)] == ["ready", "ready"]
    rendered = run(home, hub, "render", "", "--seconds", "0.1", "--checkpoint", NAME, "-o", str(tmp_path / "x.wav"))
    assert rendered.returncode == 0, rendered.stderr
    assert len(hub.requests) == asked  # neither of them went to the network


def test_check_tells_everything_that_it_read(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ntags: [x]\n---\n# Tiny\n")
    checked = json.loads(here("models", "check", str(folder), "--json").stdout)
    assert checked["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert checked["decoder"]["width"] == 128 and checked["codec"]["pad_mode"] == "constant"
    assert checked["licence"] == "cc-by-nc-4.0, says its model card"
    assert checked["can"] == {"play": "yes", "take prompts": "yes"}
    tensors = load_file(folder / "model.safetensors").items()
    count = sum(tensor.numel() for key, tensor in tensors if key.startswith(("decoder.", "enc_to_dec_proj.")))
    assert checked["stored"]["decoder"] == f"{count} numbers, bfloat16"
    table = here("models", "check", str(folder)).stdout
    assert "decoder width" in table and "cc-by-nc-4.0" in table and checked["sha256"][:20] in table


def test_an_interrupted_pull_goes_on_where_it_ended(hub: Hub, home: Path, large_path: Path) -> None:
    hub.models[NAME] = large_path
    size = (large_path / "model.safetensors").stat().st_size
    hub.stall_after["model.safetensors"] = 12_000_000
    assert size > 15_000_000
    env = surroundings(home, hub)
    process = subprocess.Popen(command("models", "pull", NAME), env=env, stderr=subprocess.PIPE, text=True)
    assert hub.stalled.wait(WAIT_SECONDS)
    blobs = home / "hub" / "models--someone--tiny" / "blobs"
    deadline = time.monotonic() + WAIT_SECONDS
    while not (parts := [part for part in blobs.glob("*.part") if part.stat().st_size]):
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130 and told.strip().endswith("rfm-live: stopped")
    have = parts[0].stat().st_size
    assert 0 < have <= 12_000_000
    hub.go_on.set()

    again = run(home, hub, "models", "pull", NAME)
    assert again.returncode == 0, again.stderr
    assert hub.ranges("model.safetensors") == [None, f"bytes={have}-"]
    got = (snapshot(home, NAME) / "model.safetensors").read_bytes()
    assert got == (large_path / "model.safetensors").read_bytes()
    assert not list(blobs.glob("*.part"))

    once_more = run(home, hub, "models", "pull", NAME)
    assert once_more.returncode == 0 and len(hub.ranges("model.safetensors")) == 2


def test_a_connection_that_breaks_off_is_taken_up_again(hub: Hub, home: Path, large_path: Path) -> None:
    hub.models[NAME] = large_path
    hub.break_after["model.safetensors"] = 12_000_000
    pulled = run(home, hub, "models", "pull", NAME)
    assert pulled.returncode == 0, pulled.stderr
    first, *later = hub.ranges("model.safetensors")
    assert first is None and len(later) == 1 and later[0] is not None
    got = (snapshot(home, NAME) / "model.safetensors").read_bytes()
    assert got == (large_path / "model.safetensors").read_bytes()


def test_a_file_that_arrives_damaged_is_not_kept(hub: Hub, home: Path, tiny_path: Path) -> None:
    hub.models[NAME] = tiny_path
    hub.damaged.add("model.safetensors")
    pulled = run(home, hub, "models", "pull", NAME)
    assert pulled.returncode == 2
    assert pulled.stderr.strip().splitlines()[-1].endswith("model.safetensors arrived damaged; pull it again")
    blobs = list((home / "hub" / "models--someone--tiny" / "blobs").iterdir())
    assert not [blob for blob in blobs if blob.suffix == ".part" or blob.stat().st_size > 100_000]


def test_what_cannot_be_pulled_ends_with_one_line(hub: Hub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    hub.models["someone/empty"] = tmp_path / "empty"
    assert "HF_HUB_OFFLINE is set" in refusal(run(home, hub, "models", "pull", NAME, HF_HUB_OFFLINE="1"))
    assert "has no such public model" in refusal(run(home, hub, "models", "pull", NAME))
    assert "no revision 'v9'" in refusal(run(home, hub, "models", "pull", "someone/empty@v9"))
    assert "holds no weights in" in refusal(run(home, hub, "models", "pull", "someone/empty"))
    assert "is no name on the hub" in refusal(run(home, hub, "models", "pull", "a/b/c"))
    nowhere = Hub(url="http://127.0.0.1:9")
    assert "cannot be pulled from http://127.0.0.1:9" in refusal(run(home, nowhere, "models", "pull", NAME))


def test_a_model_that_was_not_pulled_says_how_and_asks_nobody(hub: Hub, home: Path, tiny_path: Path) -> None:
    hub.models[NAME] = tiny_path
    for arguments in (("render", "", "--checkpoint", NAME), ("play", "--checkpoint", NAME), ("models", "check", NAME)):
        assert f"rfm-live models pull {NAME}" in refusal(run(home, hub, *arguments))
    assert not hub.requests


def test_audiocrafts_files_bring_the_text_encoder_and_codec_that_they_name(
    hub: Hub, home: Path, tmp_path: Path
) -> None:
    hub.models[NAME] = copytree(FIXTURE, tmp_path / "audiocraft")
    torch.save({"pretrained": "facebook/encodec_32khz", "version": "1.3.0"}, tmp_path / "audiocraft" / CODEC)
    hub.models["facebook/encodec_32khz"] = tmp_path / "codec"
    codec_model(tmp_path / "whole").save_pretrained(tmp_path / "codec")
    hub.models["t5-base"] = tmp_path / "t5"
    tokenizer = tiny_tokenizer()
    t5 = T5Config(vocab_size=len(tokenizer), d_model=768, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    T5EncoderModel(t5).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    pulled = run(home, hub, "models", "pull", NAME)
    assert pulled.returncode == 0, pulled.stderr
    checked = json.loads(run(home, hub, "models", "check", NAME, "--json", HF_HUB_OFFLINE="1").stdout)
    assert checked["layout"] == "audiocraft" and checked["text_encoder"] == "t5-base"
    assert checked["codec"]["pad_mode"] == "reflect" and checked["codec"]["causal"] is False
    assert checked["play"] == {"temperature": 1.0, "top_k": 128, "top_p": 1.0, "guidance": 3.0, "window_frames": 1500}
    assert checked["can"] == {"play": "yes", "take prompts": "yes"}


CODEC = "compression_state_dict.bin"


def codec_model(folder: Path) -> EncodecModel:
    path = tiny_checkpoint(folder, codebook_size=128, causal=False, pad_mode="reflect")
    model: Any = MusicgenForConditionalGeneration.from_pretrained(path)
    return model.audio_encoder


def test_check_refuses_in_one_line_and_runs_nothing_unless_it_is_told(tmp_path: Path) -> None:
    folder = copytree(FIXTURE, tmp_path / "model")
    content = torch.load(folder / "state_dict.bin", weights_only=True)
    content["strange"] = Canary(tmp_path / "canary")
    torch.save(content, folder / "state_dict.bin")
    refused = here("models", "check", str(folder))
    line = refused.stderr.strip()
    assert refused.exit_code == 2 and "\n" not in line
    assert "state_dict.bin: its pickle asks for 'os.makedirs', which may run code; --trust-pickle allows it" in line
    assert not (tmp_path / "canary").exists()
    trusted = here("models", "check", str(folder), "--trust-pickle")
    assert trusted.exit_code == 0, trusted.stderr
    assert (tmp_path / "canary").is_dir()


class Canary:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.place), 0o777, True)


def test_the_list_tells_why_a_checkpoint_cannot_be_opened(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    for name in ("good", "short"):
        copytree(FIXTURE, shelf / name)
    (shelf / "short" / "state_dict.bin").write_bytes(b"PK")
    rows = {Path(row["name"]).name: row for row in json.loads(here("models", "list", str(shelf), "--json").stdout)}
    assert rows["embedded"]["state"] == rows["good"]["state"] == "ready"
    assert (rows["good"]["layout"], rows["good"]["blocks"], rows["good"]["width"]) == ("audiocraft", 3, 64)
    assert "state_dict.bin: no archive of torch.save" in rows["short"]["state"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], ["model.safetensors", "config.json"]),
        (["config.json", "pytorch_model.bin", "state_dict.bin"], ["pytorch_model.bin", "config.json"]),
        (
            [
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-bad.safetensors",
            ],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json"],
        ),
        (["config.json", "model.safetensors.index.json"], []),
        (["state_dict.bin", "compression_state_dict.bin"], ["state_dict.bin", "compression_state_dict.bin"]),
        (["state_dict.bin"], []),
        (["model.safetensors", "spiece.model"], []),
        ([], []),
    ],
)
def test_the_needed_files_are_those_of_one_complete_layout(names: list[str], expected: list[str]) -> None:
    assert needed_files(names) == expected
