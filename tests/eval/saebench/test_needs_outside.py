"""What has to come from outside: a corpus, a judge, prompts; where it is put, how to get it."""

import json
import socket

import pyarrow
import pyarrow.csv
import pytest

from temporal_sae.eval.saebench.needs import explain
from temporal_sae.eval.saebench.needs_outside import question_files
from tests.eval.saebench.plans import only, problems

pytestmark = pytest.mark.usefixtures("extra")


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "bio-forget-corpus.jsonl"
    file.write_text('{"text": "cells"}\n')
    return file


def test_unlearning_needs_a_corpus_that_has_to_be_asked_for(corpus):
    line = only(problems("unlearning"))
    assert line.startswith("unlearning.corpus=None")
    assert "bio-forget-corpus.jsonl" in line
    assert "https://docs.google.com/forms/" in line and "cais/wmdp-corpora" in line
    assert problems("unlearning", options={"corpus": str(corpus)}) == []
    assert "no such file" in only(problems("unlearning", options={"corpus": f"{corpus}x"}))
    corpus.write_text("cells\n")
    assert '{"text": "…"}' in only(problems("unlearning", options={"corpus": str(corpus)}))


def test_unlearning_needs_an_instruct_model(corpus):
    given = {"corpus": str(corpus)}
    line = only(problems("unlearning", options=given, model_name="gpt2"))
    assert line.startswith(
        "unlearning.model_name='gpt2-it': must be gemma-2-2b-it or gemma-2-9b-it"
    )
    given["model_name"] = "google/gemma-2-9b-it"
    assert problems("unlearning", options=given, model_name="gemma-2-2b") == []


def test_question_ids_are_complete(corpus, tmp_path):
    given = {"corpus": str(corpus), "question_ids": str(tmp_path / "ids")}
    for file in question_files():
        (tmp_path / "ids" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ids" / file).write_text("1\n")
    assert problems("unlearning", options=given) == []
    (tmp_path / "ids" / "train" / "mmlu-human-aging_correct.csv").unlink()
    line = only(problems("unlearning", options=given))
    assert "train/mmlu-human-aging_correct.csv is missing" in line
    assert "github.com/adamkarvonen/SAEBench" in line and "gemma-2-2b-it" in line


@pytest.fixture
def endpoint(monkeypatch):
    """An address where something listens."""
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def test_autointerp_needs_a_judge(endpoint):
    assert problems("autointerp", options={"base_url": endpoint}) == []
    assert problems("autointerp", environment={"OPENAI_BASE_URL": endpoint}) == []
    line = next(line for line in problems("autointerp") if "OPENAI_API_KEY" in line)
    assert "eval.autointerp.base_url" in line and "eval.autointerp.api_key_file" in line


def test_a_judge_that_does_not_answer(endpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    closed = f"http://127.0.0.1:{port}/v1"
    line = only(problems("autointerp", options={"base_url": closed}))
    assert line.startswith(f"autointerp.base_url='{closed}'") and "refused" in line
    assert "http://localhost:8000/v1" in only(problems("autointerp", options={"base_url": "me"}))


def test_the_key_is_never_shown(endpoint, tmp_path):
    file = tmp_path / "key"
    options = {"base_url": endpoint, "api_key_file": str(file)}
    assert "No such file" in only(problems("autointerp", options=options))
    file.write_text("sk-abc123")
    assert problems("autointerp", options=options) == []
    refused = type("AuthenticationError", (Exception,), {})("wrong key sk-abc***123")
    assert "sk-" not in explain("autointerp", refused)
    assert "abc" not in explain("autointerp", ValueError("wrong key sk-abc***123"))


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", "hot"), ("temperature", -1), ("llm_context_size", 20)]
)
def test_options_of_the_judge(endpoint, option, value):
    line = only(problems("autointerp", options={"base_url": endpoint, option: value}))
    assert line.startswith(f"autointerp.{option}={value!r}")


def test_thresholds_that_sae_bench_cannot_read_back(corpus):
    options = {"corpus": str(corpus), "retain_thresholds": [0.01, 0.00001]}
    assert "[0.01, 1e-05]" in only(problems("unlearning", options=options))


def test_ravel_finds_layers_of_two_families_only():
    assert "gpt2" in only(problems("ravel", model_name="gpt2"))
    line = only(problems("ravel", options={"entity_attribute_selection": {"city": ["Country"]}}))
    assert "at least two attributes" in line


def test_prompts_of_ravel_are_complete(tmp_path):
    folder = tmp_path / "adamkarvonen" / "ravel_prompts"
    folder.mkdir(parents=True)
    selection = {"entity_attribute_selection": {"city": ["Country", "Contnent"]}}
    place = {"options": selection, "data_folder": tmp_path}
    assert "ravel_city_entity_to_split.json" in only(problems("ravel", **place))
    for part in ("entity_attributes", "entity_to_split", "prompt_to_split", "attribute_to_prompts"):
        content = {"Country": [], "Continent": []} if part == "attribute_to_prompts" else {}
        (folder / f"ravel_city_{part}.json").write_text(json.dumps(content))
    line = only(problems("ravel", **place))
    assert "'Contnent'" in line and "Country, Continent" in line


def test_names_of_the_probing_data(extra):
    (extra / "sae_probes" / "data").mkdir()
    kinds = ["Binary Classification", "Binary Classification", "Regression"]
    names = [f"cleaned_data/{name}.csv" for name in ("5_hist_fig", "6_hist_fig", "7_birth")]
    table = pyarrow.table({"Data type": kinds, "Dataset save name": names})
    file = extra / "sae_probes" / "data" / "probing_datasets_MASTER.csv.zst"
    with pyarrow.output_stream(str(file), compression="zstd") as stream:
        pyarrow.csv.write_csv(table, stream)
    assert problems("sae_probes", options={"dataset_names": ["5_hist_fig"]}) == []
    line = only(problems("sae_probes", options={"dataset_names": ["5_hist_fig", "7_birth"]}))
    assert "'7_birth': must be one of the 2 data sets" in line and "5_hist_fig" in line
