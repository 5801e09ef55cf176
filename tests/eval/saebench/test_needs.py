"""What SAEBench needs is said before any work is done: a line each, and all at once."""

import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from temporal_sae.eval.saebench import needs_install
from temporal_sae.eval.saebench.needs import explain
from tests.eval.saebench.plans import only, problems, vocabulary

pytestmark = pytest.mark.usefixtures("extra")


def test_nothing_is_missing():
    assert problems("core", "scr", "tpp", "absorption", "ravel", "sae_probes") == []


def test_the_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_bench", None)
    assert 'pip install -e ".[bench]"' in only(problems("core"))


def test_python_3_13(monkeypatch):
    newer = SimpleNamespace(version_info=(3, 13, 1, "final", 0), executable=sys.executable)
    monkeypatch.setattr(needs_install, "sys", newer)
    line = only(problems("core"))
    assert "3.13" in line and "3.12" in line and 'pip install -e ".[bench]"' in line


def test_a_torchvision_of_another_build(extra, monkeypatch):
    (extra / "torchvision").mkdir()
    source = "raise RuntimeError('operator torchvision::nms does not exist')"
    (extra / "torchvision" / "__init__.py").write_text(source)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(extra))
    line = only(problems("core"))
    assert "pip uninstall torchvision" in line and "torchvision::nms" in line


@pytest.mark.parametrize("name", ["gemma-2-2b", "google/gemma-2-2b", "GPT2-small"])
def test_known_models(name):
    assert problems("core", model_name=name) == []


def test_an_unknown_model_is_told_the_nearest_ones():
    line = only(problems("core", "ravel", model_name="/models/gemma-2-2c"))
    assert line.startswith("model_name='/models/gemma-2-2c': must be one of the 2 models")
    assert line.index("google/gemma-2-2b") < line.index("openai-community/gpt2")


@pytest.mark.parametrize("hook", ["model.layers.3", "blocks.3.hook_mlp_out"])
def test_a_hook_that_is_none_of_transformer_lens(hook):
    line = only(problems("core", hook_name=hook))
    assert hook in line and "blocks.L.hook_resid_post" in line


def test_some_evaluations_read_behind_a_layer_only():
    before = {"hook_name": "blocks.3.hook_resid_pre"}
    assert problems("core", "sparse_probing", **before) == []
    assert "for absorption" in only(problems("core", "absorption", **before))


@pytest.mark.parametrize(
    ("evaluation", "option"),
    [
        ("scr", "n_values"),
        ("tpp", "n_values"),
        ("sparse_probing", "k_values"),
        ("sae_probes", "ks"),
    ],
)
def test_more_latents_than_the_sae_has(evaluation, option):
    assert problems(evaluation, options={option: [5, 20]}, d_sae=20) == []
    line = only(problems(evaluation, options={option: [5, 20]}, d_sae=19))
    assert line.startswith(f"{evaluation}.{option}=[5, 20]: must be at most 19 (d_sae)")


def test_as_many_channels_are_probed_as_latents():
    line = only(problems("sparse_probing", options={"k_values": [1, 100]}))
    assert "at most 64 (the width of the model)" in line


@pytest.mark.parametrize(
    ("evaluation", "option"), [("scr", "n_values"), ("sparse_probing", "k_values")]
)
def test_numbers_that_the_record_has_no_place_for(evaluation, option):
    line = only(problems(evaluation, options={option: [2, 3]}))
    assert f"{evaluation}.{option}" in line and "2, 5, 10, 20, 50, 100" in line


def test_a_vocabulary_without_single_token_letters():
    line = only(problems("absorption", tokenizer=vocabulary(answers="ABCDEFGHIJKLMNOPRSTUVWXY")))
    assert "' Q', ' Z'" in line
    assert problems("scr", tokenizer=vocabulary(answers="")) == []


def test_a_vocabulary_with_too_few_words():
    assert "begin with b, c" in only(problems("absorption", tokenizer=vocabulary(per_letter=3)))
    line = only(problems("absorption", tokenizer=vocabulary(per_letter=6)))
    assert "alphabetic tokens" in line and "200" in line


def test_the_word_is_where_absorption_reads():
    line = only(problems("absorption", options={"prompt_token_pos": -7}))
    assert line.startswith("absorption.prompt_token_pos=-7: must be -6")


def write_rows(folder, split, rows):
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def biographies(n, fewer=None):
    """n texts of every profession and gender, and of `fewer` one less."""
    pairs = [(p, g) for p in range(28) for g in (0, 1)]
    rows = [{"profession": p, "gender": g} for p, g in pairs for _ in range(n - ((p, g) == fewer))]
    return [row | {"hard_text": "text"} for row in rows]


@pytest.mark.parametrize(
    ("evaluation", "n", "fewer"), [("tpp", 4, (6, 1)), ("scr", 9, (21, 0)), ("scr", 9, (13, 1))]
)
def test_too_few_rows_of_a_class(tmp_path, evaluation, n, fewer):
    """TPP takes size/4 of each class and gender; SCR more than size/2 of male professors."""
    folder = tmp_path / "data" / "LabHC" / "bias_in_bios"
    options = {
        "dataset_names": ["LabHC/bias_in_bios_class_set1"],
        "train_set_size": 16,
        "test_set_size": 8,
    }
    write_rows(folder / "data", "test", biographies(9))
    write_rows(folder / "data", "train", biographies(n))
    place = {"options": options, "data_folder": tmp_path / "data"}
    assert problems(evaluation, **place) == []
    write_rows(folder / "data", "train", biographies(n, fewer))
    line = only(problems(evaluation, **place))
    assert line.startswith(f"{evaluation}.train_set_size=16: must be smaller")
    assert f"has {n - 1} with profession {fewer[0]} and gender {fewer[1]}" in line


def test_rows_of_every_data_set_of_sparse_probing(tmp_path):
    reviews = [
        {"category": c, "rating": r, "text": "text"}
        for c in (1, 2, 3, 5, 6)
        for r in (1.0, 5.0)
        for _ in range(2)
    ]
    for split in ("train", "test"):
        write_rows(tmp_path / "LabHC/bias_in_bios/default", split, biographies(2))
        write_rows(tmp_path / "canrager/amazon_reviews_mcauley_1and5", split, reviews)
        news = [{"label": n % 4, "text": "text"} for n in range(4 * 3)]
        write_rows(tmp_path / "fancyzhx/ag_news", split, news)
    code = [{"language": x, "code": "x"} for x in ("C", "Python", "HTML", "Java", "PHP") * 8]
    write_rows(tmp_path / "codeparrot/github-code/data", "train", code)
    for pair in ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt"):
        write_rows(tmp_path / "Helsinki-NLP/europarl" / pair, "train", [{"x": 1}] * 8)
    sizes = {"probe_train_set_size": 8, "probe_test_set_size": 8}
    lines = problems("sparse_probing", options=sizes, data_folder=tmp_path)
    assert lines[0] == "SAEBench needs 2 things:"
    assert all("fancyzhx/ag_news has 3 with label 0" in line for line in lines[1:])
    for split in ("train", "test"):
        news = [{"label": n % 4, "text": "text"} for n in range(4 * 4)]
        write_rows(tmp_path / "fancyzhx/ag_news", split, news)
    assert problems("sparse_probing", options=sizes, data_folder=tmp_path) == []
    write_rows(tmp_path / "Helsinki-NLP/europarl/nl-pt", "train", [{"x": 1}] * 7)
    line = only(problems("sparse_probing", options=sizes, data_folder=tmp_path))
    assert "Helsinki-NLP/europarl has 7 with nl-pt" in line


def test_a_data_set_that_is_not_in_the_data_folder(tmp_path):
    (tmp_path / "cais" / "mmlu").mkdir(parents=True)
    assert "Skylion007/openwebtext" in only(problems("core", data_folder=tmp_path))
    lines = problems("unlearning", data_folder=tmp_path)
    line = next(line for line in lines if "data_folder" in line)
    assert "Salesforce/wikitext, cais/wmdp," in line and "hf download" in line


def test_the_hub_may_not_be_used():
    offline = {"HF_HUB_OFFLINE": "1"}
    assert "Skylion007/openwebtext is streamed" in only(problems("core", environment=offline))
    line = only(problems("sparse_probing", environment=offline))
    assert "codeparrot/github-code, Helsinki-NLP/europarl" in line and "eval.data_folder" in line
    assert problems("scr", "absorption", environment=offline) == []


def test_everything_that_is_missing_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_bench", None)
    lines = problems("scr", "unlearning", d_sae=100)
    assert lines[0] == "SAEBench needs 3 things:"
    assert 'pip install -e ".[bench]"' in lines[1]
    assert lines[2].startswith("  2. eval.scr.n_values=")
    assert lines[3].startswith("  3. eval.unlearning.corpus=")


def raised(name, error):
    """An error that has come through a function called `name`."""
    scope = {"error": error}
    exec(f"def {name}():\n    raise error", scope)
    try:
        scope[name]()
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("evaluation", "place", "error", "said"),
    [
        ("tpp", "filter_dataset", KeyError("6"), "eval.tpp.train_set_size"),
        ("scr", "get_spurious_corr_data", AssertionError(), "eval.scr.test_set_size"),
        ("sparse_probing", "gather_dataset_from_df", ValueError("a\nb"), "probe_train_set_size"),
        (
            "autointerp",
            "load_and_tokenize_dataset",
            AssertionError(),
            "eval.autointerp.total_tokens",
        ),
        ("absorption", "create_icl_prompt", ValueError("no"), "too few alphabetic tokens"),
        ("core", "main", MemoryError(), "eval.llm_batch_size"),
        ("core", "main", ValueError("first\nsecond {x}"), "core: ValueError: first"),
    ],
)
def test_errors_of_sae_bench_in_one_line(evaluation, place, error, said):
    line = explain(evaluation, raised(place, error))
    assert line.startswith(f"{evaluation}: ")
    assert said in line
    assert "\n" not in line and "second" not in line
