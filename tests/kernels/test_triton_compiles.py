"""The Triton kernels as machine code, which needs no card: the interpreter accepts more than it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

POINTERS = {
    **dict.fromkeys(["averages", "values", "stored"], "*fp32"),
    **dict.fromkeys(["table", "keys"], "*i64"),
    **dict.fromkeys(["rows", "tokens", "alone", "i", "j", "counts"], "*i32"),
    "mask": "*i8",
    "sums": "*fp64",
}
NUMBERS = dict.fromkeys(["n_tokens", "cap", "scale"], "fp32")
TILES = {"TILE": 64, "BLOCK_W": 64}
LISTS = {"BLOCK": 256}
KERNELS = {
    **{f"fold_tiles {source}": {**TILES, "SOURCE": source} for source in range(3)},
    "compare_tiles": TILES,
    "count_tiles": TILES,
    "count_tokens": TILES,
    "count_listed": {"BLOCK": 64, "BLOCK_W": 64},
    "fold_pairs": LISTS,
    "compare_pairs": LISTS,
    "store_keys": LISTS,
    "look_up": LISTS,
}


def compiled(name, capability):
    """PTX of a kernel, once its machine code has been made of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from temporal_sae.kernels import triton_map, triton_pairs

    function = name.split()[0]
    kernel = getattr(triton_pairs, function, None) or getattr(triton_map, function)
    types = {"out": "*fp32" if name == "look_up" else "*i32", **POINTERS, **NUMBERS}
    types |= dict.fromkeys(KERNELS[name], "constexpr")
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, KERNELS[name])
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target, {"enable_fp_fusion": False}).asm["ptx"]


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    """For each kernel its instructions, without their operands; from a process of its own."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    environment |= {"TRITON_INTERPRET": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", KERNELS)
def test_every_operation_is_rounded_on_its_own(instructions, name):
    assert not [i for i in instructions[name] if re.match(r"fma.*f32|div\.(full|approx)|.*rcp", i)]
    divisions = [i for i in instructions[name] if i.startswith("div.rn")]
    assert bool(divisions) == name.startswith(("fold", "compare"))


@pytest.mark.parametrize("name", [name for name in KERNELS if "til" in name or "tok" in name])
def test_counts_are_products_of_bytes_on_the_tensor_cores(instructions, name):
    assert any(re.match(r"mma.*s32\.s8\.s8\.s32", i) for i in instructions[name])


if __name__ == "__main__":
    found = {
        name: re.findall(r"^\s+(?:@\S+ )?([a-z][\w.]+)\s", compiled(name, 80), re.M)
        for name in KERNELS
    }
    sys.stdout.write(json.dumps({name: sorted(set(found[name])) for name in found}))
