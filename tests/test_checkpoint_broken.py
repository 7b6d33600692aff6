"""Broken, foreign and hostile checkpoints: each is refused in one line, within a second, and nothing in it is run."""

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from rfm_live.engine.opening import open_engine
from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import load_checkpoint, load_text_encoder

FIXTURE = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
SAFETENSORS, CONFIG, BIN, INDEX = (
    "model.safetensors",
    "config.json",
    "pytorch_model.bin",
    "model.safetensors.index.json",
)
LANGUAGE, CODEC = "state_dict.bin", "compression_state_dict.bin"
HEAD = "decoder.lm_heads.2.weight"
SECONDS = 1.0

Damage = Callable[[Path], None]


class Touch:
    """Unpickled, it would make a folder `canary` in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.folder / "canary"), 0o777, True)


# What can be done to a safetensors file.


def tensors_changed(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / SAFETENSORS)
        change(tensors)
        save_file(tensors, folder / SAFETENSORS)

    return damage


def header_changed(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / SAFETENSORS
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


def bytes_changed(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def linked(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def indexed(places: dict[str, str]) -> Damage:
    """The single file becomes a shard, and an index says where keys are."""

    def damage(folder: Path) -> None:
        (folder / SAFETENSORS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))

    return damage


def config_changed(section: str | None, key: str, value: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (config if section is None else config[section])[key] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


def as_bin(change: Callable[[dict[str, Any], Path], object], **options: Any) -> Damage:
    """The transformers checkpoint as a changed pytorch_model.bin."""

    def damage(folder: Path) -> None:
        content: dict[str, Any] = load_file(folder / SAFETENSORS)
        (folder / SAFETENSORS).unlink()
        change(content, folder)
        torch.save(content, folder / BIN, **options)

    return damage


def raw(name: str, make: Callable[[Path], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / SAFETENSORS).unlink(missing_ok=True)
        (folder / name).write_bytes(make(folder))

    return damage


# What can be done to audiocraft's files.


def exported(name: str, change: Callable[[dict[str, Any], Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = torch.load(folder / name, weights_only=True)
        change(content, folder)
        torch.save(content, folder / name)

    return damage


def weights_changed(change: Callable[[dict[str, Any]], object], name: str = LANGUAGE) -> Damage:
    return exported(name, lambda content, folder: change(content["best_state"]))


def experiment(path: str, value: Any, name: str = LANGUAGE) -> Damage:
    """One field of xp.cfg has another value."""

    def change(content: dict[str, Any], folder: Path) -> None:
        settings = yaml.safe_load(content["xp.cfg"])
        *sections, last = path.split(".")
        inner = settings
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
        content["xp.cfg"] = yaml.safe_dump(settings)

    return exported(name, change)


def experiment_text(make: Callable[[str, Path], str]) -> Damage:
    return exported(LANGUAGE, lambda content, folder: content.update({"xp.cfg": make(content["xp.cfg"], folder)}))


def repacked(compression: int, twice: bool = False) -> Damage:
    """The archive written again by another zip program."""

    def damage(folder: Path) -> None:
        with zipfile.ZipFile(folder / LANGUAGE) as archive:
            records = [(record.filename, archive.read(record)) for record in archive.infolist()]
        with zipfile.ZipFile(folder / LANGUAGE, "w", compression) as archive:
            for name, content in records:
                archive.writestr(name, content)
            if twice:
                archive.writestr(records[-1][0] + "x", records[-1][1])
                archive.filelist[-1].filename = records[-1][0]

    return damage


def declared_larger(folder: Path) -> None:
    """Every record of the central directory claims to be a gigabyte."""
    content = bytearray((folder / LANGUAGE).read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    (folder / LANGUAGE).write_bytes(content)


def bomb_yaml() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join(lines)


def first_weight(tensors: dict[str, Any], key: str, value: float) -> None:
    tensors[key].view(-1)[7] = value


TRANSFORMERS: dict[str, tuple[Damage, str]] = {
    "empty folder": (lambda folder: [file.unlink() for file in folder.iterdir()] and None, "config.json: cannot be"),
    "no weights": (lambda folder: (folder / SAFETENSORS).unlink(), "no model.safetensors or pytorch_model.bin"),
    "config cut short": (bytes_changed(CONFIG, lambda b: b[:-200]), "config.json: cannot be read"),
    "config of bytes": (bytes_changed(CONFIG, lambda b: b"\xff\xfe\x00{"), "config.json: cannot be read"),
    "config nested deeply": (bytes_changed(CONFIG, lambda b: b'{"a":' * 200_000), "config.json: is nested too deeply"),
    "config too large": (bytes_changed(CONFIG, lambda b: b" " * (17 << 20)), "config.json: has 17825792 bytes"),
    "config linked in a circle": (linked(CONFIG, CONFIG), "config.json: cannot be read"),
    "absurd width": (config_changed("decoder", "hidden_size", 65_536), "decoder has 512 positions of width 65536"),
    "embeddings of other width": (config_changed("decoder", "hidden_size", 256), "shape [65, 128], expected [65, 256]"),
    "absurd depth": (
        config_changed("decoder", "num_hidden_layers", 256),
        "layers.3.self_attn.q_proj.weight' is missing",
    ),
    "absurd positions": (
        config_changed("decoder", "max_position_embeddings", 10**9),
        "max_position_embeddings is 1000",
    ),
    "absurd codec": (config_changed("audio_encoder", "num_filters", 10**9), "num_filters is 1000000000, expected"),
    "empty weights": (bytes_changed(SAFETENSORS, lambda b: b""), "model.safetensors: no safetensors"),
    "weights cut short": (bytes_changed(SAFETENSORS, lambda b: b[:-5000]), "model.safetensors: key '"),
    "weights too long": (bytes_changed(SAFETENSORS, lambda b: b + b"junk"), "model.safetensors: has "),
    "header cut short": (bytes_changed(SAFETENSORS, lambda b: b[:100]), "model.safetensors: no safetensors"),
    "header of exabytes": (
        bytes_changed(SAFETENSORS, lambda b: struct.pack("<Q", 1 << 60) + b[8:]),
        "a header of 1152921504606846976 bytes",
    ),
    "header nested deeply": (
        bytes_changed(SAFETENSORS, lambda b: struct.pack("<Q", 600_000) + b'{"a":' * 120_000),
        "header: is nested too deeply",
    ),
    "header of a list": (
        bytes_changed(SAFETENSORS, lambda b: struct.pack("<Q", 2) + b"[]"),
        "model.safetensors: header: expected a JSON object",
    ),
    "pointer of git lfs": (
        bytes_changed(SAFETENSORS, lambda b: b"version https://git-lfs.github.com/spec/v1\nsize 2364\n"),
        "model.safetensors: no safetensors",
    ),
    "tensors that overlap": (
        header_changed(lambda header: header[HEAD].update(data_offsets=[0, 64 * 128 * 4])),
        "begins at byte",
    ),
    "shape that does not fit its bytes": (
        header_changed(lambda header: header[HEAD].update(shape=[64, 129])),
        f"key '{HEAD}' takes 32768 bytes",
    ),
    "negative shape": (
        header_changed(lambda header: header[HEAD].update(shape=[-64, -128])),
        f"key '{HEAD}' has shape",
    ),
    "entry without place": (header_changed(lambda header: header[HEAD].pop("data_offsets")), f"key '{HEAD}' has no"),
    "unknown type": (header_changed(lambda header: header[HEAD].update(dtype="F4")), f"key '{HEAD}' holds 'F4'"),
    "NaN": (tensors_changed(lambda t: first_weight(t, HEAD, float("nan"))), f"key '{HEAD}' holds NaN"),
    "infinity": (
        tensors_changed(lambda t: first_weight(t, "audio_encoder.decoder.layers.0.conv.bias", float("inf"))),
        "layers.0.conv.bias' holds NaN or infinity",
    ),
    "integers": (tensors_changed(lambda t: t.update({HEAD: t[HEAD].int()})), f"key '{HEAD}' holds int32"),
    "key missing": (tensors_changed(lambda t: t.pop(HEAD)), f"key '{HEAD}' is missing"),
    "key too many": (tensors_changed(lambda t: t.update(strange=torch.ones(3))), "unexpected key 'strange'"),
    "other shape": (tensors_changed(lambda t: t.update({HEAD: t[HEAD].T.contiguous()})), f"key '{HEAD}' has shape"),
    "weights linked in a circle": (linked(SAFETENSORS, SAFETENSORS), "model.safetensors: is a link to nowhere"),
    "weights linked to nowhere": (linked(SAFETENSORS, "../blobs/none"), "model.safetensors: is a link to nowhere"),
    "shard outside the folder": (
        indexed({HEAD: "../model-00001-of-00001.safetensors"}),
        f"{INDEX}: key '{HEAD}' is in",
    ),
    "shard with a path": (indexed({HEAD: "/etc/passwd"}), f"{INDEX}: key '{HEAD}' is in '/etc/passwd'"),
    "shard that is absent": (indexed({HEAD: "model-00002-of-00002.safetensors"}), "00002.safetensors: cannot be read"),
    "shard without its key": (indexed({"strange": "model-00001-of-00001.safetensors"}), f"{INDEX}: key 'strange'"),
    "index without map": (indexed({}), f"{INDEX}: no weight_map"),
    "pickle that runs code": (
        as_bin(lambda content, folder: content.update(strange=Touch(folder))),
        "pytorch_model.bin: its pickle asks for 'os.makedirs'",
    ),
    "bare pickle that runs code": (
        raw(BIN, lambda folder: pickle.dumps(Touch(folder))),
        "pytorch_model.bin: no archive of torch.save",
    ),
    "pickle of the old form": (
        as_bin(lambda content, folder: None, _use_new_zipfile_serialization=False),
        "pytorch_model.bin: no archive of torch.save",
    ),
    "number where tensors belong": (
        as_bin(lambda content, folder: content.update({HEAD: 3})),
        f"pytorch_model.bin: key '{HEAD}' is 3, expected a tensor",
    ),
    "sparse tensor": (
        as_bin(lambda content, folder: content.update({HEAD: content[HEAD].to_sparse()})),
        f"pytorch_model.bin: key '{HEAD}' is",
    ),
}

AUDIOCRAFT: dict[str, tuple[Damage, str]] = {
    "cut short": (bytes_changed(LANGUAGE, lambda b: b[:-3000]), f"{LANGUAGE}: no archive of torch.save, or cut short"),
    "a web page": (bytes_changed(LANGUAGE, lambda b: b"<!DOCTYPE html>" * 99), f"{LANGUAGE}: no archive"),
    "middle overwritten": (
        bytes_changed(LANGUAGE, lambda b: b[:64] + b"\x80" * 5000 + b[5064:]),
        f"{LANGUAGE}: ",
    ),
    "zip bomb": (repacked(zipfile.ZIP_DEFLATED), "is compressed, expected it stored"),
    "records larger than the file": (declared_larger, f"{LANGUAGE}: declares "),
    "record twice": (repacked(zipfile.ZIP_STORED, twice=True), "some twice or too many"),
    "no pickle inside": (
        raw(LANGUAGE, lambda folder: b"PK\x05\x06" + bytes(18)),
        f"{LANGUAGE}: no archive of torch.save: 0 records data.pkl",
    ),
    "pickle bomb": (
        exported(LANGUAGE, lambda content, folder: content.update(strange=Touch(folder))),
        f"{LANGUAGE}: its pickle asks for 'os.makedirs', which may run code",
    ),
    "pickle bomb in the codec": (
        exported(CODEC, lambda content, folder: content.update(strange=Touch(folder))),
        f"{CODEC}: its pickle asks for 'os.makedirs'",
    ),
    "pickle of millions": (
        exported(LANGUAGE, lambda content, folder: content.update(strange=list(range(10**6)))),
        f"{LANGUAGE}: data.pkl has ",
    ),
    "a list": (lambda folder: torch.save([1, 2], folder / LANGUAGE), f"{LANGUAGE}: holds list"),
    "no codec": (lambda folder: (folder / CODEC).unlink(), f"{CODEC}: cannot be read"),
    "no best_state": (exported(LANGUAGE, lambda c, folder: c.pop("best_state")), "key 'best_state' is missing"),
    "not exported": (
        exported(LANGUAGE, lambda c, folder: c.update(best_state={"model": c["best_state"]})),
        f"{LANGUAGE}: best_state: key 'model' is",
    ),
    "no xp.cfg": (exported(LANGUAGE, lambda c, folder: c.pop("xp.cfg")), "key 'xp.cfg' is missing"),
    "xp.cfg of another type": (
        exported(LANGUAGE, lambda c, f: c.update({"xp.cfg": 3})),
        "xp.cfg is int, expected YAML",
    ),
    "bad YAML": (experiment_text(lambda text, folder: text + "\n\tx: ["), "xp.cfg: is no plain YAML"),
    "YAML bomb": (experiment_text(lambda text, folder: bomb_yaml()), "xp.cfg: holds the alias"),
    "YAML too long": (experiment_text(lambda text, folder: text * 40), "xp.cfg: has "),
    "YAML nested deeply": (experiment_text(lambda text, folder: "[" * 5000), "xp.cfg: is nested too deeply"),
    "YAML that runs code": (
        experiment_text(lambda text, folder: f"a: !!python/object/apply:os.mkdir ['{folder}/canary']"),
        "xp.cfg: is no plain YAML: could not determine a constructor",
    ),
    "interpolation in a circle": (experiment("transformer_lm.dim", "${transformer_lm.dim}"), "leads in a circle"),
    "interpolation to nowhere": (experiment("transformer_lm.dim", "${nothing.here}"), "leads nowhere"),
    "interpolation of the environment": (experiment("transformer_lm.dim", "${oc.env:HOME}"), "is no interpolation"),
    "melody": (experiment("conditioners.self_wav", {"model": "chroma_stem"}), "'self_wav' makes it a melody or style"),
    "jasco": (experiment("conditioners.chords", {"model": "chords_emb"}), "'chords' makes it a JASCO checkpoint"),
    "stereo": (experiment("interleave_stereo_codebooks.use", True), "is a stereo checkpoint"),
    "eight codebooks": (experiment("transformer_lm.n_q", 8), "delays is [0, 1, 2, 3], supported is [0, 1, 2, 3, 4"),
    "AudioGen": (experiment("solver", "audiogen"), "solver is 'audiogen', supported is 'musicgen'"),
    "MAGNeT": (experiment("lm_model", "transformer_lm_magnet"), "lm_model is 'transformer_lm_magnet', supported is"),
    "another pattern": (experiment("codebooks_pattern.modeling", "parallel"), "modeling is 'parallel', supported is"),
    "other delays": (experiment("codebooks_pattern.delay.delays", [0, 0, 1, 1]), "delays is [0, 0, 1, 1], supported"),
    "flattened pattern": (experiment("codebooks_pattern.delay.flatten_first", 1), "flatten_first is 1"),
    "rope": (experiment("transformer_lm.positional_embedding", "rope"), "positional_embedding is 'rope'"),
    "layer scale": (experiment("transformer_lm.layer_scale", 1e-4), "layer_scale is 0.0001, supported is None"),
    "another norm": (experiment("transformer_lm.norm", "rms_norm"), "norm is 'rms_norm', supported is 'layer_norm'"),
    "post-norm": (experiment("transformer_lm.norm_first", False), "norm_first is False, supported is True"),
    "norm of queries": (experiment("transformer_lm.qk_layer_norm", True), "qk_layer_norm is True"),
    "repeated keys": (experiment("transformer_lm.kv_repeat", 2), "kv_repeat is 2, supported is 1"),
    "bias": (experiment("transformer_lm.bias_ff", True), "bias_ff is True, supported is False"),
    "prepended text": (experiment("fuser.prepend", ["description"]), "prepend is ['description'], supported is []"),
    "trained T5": (experiment("conditioners.description.t5.finetune", True), "finetune is True"),
    "another text encoder": (experiment("conditioners.description.t5.name", "bert"), "name is 'bert', supported is"),
    "codec of another kind": (experiment("compression_model", "dac", CODEC), "compression_model is 'dac'"),
    "codec with another norm": (experiment("seanet.norm", "time_group_norm", CODEC), "norm is 'time_group_norm'"),
    "codec of other size": (experiment("rvq.n_q", 8, CODEC), "decoder has 4 codebooks, audio_encoder has 8"),
    "pointer to nowhere": (
        lambda folder: torch.save({"pretrained": "facebook/encodec_none"}, folder / CODEC),
        "codec 'facebook/encodec_none' is neither in",
    ),
    "pointer out of the folder": (
        lambda folder: torch.save({"pretrained": "../../etc"}, folder / CODEC),
        f"{CODEC}: key 'pretrained' is '../../etc'",
    ),
    "NaN": (
        weights_changed(lambda t: first_weight(t, "linears.1.weight", float("nan"))),
        "key 'linears.1.weight' holds",
    ),
    "integers": (
        weights_changed(lambda t: t.update({"emb.3.weight": t["emb.3.weight"].long()})),
        "key 'emb.3.weight' holds int64",
    ),
    "complex numbers": (
        weights_changed(lambda t: t.update({"emb.3.weight": t["emb.3.weight"].to(torch.complex64)})),
        "key 'emb.3.weight' holds complex64",
    ),
    "key missing": (
        weights_changed(lambda t: t.pop("transformer.layers.1.cross_attention.in_proj_weight")),
        "key 'transformer.layers.1.cross_attention.in_proj_weight' is missing",
    ),
    "key too many": (
        weights_changed(lambda t: t.update({"transformer.layers.9.linear1.weight": torch.ones(2)})),
        f"{LANGUAGE}: unexpected key 'transformer.layers.9.linear1.weight'",
    ),
    "other shape": (
        weights_changed(lambda t: t.update({"linears.0.weight": torch.ones(128, 65)})),
        f"{LANGUAGE}: key 'linears.0.weight' has shape [128, 65], expected [128, 64]",
    ),
    "codebook of other shape": (
        weights_changed(lambda t: t.update({"quantizer.vq.layers.2._codebook.embed": torch.ones(128, 31)}), CODEC),
        f"{CODEC}: key 'quantizer.vq.layers.2._codebook.embed' has shape [128, 31]",
    ),
}

KINDS = [("transformers", name) for name in TRANSFORMERS] + [("audiocraft", name) for name in AUDIOCRAFT]


@pytest.mark.parametrize(("layout", "kind"), KINDS)
def test_a_broken_checkpoint_is_refused_in_one_line_and_nothing_is_run(
    layout: str, kind: str, tiny_path: Path, tmp_path: Path
) -> None:
    folder = copytree(tiny_path if layout == "transformers" else FIXTURE, tmp_path / "model")
    damage, words = (TRANSFORMERS if layout == "transformers" else AUDIOCRAFT)[kind]
    damage(folder)
    began = time.process_time()  # not the clock's: other tests may run beside
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(folder)
    seconds = time.process_time() - began
    message = str(refusal.value)
    assert words in message
    assert str(folder) in message
    assert "\n" not in message and len(message) < 600
    assert seconds < SECONDS
    assert not (folder / "canary").exists()


def test_a_trusted_pickle_is_run(tmp_path: Path) -> None:
    """So the canary above would sing."""
    folder = copytree(FIXTURE, tmp_path / "model")
    exported(LANGUAGE, lambda content, place: content.update(strange=Touch(place)))(folder)
    with pytest.raises(CheckpointError, match="may run code"):
        open_engine(str(folder))
    assert not (folder / "canary").exists()
    open_engine(str(folder), trust_pickle=True)
    assert (folder / "canary").is_dir()


def test_a_text_encoder_that_is_nowhere_is_named(tmp_path: Path) -> None:
    folder = copytree(FIXTURE, tmp_path / "model")
    experiment("conditioners.description.t5.name", "google/flan-t5-small")(folder)
    with pytest.raises(CheckpointError, match=r"text encoder 'google/flan-t5-small' is neither in .*models pull"):
        load_text_encoder(folder)
