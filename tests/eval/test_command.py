"""`python -m temporal_sae.eval`: finished runs, SAEs from elsewhere, and what fails."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from temporal_sae.activations import LanguageModel
from temporal_sae.errors import RunError
from temporal_sae.eval import CoreEvaluation, Outcome
from temporal_sae.eval.__main__ import main
from temporal_sae.experiment import run_experiment
from temporal_sae.sae import load_sae
from tests.test_cli import small
from tests.test_config_surface import composed

SMALL = ("eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4")


@pytest.fixture(scope="module")
def options(random_gemma):
    """A run of a second on an untrained model."""
    return [o for o in small(random_gemma) if not o.startswith(("eval.", "trainer.log_every"))]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_experiment(composed(*options, "eval=none"), folder, options)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The folder of a finished run that was not evaluated."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_without_held_out_text_auto_trains_and_says_what_it_leaves_out(
    command, options, text_folder
):
    text = ("data=text_files", f"data.path={text_folder}", "data.held_out_fraction=0")
    code, out, err = command(*options, *text, "hydra.run.dir=run")
    assert (code, err) == (0, "")
    said = [line for line in out.replace("\n  ", " ").splitlines() if "leaves out" in line]
    assert [line.split("eval=auto ")[1].split(":")[0] for line in said] == [
        "leaves out eval=core",
        "leaves out eval=activations",
    ]
    assert all("the held_out text holds 0 tokens" in line for line in said)
    assert "core evaluation results" not in results(Path("run"))
    info = results(Path("run"))["training results for layer 1"]["final_info"]
    assert f"{info['explained_variance']:.3f}"[1:] in out  # the objective, from training
    code, _, err = command(*options, *text, "eval=core", "hydra.run.dir=other")
    assert code == 2
    assert err.startswith("error: eval=core needs held-out rows, and the held_out text holds 0")
    assert "data.held_out_fraction" in err and err.count("\n") == 1


def results(folder):
    return json.loads((folder / "results.json").read_text())


def failing(sections, failures):
    """Return what stands in for an evaluation, with that outcome for each SAE."""
    return lambda _, subjects: [Outcome(sections, failures) for _ in subjects]


def core(folder):
    return results(folder)["core evaluation results"]["metrics"]


def test_a_run_is_evaluated_afterwards_as_it_would_have_been_at_its_end(run, options, tmp_path):
    assert "core evaluation results" not in results(run)
    main([str(run), *SMALL])
    run_experiment(composed(*options, *SMALL), tmp_path / "at_once", options)
    assert core(run) == core(tmp_path / "at_once")
    assert "training results for layer 1" in results(run)
    assert json.loads((run / "eval" / "core.json").read_text())["metrics"] == core(run)
    assert "CE score" in (run / "notes.md").read_text()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_what_is_done_is_not_done_again_unless_an_option_differs(run, monkeypatch):
    main([str(run), *SMALL])
    before = core(run)
    with monkeypatch.context() as patch:
        patch.setattr(CoreEvaluation, "measure_together", lambda *_: pytest.fail("again"))
        main([str(run), *SMALL])
    main([str(run), "eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=8"])
    assert core(run) != before


def test_another_sae_in_the_same_folder_is_evaluated_anew(run, options, tmp_path):
    main([str(run), *SMALL])
    before = core(run)
    run_experiment(composed(*options, "eval=none", "seed=7"), tmp_path / "other", options)
    for name in ("cfg.json", "sae_weights.safetensors"):
        (run / "sae" / name).write_bytes((tmp_path / "other" / "sae" / name).read_bytes())
    main([str(run), *SMALL])
    assert core(run) != before


def test_the_same_weights_with_another_k_are_evaluated_anew(run):
    main([str(run), *SMALL])
    assert core(run)["sparsity"]["l0"] == 4
    changed(run / "sae" / "cfg.json", lambda cfg: cfg.update(k=2))
    main([str(run), *SMALL])
    assert core(run)["sparsity"]["l0"] == 2


def test_a_run_whose_evaluation_failed_is_finished_once_it_has_been_repaired(run, monkeypatch):
    def failed(record):
        record.update(status="failed", reason="eval two: no luck")

    def record():
        return json.loads((run / "run.json").read_text())

    changed(run / "run.json", failed)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(CoreEvaluation, "run_together", failing({}, {"two": "again no luck"}))
        main([str(run), *SMALL])
    assert record()["status"] == "failed"
    main([str(run), *SMALL])
    assert record()["status"] == "finished"
    assert "reason" not in record()


def test_an_sae_from_elsewhere_brings_its_model_or_is_told(run, capsys):
    main([str(run), *SMALL])
    main([str(run / "sae"), *SMALL])
    assert core(run / "sae") == core(run)
    (run / "sae" / "results.json").unlink()
    cfg = json.loads((run / "sae" / "cfg.json").read_text())
    model = cfg["metadata"].pop("model_name")
    (run / "sae" / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SystemExit) as stop:  # the bundled model is wider
        main([str(run / "sae"), *SMALL])
    assert stop.value.code == 2
    assert "a place of width 16" in capsys.readouterr().err
    model_options = [f"model.name={model}", "model.hook_name=blocks.1.hook_resid_post"]
    main([str(run / "sae"), *SMALL, "model=hf", *model_options, "activations.context_size=32"])
    assert core(run / "sae") == core(run)


def test_a_folder_of_dictionary_learning_names_its_model(run, random_gemma, tmp_path):
    sae = load_sae(run / "sae")
    state = {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T.contiguous(),
        "b_dec": sae.b_dec,
        "k": torch.tensor(sae.k),
        "threshold": torch.tensor(-1.0),
    }
    trainer = {
        **{"dict_class": "AutoEncoderTopK", "activation_dim": 16, "dict_size": 64, "k": 4},
        **{"lm_name": str(random_gemma), "submodule_name": "resid_post_layer_1"},
    }
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    torch.save({name: tensor.detach() for name, tensor in state.items()}, folder / "ae.pt")
    config = {"trainer": trainer, "buffer": {"ctx_len": 32}}
    (folder / "config.json").write_text(json.dumps(config))
    main([str(folder), *SMALL])
    main([str(run), *SMALL])
    assert core(folder) == core(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval=magic"], "eval=magic: must be one of"),
        (["eval.n_sparsty_sequences=4"], "the nearest valid key is eval.n_sparsity_sequences"),
        (["sae.k=3"], "sae.k=3: a run is evaluated with its own sae"),
        (["eval.n_sparsity_sequences=0"], "eval.n_sparsity_sequences=0: must be a whole number"),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments, message, capsys):
    before = sorted(run.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main([str(run), *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(run.rglob("*")) == before


def test_no_such_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "nothing")])
    assert stop.value.code == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_what_fails_is_told_by_the_exit_code_and_done_by_the_next_call(run, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(CoreEvaluation, "run_together", failing({"one": {}}, {"two": "no luck"}))
        with pytest.raises(SystemExit) as stop:
            main([str(run), *SMALL])
    assert stop.value.code == 3
    assert f"error: {run}: eval two: no luck" in capsys.readouterr().err
    assert "one" in results(run)
    main([str(run), *SMALL])
    assert core(run)["sparsity"]["l0"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_next_call_does_what_is_missing(run, number, code):
    command = [sys.executable, "-m", "temporal_sae.eval", str(run)]
    endless = ["eval.n_reconstruction_sequences=1000000", "eval.n_sparsity_sequences=1000000"]
    process = subprocess.Popen([*command, *endless], stderr=subprocess.PIPE, text=True)
    while not (run / ".lock").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert "the same command does what is missing" in error
    assert "Traceback" not in error
    assert not (run / "eval").exists()
    main([str(run), *SMALL])
    assert core(run)["sparsity"]["l0"] > 0


class Opened:
    """Whoever unpickles it leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def refusal(capsys, *arguments):
    """The one line with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error


def changed(file, change):
    """Rewrite a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("pandas.read_pickle", {"filepath_or_buffer": "hostile.pkl"}),
        ("temporal_sae.files.os.open", {"path": "trace", "flags": 64}),
    ],
)
def test_a_folder_cannot_have_its_own_code_run(
    run, tmp_path, monkeypatch, capsys, target, arguments
):
    monkeypatch.chdir(tmp_path)
    trace = tmp_path / "trace"
    Path("hostile.pkl").write_bytes(pickle.dumps(Opened(trace)))
    pickle.loads(pickle.dumps(Opened(trace))).close()
    trace.unlink()  # that it would have worked
    hostile = {"_target_": target, **arguments}
    changed(run / "run.json", lambda record: record["config"].update(activations=hostile))
    error = refusal(capsys, run, *SMALL)
    assert f"activations._target_='{target}': must be temporal_sae" in error
    nested = {"_target_": "temporal_sae.activations.Harvest", "outliers": [hostile]}
    changed(run / "run.json", lambda record: record["config"].update(activations=nested))
    assert f"activations.outliers.0._target_='{target}'" in refusal(capsys, run, *SMALL)
    assert not trace.exists()


def test_a_persons_own_class_is_named_again_for_each_command(run, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_texts.py").write_text(
        "from temporal_sae.data import StdlibText\n\nclass Theirs(StdlibText):\n    pass\n"
    )
    own = "their_texts.Theirs"

    def name_own(record):
        record["config"]["data"]["_target_"] = own
        record["config"]["plugins"] = ["their_texts"]  # a folder cannot vouch for itself

    changed(run / "run.json", name_own)
    error = refusal(capsys, run, *SMALL)
    assert f"data._target_='{own}'" in error
    assert "plugins=[my_module]" in error
    assert "their_texts" not in sys.modules
    main([str(run), *SMALL, "plugins=[their_texts]"])
    assert core(run)["sparsity"]["l0"] > 0
    assert "plugins='their_text': must be" in refusal(capsys, run, "plugins=[their_text]")


SECRETS = ["${oc.env:SECRET}", "x/${oc.env:SECRET}", "a,b", "'", "=x", "[1", "???", "\\${seed}"]


@pytest.mark.parametrize("text", SECRETS)
def test_words_of_a_folder_are_never_replaced_nor_parsed(run, monkeypatch, capsys, text):
    monkeypatch.setenv("SECRET", "hidden-password")
    asked = []

    def ask(self, name, *arguments, **named):
        asked.append(name)
        raise RunError(f"{name}: there is no such model")

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "__init__", ask)
        changed(run / "run.json", lambda record: record["config"]["model"].update(name=text))
        error = refusal(capsys, run, *SMALL)
        changed(run / "sae" / "cfg.json", lambda cfg: cfg["metadata"].update(model_name=text))
        error += refusal(capsys, run / "sae", *SMALL)
    assert "hidden-password" not in error
    assert asked == ([] if "${" in text or text == "???" else [text, text])


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"model_name": 5}, "cfg.json: cannot be read (metadata.model_name=5"),
        ({"context_size": "12 sae=topk"}, "metadata.context_size"),
        ({"context_size": -1}, "activations.context_size=-1: must be"),
        ({"prepend_bos": "no"}, "metadata.prepend_bos"),
        ({"hook_name": "\x1b[31mred"}, "\\x1b[31mred"),
    ],
)
def test_facts_of_another_kind_are_one_line(run, capsys, facts, named):
    changed(run / "sae" / "cfg.json", lambda cfg: cfg["metadata"].update(facts))
    error = refusal(capsys, run / "sae", *SMALL)
    assert named in error
    assert "\x1b" not in error


def test_what_is_typed_goes_before_what_the_folder_says(run, random_gemma, capsys):
    wrong = {"model_name": "no/such", "context_size": 100_000}
    changed(run / "sae" / "cfg.json", lambda cfg: cfg["metadata"].update(wrong))
    typed = [f"model.name={random_gemma}", "activations.context_size=32"]
    main([str(run / "sae"), *SMALL, *typed])
    main([str(run), *SMALL])
    assert core(run / "sae") == core(run)
