"""Unlearning, autointerp, RAVEL and sae-probes by sae_bench's own code, on stand-ins, offline."""

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from temporal_sae.errors import InvalidOption, RunError

pytest.importorskip("sae_bench")

from temporal_sae.eval.saebench import outside
from temporal_sae.eval.saebench.worker import first_line
from tests.bench.standins import GEMMA, PYTHIA, SHIM, build_gemma, build_pythia, more
from tests.bench.standins.models import WIDTH
from tests.bench.standins.saes import (
    linear_sae,
    small_evaluation,
    subject,
    toy_sae,
)

KEY = "sk-stand-in-0123456789"
NOT_REPEATED = ("eval_id", "datetime_epoch_millis")
AT_ONCE = 3
PROBED = "117_us_state_FL"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    build_pythia(folder)
    build_gemma(folder)
    more.questions(folder)
    more.wikitext(folder)
    more.pile(folder)
    more.ravel_prompts(folder, PYTHIA)
    return folder


@pytest.fixture
def evaluate(hub, tmp_path, monkeypatch):
    """Outcomes of one evaluation with several options, each in its own process and folder."""
    monkeypatch.setenv("PYTHONPATH", str(SHIM))

    def all_of(name, *options, model=PYTHIA, sae=toy_sae):
        subjects = []
        for number in range(len(options)):
            (folder := tmp_path / f"run-{number}").mkdir()
            subjects.append(subject(sae(), folder, hub, model))

        def one(judged, given):
            evaluation = small_evaluation(hub, name, name=model, **{name: given})
            evaluation.check(judged.source, judged.sae)
            return evaluation.run(judged)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, subjects, options))

    return all_of


def record(outcome):
    """The only record of an outcome without what differs from run to run."""
    assert outcome.failures == {}
    (section,) = outcome.sections.values()
    return {key: value for key, value in section.items() if key not in NOT_REPEATED}


def test_unlearning(evaluate, tmp_path):
    """The latent of the forgotten topic is found, and clamping it costs no other answer."""
    options = {
        "corpus": str(more.corpus(tmp_path / "own.jsonl")),
        "question_ids": str(more.question_ids(tmp_path / "ids")),
        "dataset_size": 16,
        "seq_len": 64,
        "retain_thresholds": [0.001],
        "n_features_list": [1, 5],
        "multipliers": [50],
    }
    no_ids = options | {"question_ids": None}
    first, second, unanswered = evaluate("unlearning", options, options, no_ids, model=GEMMA)
    assert record(first) == record(second)
    assert record(first)["eval_result_metrics"] == {"unlearning": {"unlearning_score": 1.0}}
    assert record(first)["eval_config"]["model_name"] == "google/gemma-2-2b-it"
    (reason,) = unanswered.failures.values()
    assert "\n" not in reason and "unlearning.log" in reason


def test_autointerp(evaluate, tmp_path, monkeypatch):
    """Answers come in no fixed order, and the numbers are the same; the key is nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with more.judge() as judge:
        options = {
            "base_url": judge.url,
            "judge": "stand-in",
            "n_latents": 12,
            "total_tokens": 8000,
            "llm_context_size": 64,
        }
        first, second = (record(o) for o in evaluate("autointerp", options, options))
    assert first == second
    assert first["eval_result_metrics"]["autointerp"]["autointerp_score"] > 0.7
    latents = first["eval_result_unstructured"]
    assert len(latents) >= 8 and [*latents] == sorted(latents, key=int)
    assert all(set(entry["explanation"].split()) for entry in latents.values())
    assert {request["model"] for request in judge.requests} == {"stand-in"}
    assert judge.keys == {f"Bearer {KEY}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not any(KEY.encode() in file.read_bytes() for file in files)


def test_ravel(evaluate):
    """A mask that never moves exchanges nothing, so an exact SAE isolates and causes nothing."""
    options = {
        "entity_attribute_selection": {"city": list(more.ATTRIBUTES)},
        "num_pairs_per_attribute": 36,
        "full_dataset_downsample": 72,
        "n_generated_tokens": more.ANSWER_TOKENS,
        "learning_rate": 0.1,
    }
    still = options | {"learning_rate": 0.0}
    first, second, unmoved = (
        record(outcome)
        for outcome in evaluate(
            "ravel",
            options,
            options,
            still,
            sae=lambda: linear_sae(torch.eye(WIDTH), torch.zeros(WIDTH)),
        )
    )
    assert first == second
    assert unmoved["eval_result_metrics"]["ravel"] == {
        "disentanglement_score": 0.5,
        "cause_score": 0.0,
        "isolation_score": 1.0,
    }
    assert first["eval_result_metrics"]["ravel"]["isolation_score"] < 1
    attributes = {f"city_{attribute}" for attribute in more.ATTRIBUTES}
    assert set(first["eval_result_unstructured"]["city_results"]) == attributes
    assert first["eval_config"]["artifact_dir"] == "artifacts/ravel"


def test_sae_probes(evaluate):
    """Real labelled data, which the sae_probes package has."""
    options = {"dataset_names": [PROBED], "ks": [1, 2]}
    first, second = (record(o) for o in evaluate("sae_probes", options, options))
    assert first == second
    (detail,) = first["eval_result_details"]
    assert detail["dataset_name"] == PROBED
    metrics = first["eval_result_metrics"]
    for name in ("llm_test_accuracy", "llm_test_auc", "llm_test_f1"):
        assert metrics["llm"][name] == detail[name] and 0.4 < detail[name] < 1
    for k in (1, 2):
        assert 0.4 < metrics["sae"][f"sae_top_{k}_test_accuracy"] < 1
    assert metrics["sae"]["sae_top_5_test_accuracy"] is None


@pytest.mark.parametrize(
    ("name", "options", "model", "said"),
    [
        ("unlearning", {}, GEMMA, "unlearning.corpus=None: must be the path of bio-forget-corpus"),
        ("core", {}, "EleutherAI/pythia-70m-dedup", "EleutherAI/pythia-70m-deduped"),
    ],
)
def test_refused_in_one_line(hub, tmp_path, name, options, model, said):
    """With the packages that are installed."""
    judged = subject(toy_sae(), tmp_path, hub)
    given = {name: options} if options else {}
    evaluation = small_evaluation(hub, name, name=model, **given)
    with pytest.raises((InvalidOption, RunError)) as refused:
        evaluation.check(judged.source, judged.sae)
    assert any(said in line for line in str(refused.value).splitlines())


def test_questions_are_kept_when_all_are_there(tmp_path):
    """The model is asked once for all SAEs."""
    found = more.question_ids(tmp_path / "found")
    outside.place_questions(found, tmp_path / "kept")
    files = [file.relative_to(found) for file in found.rglob("*.csv")]
    assert len(files) == 45
    assert all((tmp_path / "kept" / f).read_text() == (found / f).read_text() for f in files)
    (found / files[0]).unlink()
    outside.place_questions(found, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_sampling_of_prompts_leaves_the_generator_as_it_was():
    """It is skipped when its result is kept, and the numbers are the same."""

    class Instance:
        prompts = range(100)

        def downsample_(self, n):
            self.taken = random.sample(self.prompts, n)

    sample = outside.apart(Instance.downsample_, seed=3)
    first, second = Instance(), Instance()
    random.seed(1)
    sample(first, 10)
    drawn = random.random()
    sample(second, 10)
    random.seed(1)
    assert random.random() == drawn
    assert first.taken == second.taken
    sample(first, 1000)
    assert sorted(first.taken) == [*Instance.prompts]


def test_results_of_binary_latents_are_found(tmp_path):
    def run_sae_evals(results_path, ks):
        for name in ("a_blocks.1.hook_resid_post_l1_binarized.json", "baseline.json"):
            (tmp_path / "deep" / name).write_text(str(ks))

    (tmp_path / "deep").mkdir()
    outside.where_sae_bench_looks(run_sae_evals)(results_path=str(tmp_path), ks=[1])
    names = {file.name for file in tmp_path.rglob("*.json")}
    assert names == {"a_blocks.1.hook_resid_post_l1.json", "baseline.json"}


@pytest.fixture
def ask(monkeypatch):
    """Ask a judge one question, with a memory of earlier answers."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def asked(url, memory, question="Why?", **options):
        given = {"base_url": url, "api_key_file": None, "judge": "j", "temperature": None}
        job = SimpleNamespace(options=given | options, seed=7)
        _, client = outside.judge_with_memory(job, memory)
        messages = [{"role": "user", "content": question}]
        reply = client.chat.completions.create(model="another", messages=messages, max_tokens=9)
        return reply.choices[0].message.content

    return asked


def test_a_judge_is_asked_once(ask, tmp_path):
    memory = tmp_path / "answers.jsonl"
    with more.judge() as judge:
        first = ask(judge.url, memory, "<< bad>>")
        with memory.open("a") as file:
            file.write('["cut o')
        assert ask(judge.url, memory, "<< bad>>") == first == "This neuron activates on bad"
        assert len(judge.requests) == 1
        ask(judge.url, memory, "<< bad>>", judge="k", temperature=0)
        ask(judge.url, memory, "<< worse>>")
    assert [request["model"] for request in judge.requests] == ["j", "k", "j"]
    assert {request["seed"] for request in judge.requests} == {7}
    assert [request.get("temperature") for request in judge.requests] == [None, 0, None]


def test_a_judge_that_refuses(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "RETRIES", 0)
    (tmp_path / "key").write_text(f"{KEY}\n")
    said = []
    with more.judge() as judge:
        for status in (401, 404, 500):
            judge.status = status
            try:
                ask(judge.url, tmp_path / "answers", api_key_file=str(tmp_path / "key"))
            except Exception as error:  # noqa: BLE001
                said.append(first_line(error))
    assert judge.keys == {f"Bearer {KEY}"}
    assert [line.split(":")[0] for line in said] == [
        "AuthenticationError",
        "NotFoundError",
        "InternalServerError",
    ]
    assert not any(KEY in line or "\n" in line for line in said)


def test_a_judge_that_is_gone(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "RETRIES", 0)
    with more.judge() as judge:
        url = judge.url
    try:
        ask(url, tmp_path / "answers")
    except Exception as error:  # noqa: BLE001
        assert first_line(error).startswith("APIConnectionError: Connection error.")
    else:
        raise AssertionError("it has answered")
