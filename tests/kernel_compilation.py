"""Compile every kernel for two generations of GPUs without having one, and print the sizes as JSON. Run as a script.

It needs a process of its own, in which Triton compiles rather than interprets.
"""

import json

from rfm_kernels import triton_kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

GENERATIONS = (80, 90)
STREAM = ("hidden", "contribution", "norm_weight", "norm_bias", "stream", "normed")
INJECTION = {
    "eta": "*fp32",
    "gate": "*fp32",
    "mode": "*i32",
    "target": "*fp32",
    "layer_weights": "*fp32",
    "layer_pointer": "*i32",
    "epsilon": "fp32",
    "layers": "i32",
    "concepts": "i32",
    "width": "i32",
}
GATES = {
    "probability": "*fp32",
    "period": "*i32",
    "seed": "*i64",
    "step_pointer": "*i64",
    "gate": "*fp32",
    "concepts": "i32",
}
SAMPLING = {
    "logits": "*fp32",
    "temperature": "*fp32",
    "guidance": "*fp32",
    "top_k": "*i32",
    "top_p": "*fp32",
    "seed": "*i64",
    "step_pointer": "*i64",
    "codes": "*i64",
    "streams": "i32",
    "vocab": "i32",
}


def cases() -> list[tuple[str, object, dict[str, str], dict[str, object], bool]]:
    """Name, kernel, types, compiled-in values and whether products may be contracted, as `fused` launches them."""
    found: list[tuple[str, object, dict[str, str], dict[str, object], bool]] = []
    for dtype in ("fp32", "fp16", "bf16"):
        types = dict.fromkeys(STREAM, f"*{dtype}") | INJECTION | {"directions": f"*{dtype}"}
        found.append((f"add_inject_norm {dtype}", triton_kernels.add_inject_norm, types, {"BLOCK": 1024}, True))
    found.append(("draw_gates", triton_kernels.draw_gates, GATES, {"BLOCK": 64}, False))
    values = {"IS_GUIDED": True, "BLOCK": 2048}
    found.append(("sample_codes", triton_kernels.sample_codes, SAMPLING, values, False))
    return found


def main() -> None:
    sizes = {}
    for name, kernel, types, values, is_contracted in cases():
        signature = types | dict.fromkeys(values, "constexpr")
        for generation in GENERATIONS:
            compiled = compile(
                ASTSource(kernel, signature, constexprs=values),
                target=GPUTarget("cuda", generation, 32),
                options={"enable_fp_fusion": is_contracted},
            )
            ptx = compiled.asm["ptx"]
            assert f".target sm_{generation}" in ptx, f"{name} for sm_{generation}"
            sizes[f"{name} sm_{generation}"] = {
                "ptx": len(ptx),
                "cubin": len(compiled.asm["cubin"]),
                "is_elf": compiled.asm["cubin"][:4] == b"\x7fELF",
                "approximates_logarithms": "lg2.approx" in ptx,
            }
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
