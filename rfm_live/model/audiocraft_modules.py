"""What `xp.cfg` would say of audiocraft's modules that carry no configuration, read off the modules themselves.

Used by `objects.py`; `audiocraft_config.py` judges the answer as if it had come from a file. Names of attributes are
those of audiocraft 1.3. Biases, layer scales and norms of queries need no look: they show as unexpected keys.
"""

from typing import Any

import torch

from rfm_live.errors import CheckpointError


def language_experiment(lm: Any, place: str) -> dict[str, Any]:
    """The sections of `xp.cfg` for an audiocraft LMModel. Raises `CheckpointError` for what is none."""
    try:
        transformer, pattern, fuser = lm.transformer, lm.pattern_provider, lm.fuser
        block = transformer.layers[0]
        attention = block.self_attn
        conditioners = lm.condition_provider.conditioners
        return {
            "transformer_lm": {
                "dim": lm.dim,
                "num_heads": attention.num_heads,
                "num_layers": len(transformer.layers),
                "hidden_scale": block.linear1.out_features // lm.dim,
                "n_q": lm.n_q,
                "card": lm.card,
                "norm_first": block.norm_first,
                "norm": "layer_norm" if isinstance(block.norm1, torch.nn.LayerNorm) else type(block.norm1).__name__,
                "activation": "gelu" if block.activation is torch.nn.functional.gelu else repr(block.activation),
                "bias_ff": block.linear1.bias is not None,
                "bias_attn": attention.out_proj.bias is not None,
                "bias_proj": lm.linears[0].bias is not None,
                "causal": attention.causal,
                "past_context": attention.past_context,
                "kv_repeat": attention.kv_repeat,
                "qk_layer_norm": attention.qk_layer_norm,
                "positional_embedding": transformer.positional_embedding,
                "max_period": transformer.max_period,
                "positional_scale": transformer.positional_scale,
            },
            "codebooks_pattern": {
                "modeling": "delay" if hasattr(pattern, "empty_initial") else type(pattern).__name__,
                "delay": {name: getattr(pattern, name, None) for name in ("delays", "flatten_first", "empty_initial")},
            },
            "fuser": {**fuser.fuse2cond, "cross_attention_pos_emb": fuser.cross_attention_pos_emb},
            "conditioners": {name: _conditioner(conditioners[name]) for name in conditioners},
            "classifier_free_guidance": {"inference_coef": lm.cfg_coef},
        }
    except (AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{place} is {type(lm).__name__}, expected LMModel: {error}") from error


def _conditioner(module: Any) -> dict[str, Any]:
    """A text conditioner's section; of another kind only the name of its class."""
    if not hasattr(module, "t5_tokenizer"):
        return {"model": type(module).__name__}
    text = {"name": module.name, "finetune": module.finetune, "normalize_text": module.normalize_text}
    return {"model": "t5", "t5": text}


def codec_experiment(model: Any, place: str) -> dict[str, Any]:
    """What `xp.cfg` would say of an audiocraft EncodecModel, which keeps no configuration, read off its modules."""
    try:
        net, quantizer = model.decoder, model.quantizer
        first, last = net.model[0], net.model[-1]
        blocks = [layer for layer in net.model if hasattr(layer, "block")]
        upsamplers = [layer for layer in net.model if hasattr(layer, "convtr")]
        recurrent = next(layer for layer in net.model if hasattr(layer, "lstm"))
        per_stage = len(blocks) // len(upsamplers)
        residual = blocks[0].block[1].conv.conv
        growth = blocks[1].block[1].conv.conv.dilation[0] if per_stage > 1 else 2
        return {
            "compression_model": "encodec",
            "encodec": {
                "sample_rate": model.sample_rate,
                "channels": model.channels,
                "renormalize": bool(model.renormalize),
            },
            "seanet": {
                "dimension": net.dimension,
                "channels": net.channels,
                "n_filters": net.n_filters,
                "n_residual_layers": per_stage,
                "ratios": [layer.convtr.convtr.stride[0] for layer in upsamplers],
                "kernel_size": first.conv.conv.kernel_size[0],
                "last_kernel_size": last.conv.conv.kernel_size[0],
                "residual_kernel_size": residual.kernel_size[0],
                "dilation_base": growth,
                "compress": residual.in_channels // residual.out_channels,
                "lstm": recurrent.lstm.num_layers,
                "causal": first.causal,
                "pad_mode": first.pad_mode,
                "true_skip": isinstance(blocks[0].shortcut, torch.nn.Identity),
                "decoder": {"trim_right_ratio": upsamplers[0].trim_right_ratio},
            },
            "rvq": {"n_q": quantizer.n_q, "bins": quantizer.bins},
        }
    except (AttributeError, IndexError, TypeError, StopIteration, ZeroDivisionError) as error:
        raise CheckpointError(f"{place} is {type(model).__name__}, expected EnCodec: {error}") from error
