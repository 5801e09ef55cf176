"""SAE folders that somebody made to break what reads them: one line each, and little memory."""

import json
import os
import pickle
import resource
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.sae import load_sae
from tests.sae.formulas import F, K, weights
from tests.sae.test_folder import SAES, made
from tests.sae.test_formats import STORED, dictionary_folder, sparsify_folder
from tests.sae.test_formats_sae_lens import CLASSES, sae_lens_folder

MOST = 64 * 2**20  # bytes that refusing any of them may take
OWN = {cls.trained_as: cls for cls in SAES}
INF, NAN = float("inf"), float("nan")


def whole(folder, kind):
    """A folder that loads, and the names of its config and its weights."""
    family, name = kind
    w = weights()
    if family == "own":
        made(OWN[name]).save(folder)
    elif family == "sae_lens":
        sae_lens_folder(folder, name, w, **({"k": K} if name == "topk" else {}))
    elif family == "in_training":
        threshold = {"topk_threshold": torch.tensor(0.6, dtype=torch.float64)}
        sae_lens_folder(folder, name, w, extra=threshold, k=K, matryoshka_widths=[8, 20])
    elif family == "sparsify":
        sparsify_folder(folder, w)
        return folder / "cfg.json", folder / "sae.safetensors"
    else:
        dictionary_folder(folder, name, w)
        return folder / "config.json", folder / "ae.pt"
    return folder / "cfg.json", folder / "sae_weights.safetensors"


KINDS = [
    *(("own", name) for name in OWN),
    *(("sae_lens", name) for name in CLASSES),
    *(("in_training", name) for name in ("batchtopk", "matryoshka_batchtopk")),
    *(("dictionary_learning", name) for name in STORED),
    ("sparsify", ""),
]
CONVENTIONS = [
    *(("own", name) for name in ("topk", "gated", "matryoshka")),
    *(("sae_lens", name) for name in ("standard", "jumprelu")),
    ("in_training", "batchtopk"),
    *(("dictionary_learning", n) for n in ("AutoEncoderNew", "BatchTopKSAE", "GatedAutoEncoder")),
    ("sparsify", ""),
]
ONE_OF_EACH = [("own", "batch_topk"), *[k for k in KINDS if k[1] in ("topk", "BatchTopKSAE", "")]]


def refused(folder, mention=""):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((RunError, InvalidOption)) as refusal:
        load_sae(folder)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert taken < MOST
    said = str(refusal.value)
    assert said.isprintable()
    assert len(said) < 1000
    assert str(folder) in said
    assert mention in said


def tensors_of(path):
    return torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)


def write_tensors(path, tensors):
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path)


def change_config(path, change):
    """Apply `change` to the part of a config that describes the SAE."""
    content = json.loads(path.read_text())
    change(content.get("trainer", content))
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_those_that_are_whole_load(kind, tmp_path):
    whole(tmp_path, kind)
    load_sae(tmp_path)


# --- the tensors ---------------------------------------------------------------------------------

TENSORS = {
    "NaN": lambda t: t.index_fill(0, torch.tensor([1]), NAN),
    "infinite": lambda t: t.index_fill(0, torch.tensor([1]), INF),
    "int8": lambda t: t.to(torch.int8),
    "int64": lambda t: t.to(torch.int64),
    "complex64": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.to(torch.bool),
    "too large for float32": lambda t: t.double() * 1e300 + 1e300,
    "a row less": lambda t: t[1:],
    "one number": lambda t: t.flatten()[:1],
    "a scalar": lambda t: t.flatten()[0],
    "empty": lambda t: t[:0],
    "another dimension": lambda t: t[None],
}


@pytest.mark.parametrize("kind", CONVENTIONS, ids="-".join)
@pytest.mark.parametrize("change", TENSORS)
def test_every_tensor_of_another_kind(change, kind, tmp_path):
    _, path = whole(tmp_path, kind)
    good = tensors_of(path)
    for name in [name for name, tensor in good.items() if tensor.ndim > 0]:
        write_tensors(path, good | {name: TENSORS[change](good[name])})
        refused(tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_tensors_that_are_missing_or_unknown(kind, tmp_path):
    _, path = whole(tmp_path, kind)
    good = tensors_of(path)
    passed_over = {"k"} | ({"threshold"} if kind[1] == "AutoEncoderTopK" else set())
    for name in good.keys() - passed_over:
        write_tensors(path, {n: t for n, t in good.items() if n != name})
        refused(tmp_path, "missing")
    write_tensors(path, good | {"more\x1b[31m\nand more": torch.ones(3)})
    refused(tmp_path, "more")
    write_tensors(path, {})
    refused(tmp_path)


THRESHOLDS = {
    "nothing": torch.zeros(0),
    "several": torch.ones(3),
    "NaN": torch.tensor(NAN),
    "infinity": torch.tensor(INF),
    "int": torch.tensor(1),
}


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (("in_training", "batchtopk"), "topk_threshold"),
        (("in_training", "matryoshka_batchtopk"), "topk_threshold"),
        (("dictionary_learning", "BatchTopKSAE"), "threshold"),
        (("dictionary_learning", "MatryoshkaBatchTopKSAE"), "threshold"),
        (("own", "batch_topk"), "threshold"),
    ],
)
def test_thresholds_for_all_latents(kind, name, threshold, tmp_path):
    _, path = whole(tmp_path, kind)
    write_tensors(path, tensors_of(path) | {name: THRESHOLDS[threshold]})
    refused(tmp_path)


@pytest.mark.parametrize(
    "k", [torch.tensor(4.5), torch.tensor(INF), torch.tensor(0), torch.ones(2)]
)
def test_k_in_the_weights(k, tmp_path):
    _, path = whole(tmp_path, ("dictionary_learning", "AutoEncoderTopK"))
    write_tensors(path, tensors_of(path) | {"k": k})
    refused(tmp_path)


@pytest.mark.parametrize("sizes", [[8, 12, 13], [-8, 28, 12], [32, 0], [], [8.5, 23.5], [NAN, 32]])
def test_group_sizes_in_the_weights(sizes, tmp_path):
    _, path = whole(tmp_path, ("dictionary_learning", "MatryoshkaBatchTopKSAE"))
    write_tensors(path, tensors_of(path) | {"group_sizes": torch.tensor(sizes)})
    refused(tmp_path)


# --- the config ----------------------------------------------------------------------------------

SIZES = [10**8, 10**18, 10**400, 0, -6, 6.5, "6", None, [6], {"a": 6}, INF, NAN]


@pytest.mark.parametrize("value", SIZES, ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize("kind", CONVENTIONS, ids="-".join)
def test_sizes(kind, value, tmp_path):
    path, _ = whole(tmp_path, kind)
    keys = {"dictionary_learning": ("dict_size", "activation_dim"), "sparsify": ("d_in",)}
    good = path.read_text()
    for key in keys.get(kind[0], ("d_sae", "d_in")):
        path.write_text(good)
        change_config(path, lambda config, key=key: config.update({key: value}))
        refused(tmp_path)


@pytest.mark.parametrize("value", [*SIZES, True, F + 1], ids=lambda v: repr(v)[:12])
def test_k(value, tmp_path):
    for kind in ONE_OF_EACH:
        folder = tmp_path / "-".join(kind)
        folder.mkdir()
        path, _ = whole(folder, kind)
        change_config(path, lambda config: config.get("trained_as", config).update(k=value))
        refused(folder)


@pytest.mark.parametrize("value", [INF, -1.0, 0, "4", True, None, 10**400, [4], 4 * F])
def test_k_of_a_batch(value, tmp_path):
    for name in ("batchtopk", "matryoshka_batchtopk"):
        path, _ = whole(tmp_path, ("in_training", name))
        change_config(path, lambda config: config.update(k=value))
        refused(tmp_path)


@pytest.mark.parametrize("widths", [[-1], [0], [F + 1], ["8"], "8", None, [8.5], [[8]], [10**400]])
def test_widths(widths, tmp_path):
    path, _ = whole(tmp_path, ("in_training", "matryoshka_batchtopk"))
    change_config(path, lambda config: config.update(matryoshka_widths=widths))
    refused(tmp_path)


@pytest.mark.parametrize("fractions", [[1e-9] * 10**5, [0.5], [2, -1], "1", None, [INF], [[1]], {}])
def test_fractions(fractions, tmp_path):
    path, _ = whole(tmp_path, ("own", "matryoshka"))
    change_config(path, lambda config: config["trained_as"].update(group_fractions=fractions))
    refused(tmp_path)


@pytest.mark.parametrize("factor", [INF, -INF, NAN, 0, -1, "2", True, None, [2], 10**400, 1e-320])
def test_scaling_factors(factor, tmp_path):
    path, _ = whole(tmp_path, ("sae_lens", "standard"))
    change_config(
        path, lambda config: config.update(normalize_activations="expected_average_only_in")
    )
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    refused(tmp_path)


@pytest.mark.parametrize("latents", [*SIZES[:2], -4, 6.5, "6", [6]], ids=lambda v: repr(v)[:12])
def test_latents_of_sparsify(latents, tmp_path):
    for changes in ({"num_latents": latents}, {"num_latents": 0, "expansion_factor": latents}):
        sparsify_folder(tmp_path, weights(), **changes)
        refused(tmp_path)
    sparsify_folder(tmp_path, weights(), d_in=[1], num_latents=0, expansion_factor=10**9)
    refused(tmp_path)


STRINGS = ["${oc.env:HOME}", "\x1b[31m\n\x07", "x" * 10**5, "\ud800", ["topk"], {"a": []}, 3, True]


@pytest.mark.parametrize("value", STRINGS, ids=lambda v: ascii(v)[:12])
def test_words(value, tmp_path):
    for kind, key in [
        (("own", "topk"), "architecture"),
        (("own", "batch_topk"), "trained_as"),
        (("sae_lens", "standard"), "activation_fn"),
        (("sae_lens", "standard"), "reshape_activations"),
        (("sae_lens", "gated"), "normalize_activations"),
        (("dictionary_learning", "AutoEncoder"), "dict_class"),
        (("sparsify", ""), "activation"),
        (("sparsify", ""), "of another version\x1b[31m"),
    ]:
        folder = tmp_path / f"{kind[0]} {key[:8]}"
        folder.mkdir()
        path, _ = whole(folder, kind)
        change_config(path, lambda config, key=key: config.update({key: value}))
        refused(folder)


# --- the files -----------------------------------------------------------------------------------


def replace(path, make):
    path.unlink()
    make(path)


TWICE = ', "k": 4, "k": 4}'
CONFIGS = {
    "a pipe": lambda path: replace(path, os.mkfifo),
    "an endless device": lambda path: replace(path, lambda p: p.symlink_to("/dev/zero")),
    "a folder": lambda path: replace(path, os.mkdir),
    "a link to itself": lambda path: replace(path, lambda p: p.symlink_to(p)),
    "long": lambda path: os.truncate(path, 2**40),
    "empty": lambda path: path.write_text(""),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text("[" * 10**6),
    "no UTF-8": lambda path: path.write_bytes(b'{"d_in": "\xff"}'),
    "a number of many digits": lambda path: path.write_text('{"d_in": ' + "9" * 10**5 + "}"),
    "a key twice": lambda path: path.write_text(path.read_text().rstrip()[:-1] + TWICE),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_configs(change, tmp_path):
    for kind in ONE_OF_EACH:
        folder = tmp_path / "-".join(kind)
        folder.mkdir()
        path, _ = whole(folder, kind)
        CONFIGS[change](path)
        refused(folder)


FILES = {
    **{name: CONFIGS[name] for name in ("a pipe", "an endless device", "a folder", "empty")},
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(100)),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "a header without an end": lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"W_enc": os.getcwd})),
}


@pytest.mark.parametrize("change", FILES)
@pytest.mark.parametrize("kind", ONE_OF_EACH, ids="-".join)
def test_files_of_weights(kind, change, tmp_path):
    _, path = whole(tmp_path, kind)
    if (path.suffix, change) == (".pt", "longer"):
        pytest.skip("an archive may be followed by anything")
    FILES[change](path)
    refused(tmp_path)


def test_a_header_of_safetensors_that_promises_more_than_the_file_has(tmp_path):
    _, path = whole(tmp_path, ("own", "topk"))
    entry = {"dtype": "F32", "shape": [10**5, 10**5], "data_offsets": [0, 4 * 10**10]}
    header = json.dumps({"W_enc": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    refused(tmp_path, path.name)


def repacked(path, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    """Write an archive anew, with other content."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, change(name, data))


def test_archives(tmp_path):
    _, path = whole(tmp_path, ("dictionary_learning", "AutoEncoder"))
    good = path.read_bytes()
    bomb = lambda name, data: bytes(2**26) if name.endswith("data/0") else data  # noqa: E731
    repacked(path, bomb, zipfile.ZIP_DEFLATED)
    refused(tmp_path, "it unpacks to")
    path.write_bytes(good)
    repacked(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)
    refused(tmp_path)
    path.write_bytes(good)
    state = tensors_of(path)
    torch.save(state | {"bias": torch.ones(1).expand(2**40)}, path)
    refused(tmp_path, "its tensors are larger than the file")
    for other in (
        torch.ones(6).to_sparse(),
        torch.ones(6, device="meta"),
        torch.quantize_per_tensor(torch.ones(6), 1.0, 0, torch.qint8),
        [torch.ones(6)],
        {"a": torch.ones(6)},
    ):
        torch.save(state | {"bias": other}, path)
        refused(tmp_path)
