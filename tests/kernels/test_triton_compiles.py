"""The Triton kernels as machine code, which needs no card: the interpreter accepts more than it."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
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
    **{f"averages fold_tiles {source}": {**TILES, "SOURCE": source} for source in range(3)},
    "averages compare_tiles": TILES,
    "averages fold_pairs": LISTS,
    "averages compare_pairs": LISTS,
    "windows count_tiles": TILES,
    "windows count_tokens": TILES,
    "windows count_listed": {"BLOCK": 64, "BLOCK_W": 64},
    "pair_map store": LISTS,
    "pair_map look_up": LISTS,
}

# Those of a training step, whose multiplications and additions may fuse.
READ_ONLY = ["gradient", "weights", "tokens"]
STEP_POINTERS = {
    **dict.fromkeys([*READ_ONLY, "out", "values", "sums", "means", "squares", "clip"], "*fp32"),
    **dict.fromkeys(["indices", "starts", "slots"], "*i64"),
}
STEP_NUMBERS = dict.fromkeys(["rate", "slack1", "beta2", "slack2", "root2", "eps"], "fp32")
TILED = {"SLOTS": 16, "BLOCK": 128}
PRODUCTS = ["decode", "dot", "sum"]
STEP_KERNELS = {
    **{f"sparse_products {name} {kind}": TILED for name in PRODUCTS for kind in ("fp32", "bf16")},
    "adam square_sums fp32": {"BLOCK": 2048},
    "adam square_sums_across fp32": {"BLOCK": 1024},
    "adam adam fp32": {"BLOCK": 2048},
    "adam adam_unit_rows fp32": {"BLOCK": 1024},
}
STEP_CARDS = (80, 90)
STEP_PROGRAMS = [f"{name} sm_{card}" for name in STEP_KERNELS for card in STEP_CARDS]


def kernel_of(name):
    """The kernel that a name begins with: a group and what is before `_kernel`."""
    group, function = name.split()[:2]
    return getattr(import_module(f"temporal_sae.kernels.{group}.triton"), f"_{function}_kernel")


def compiled(name, capability):
    """PTX of a kernel, once its machine code has been made of it."""
    types = {"out": "*fp32" if "look_up" in name else "*i32", **POINTERS, **NUMBERS}
    return ptx(kernel_of(name), types, KERNELS[name], capability)


def compiled_step(name, capability):
    """The same of a training step's kernel, for aligned tensors whose width 16 divides."""
    kernel, kind = kernel_of(name), name.split()[-1]
    types = STEP_POINTERS | dict.fromkeys(READ_ONLY, f"*{kind}") | STEP_NUMBERS
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if argument in ("d", "n", "size") or argument in STEP_POINTERS
    }
    return ptx(kernel, types, STEP_KERNELS[name], capability, aligned, enable_fp_fusion=True)


def ptx(kernel, types, constants, capability, attributes=None, enable_fp_fusion=False):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = types | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target, {"enable_fp_fusion": enable_fp_fusion}).asm["ptx"]


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
    assert bool(divisions) == name.startswith("averages")


@pytest.mark.parametrize("name", [name for name in KERNELS if "til" in name or "tok" in name])
def test_counts_are_products_of_bytes_on_the_tensor_cores(instructions, name):
    assert any(re.match(r"mma.*s32\.s8\.s8\.s32", i) for i in instructions[name])


@pytest.mark.parametrize("name", STEP_PROGRAMS)
def test_a_training_step_repeats_to_the_bit_and_reads_four_numbers_at_a_time(instructions, name):
    assert not [i for i in instructions[name] if i.startswith(("atom", "red."))]
    assert any(re.match(r"ld\.global.*v[48]\.", i) for i in instructions[name])
    assert any(re.match(r"fma.*f32", i) for i in instructions[name])


if __name__ == "__main__":
    programs = {name: compiled(name, 80) for name in KERNELS}
    for name in STEP_KERNELS:
        programs |= {f"{name} sm_{card}": compiled_step(name, card) for card in STEP_CARDS}
    found = {
        name: re.findall(r"^\s+(?:@\S+ )?([a-z][\w.]+)\s", text, re.M)
        for name, text in programs.items()
    }
    sys.stdout.write(json.dumps({name: sorted(set(found[name])) for name in found}))
