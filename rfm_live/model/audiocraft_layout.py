"""MusicGen as audiocraft exports it: `state_dict.bin` and `compression_state_dict.bin`, opened and their names mapped.

Used by `checkpoint.py`. Each file is a dictionary with `best_state` (tensors) and `xp.cfg` (YAML). The codec's file may
instead point to a codec in transformers layout (`pretrained`), and the text encoder is never inside: both are looked
for in a folder of their name beside the files, then in the local Hugging Face cache.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfm_live.errors import CheckpointError
from rfm_live.model.assembly import Joined, ModuleSource, Part, Stacked, convolution
from rfm_live.model.audiocraft_config import LanguageModel, read_language_model, resolved
from rfm_live.model.config import CodecConfig, DecoderConfig
from rfm_live.model.documents import parse_yaml
from rfm_live.model.stored import StoredTensor, Weights, torch_weights
from rfm_live.model.torch_file import TorchFile
from rfm_live.places import cached_snapshot

LANGUAGE_MODEL = "state_dict.bin"
CODEC = "compression_state_dict.bin"
PROJECTION = "condition_provider.conditioners.description.output_proj"
_IGNORED = ("._codebook.inited", "._codebook.cluster_size", "._codebook.embed_avg")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def open_language_model(folder: Path, trust_pickle: bool = False) -> tuple[dict[str, StoredTensor], LanguageModel]:
    """Open and judge the language model of a folder -> (its tensors, what it is). Raises `CheckpointError`."""
    file = folder / LANGUAGE_MODEL
    weights, experiment = exported(TorchFile(file, trust_pickle))
    source = f"{file}: xp.cfg"
    return weights, read_language_model(resolved(experiment, source), text_width(weights, file), source)


def exported(opened: TorchFile) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of `best_state` and `xp.cfg`, parsed. Raises `CheckpointError`."""
    file = opened.file
    for key in ("best_state", "xp.cfg"):
        if key not in opened.content:
            raise CheckpointError(f"{file}: key '{key}' is missing, expected a file of audiocraft.utils.export")
    text = opened.content["xp.cfg"]
    if not isinstance(text, str):
        raise CheckpointError(f"{file}: xp.cfg is {type(text).__name__}, expected YAML text (audiocraft.utils.export)")
    return torch_weights(opened, ("best_state",)), parse_yaml(text, f"{file}: xp.cfg")


def codec_pointer(opened: TorchFile) -> str | None:
    """The hub id that the codec's file points to, or None when it holds the codec. Raises `CheckpointError`."""
    name = opened.content.get("pretrained")
    if name is None:
        return None
    name = name.removeprefix("//pretrained/") if isinstance(name, str) else name
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{opened.file}: key 'pretrained' is {name!r:.80}, expected the name of a codec on the hub"
        )
    return name


def companion(folder: Path, name: str, what: str) -> Path:
    """The folder of a model that the files in `folder` name but do not hold. Raises `CheckpointError`."""
    beside = folder / name.rpartition("/")[2]
    if (found := _find(beside, name)) is not None:
        return found
    where = f"neither in {beside} nor in the local Hugging Face cache"
    raise CheckpointError(f"{folder}: its {what} '{name}' is {where}: rfm-live models pull {name}")


def missing_companions(folder: Path) -> list[str]:
    """The names of the codec and the text encoder that the files in `folder` need and that are nowhere.

    Raises `CheckpointError` for files that are broken or unsupported.
    """
    _, model = open_language_model(folder)
    names = [name for name in (codec_pointer(TorchFile(folder / CODEC)), model.text_model) if name is not None]
    return [name for name in names if _find(folder / name.rpartition("/")[2], name) is None]


def _find(beside: Path, name: str) -> Path | None:
    if beside.is_dir():
        return beside
    # Old hub ids without owner have moved under one; a cache may know them by either.
    hub_ids = (name, f"google-t5/{name}") if name.startswith("t5-") else (name,)
    return next((cached for hub_id in hub_ids if (cached := cached_snapshot(hub_id)) is not None), None)


def text_width(weights: Weights, file: Path | str) -> int:
    """The width of the text states, which only the projection's shape [D, text_width] tells."""
    key = f"{PROJECTION}.weight"
    if key not in weights:
        raise CheckpointError(f"{file}: key '{key}' is missing")
    shape = weights[key].shape
    if len(shape) != 2 or not 1 <= shape[1] <= 1 << 16:
        raise CheckpointError(f"{file}: key '{key}' has shape {list(shape)}, expected [width, text width]")
    return shape[1]


def decoder_source(weights: Weights, config: DecoderConfig, place: str) -> ModuleSource:
    """Our decoder's names and audiocraft's keys; attention may be stored with or without `mha.` in them."""
    codebooks = range(config.codebooks)
    recipe: dict[str, Part] = {
        "embedding.weight": Joined(tuple(f"emb.{k}.weight" for k in codebooks)),
        "heads.weight": Joined(tuple(f"linears.{k}.weight" for k in codebooks)),
        "text_projection.weight": Joined((f"{PROJECTION}.weight",)),
        "text_projection.bias": Joined((f"{PROJECTION}.bias",)),
    }
    norms = {"out_norm": "out_norm"}
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.layers.{layer}"
        own, cross = (_attention(weights, f"{theirs}.{name}") for name in ("self_attn", "cross_attention"))
        recipe[f"{ours}.qkv.weight"] = Joined((f"{own}in_proj_weight",))
        recipe[f"{ours}.self_out.weight"] = Joined((f"{own}out_proj.weight",))
        recipe[f"{ours}.cross_q.weight"] = Joined((f"{cross}in_proj_weight",), first=0, count=1, blocks=3)
        recipe[f"{ours}.cross_kv.weight"] = Joined((f"{cross}in_proj_weight",), first=1, count=2, blocks=3)
        recipe[f"{ours}.cross_out.weight"] = Joined((f"{cross}out_proj.weight",))
        recipe[f"{ours}.ffn_in.weight"] = Joined((f"{theirs}.linear1.weight",))
        recipe[f"{ours}.ffn_out.weight"] = Joined((f"{theirs}.linear2.weight",))
        norms |= {f"{ours}.self_norm": f"{theirs}.norm1", f"{ours}.cross_norm": f"{theirs}.norm_cross"}
        norms[f"{ours}.ffn_norm"] = f"{theirs}.norm2"
    for our_name, their_name in norms.items():
        for kind in ("weight", "bias"):
            recipe[f"{our_name}.{kind}"] = Joined((f"{their_name}.{kind}",))
    return ModuleSource(place, weights, recipe)


def _attention(weights: Weights, prefix: str) -> str:
    return f"{prefix}.mha." if f"{prefix}.mha.in_proj_weight" in weights else f"{prefix}."


def codec_source(weights: Weights, names: Mapping[str, bool], config: CodecConfig, place: str) -> ModuleSource:
    """The codec's `names`, each with whether it belongs to a transposed convolution, and audiocraft's keys."""
    embeddings = tuple(f"quantizer.vq.layers.{k}._codebook.embed" for k in range(config.codebooks))
    recipe: dict[str, Part] = {"quantizer.codebooks": Stacked(embeddings)}
    for name, is_transposed in names.items():
        if name in recipe:
            continue
        theirs = name.replace(".layers.", ".model.")
        layer, dot, kind = theirs.rpartition(".conv.")
        if dot:
            layer += ".convtr.convtr" if is_transposed else ".conv.conv"
            recipe[name] = convolution(weights, layer) if kind == "weight" else Joined((f"{layer}.{kind}",))
        else:
            recipe[name] = Joined((theirs,))
    return ModuleSource(place, weights, recipe, _IGNORED)
