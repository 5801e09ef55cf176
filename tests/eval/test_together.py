"""Several SAEs are evaluated in the same passes, each as if it were alone."""

import gc
import traceback
import weakref
from functools import partial

import pytest
import torch

from temporal_sae.activations import Harvest, SyntheticActivations, WorldOptions
from temporal_sae.data import TextFiles
from temporal_sae.errors import RunError
from temporal_sae.eval import (
    ActivationsEvaluation,
    AutoEvaluation,
    CoreEvaluation,
    Evaluation,
    EvaluationFiles,
    GroundTruthEvaluation,
    Outcome,
    Subject,
)
from temporal_sae.eval.tasks import TasksEvaluation
from temporal_sae.eval.together import Together
from temporal_sae.sae import StandardSAE, TopKSAE

HOOKS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_mid")
CORE = CoreEvaluation(lm_batch_size=4, n_reconstruction_sequences=6, n_sparsity_sequences=10)
ROWS = ActivationsEvaluation(10, 4, window_size=20)
AUTO = AutoEvaluation(lm_batch_size=4, n_reconstruction_sequences=6, n_sparsity_sequences=10)
BATCHES_OF_ROWS, BATCHES_OF_TEXT = 3, 2


@pytest.fixture
def sources(small_model, text_folder):
    """Two places of one model, which read the same text."""
    text = TextFiles(str(text_folder), held_out_fraction=0.5)
    found = [Harvest(context_size=16, model=small_model.at(hook), text=text) for hook in HOOKS]
    for source in found:
        source.open()
        source.language_model.plain_pass(torch.arange(8)[None])  # has a look at the place
    return found


def saes():
    torch.manual_seed(0)
    return [TopKSAE(16, 32, k=4), StandardSAE(16, 24), TopKSAE(16, 48, k=8)]


def subjects_in(folder, sources):
    """Return each SAE at each place in turn."""
    found = []
    for sae in saes():
        for source in sources:
            own = folder / f"{len(found)}"
            own.mkdir(parents=True)
            found.append(Subject(sae, own, source, EvaluationFiles(own / "eval", {})))
    return found


def written(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.json")}


def broken(sae, after=0):
    """Let an SAE fail once it has encoded so many batches."""
    encode, left = sae.encode, [after]

    def encoded(x):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the weights are NaN")
        return encode(x)

    sae.encode = encoded
    return sae


@pytest.mark.parametrize("evaluation", [CORE, ROWS, AUTO])
def test_each_gets_what_it_gets_alone_to_the_byte(evaluation, sources, tmp_path):
    evaluation = evaluation.for_source(sources[0])
    alone = [evaluation.run(s) for s in subjects_in(tmp_path / "alone", sources)]
    together = evaluation.run_together(subjects_in(tmp_path / "together", sources))
    assert [list(o.sections) for o in together] == [list(o.sections) for o in alone]
    files = written(tmp_path / "alone")
    assert len(files) == 2 * 6 and files == written(tmp_path / "together")
    assert len({content for path, content in files.items() if path.name != "done.json"}) == 6


def test_known_features_are_compared_with_several_saes_at_once(tmp_path):
    source = SyntheticActivations(WorldOptions(d_in=16, n_features=64))
    source.open()
    evaluation = GroundTruthEvaluation(40, 8)
    for subject in subjects_in(tmp_path / "alone", [source]):
        evaluation.run(subject)
    blocks = []
    block = source.block
    source.block = lambda *args: blocks.append(args) or block(*args)
    evaluation.run_together(subjects_in(tmp_path / "together", [source]))
    assert len(blocks) == 2  # of 4,096 rows
    files = written(tmp_path / "alone")
    assert len(files) == 2 * 3 and files == written(tmp_path / "together")


@pytest.fixture
def runs(small_model):
    """Count the runs of each layer."""
    counts = [0] * small_model.n_layers

    def ran(n, *_):
        counts[n] += 1

    layers = enumerate(small_model.model.model.layers)
    handles = [layer.mlp.register_forward_hook(partial(ran, n)) for n, layer in layers]
    yield counts
    for handle in handles:
        handle.remove()


def test_what_does_not_depend_on_the_sae_is_computed_once(sources, runs, tmp_path):
    subjects = subjects_in(tmp_path, sources[:1])
    runs[:] = [0, 0, 0]
    CORE.run_together(subjects)
    before, behind = BATCHES_OF_ROWS + BATCHES_OF_TEXT, BATCHES_OF_TEXT * (2 + len(subjects))
    assert runs == [before, before, behind]


def test_what_the_files_hold_is_not_computed_again(sources, tmp_path):
    subjects = subjects_in(tmp_path, sources)
    CORE.run(subjects[0])
    before = written(tmp_path)
    broken(subjects[0].sae)
    again = CORE.run_together(subjects[:1])
    assert list(again[0].sections) == ["core evaluation results"] and written(tmp_path) == before


@pytest.mark.parametrize(("evaluation", "after"), [(CORE, 0), (CORE, 4), (ROWS, 1), (AUTO, 4)])
def test_an_sae_that_raises_is_left_out_and_the_others_go_on(evaluation, after, sources, tmp_path):
    evaluation = evaluation.for_source(sources[0])
    for subject in subjects_in(tmp_path / "alone", sources[:1]):
        evaluation.run(subject)
    subjects = subjects_in(tmp_path / "together", sources[:1])
    broken(subjects[1].sae, after)
    first, second, third = evaluation.run_together(subjects)
    assert isinstance(second, RuntimeError) and str(second) == "the weights are NaN"
    assert isinstance(first, Outcome) and isinstance(third, Outcome)
    expected = {p: c for p, c in written(tmp_path / "alone").items() if p.parts[0] != "1"}
    assert written(tmp_path / "together") == expected
    with pytest.raises(RuntimeError, match="the weights are NaN"):
        evaluation.run(subjects[1])


def test_a_result_that_cannot_be_written_is_the_fate_of_one(sources, tmp_path):
    subjects = subjects_in(tmp_path, sources)
    (subjects[2].files.folder).write_text("in the way")
    found = CORE.run_together(subjects)
    assert [isinstance(each, OSError) for each in found] == [n == 2 for n in range(6)]


def test_where_there_are_no_rows_all_are_told(small_model, text_folder, tmp_path):
    text = TextFiles(str(text_folder), held_out_fraction=0)
    source = Harvest(context_size=16, model=small_model, text=text)
    source.open()
    for error in CORE.run_together(subjects_in(tmp_path, [source])):
        assert isinstance(error, RunError) and "the held_out text holds 0" in str(error)


def test_a_stop_goes_through(sources, tmp_path):
    subjects = subjects_in(tmp_path, sources)

    def stop(x):
        raise KeyboardInterrupt

    subjects[1].sae.encode = stop
    for evaluation in (CORE, AUTO.for_source(sources[0])):
        with pytest.raises(KeyboardInterrupt):
            evaluation.run_together(subjects)


class Fussy(Evaluation):
    """Evaluates one SAE after the other, and not all of them."""

    name = "fussy"

    def run(self, subject):
        if subject.sae.d_sae == 24:
            raise RunError("24 is not a number of latents")
        return Outcome({"fussy": {"d_sae": subject.sae.d_sae}})


def test_any_evaluation_can_be_asked_for_several(sources, tmp_path):
    first, second, third = Fussy().run_together(subjects_in(tmp_path, sources[:1]))
    assert [o.sections["fussy"]["d_sae"] for o in (first, third)] == [32, 48]
    assert str(second) == "24 is not a number of latents"


def test_tasks_share_the_core_evaluation(sources, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(TasksEvaluation, "_result", lambda *_: pytest.fail("there is no task"))
    monkeypatch.setattr(TasksEvaluation, "__post_init__", lambda _: None)
    evaluation = TasksEvaluation(tasks=[], core=CORE)
    measure = CoreEvaluation.measure_together

    def measured(self, saes, source):
        done.append(len(saes))
        return measure(self, saes, source)

    monkeypatch.setattr(CoreEvaluation, "measure_together", measured)
    found = evaluation.run_together(subjects_in(tmp_path, sources))
    assert done == [3, 3]
    assert all("core evaluation results" in outcome.sections for outcome in found)


# --- members of one measurement ------------------------------------------------------------------


def fail_at(number):
    def step(member, batch):
        member.append(batch)
        if member[0] == batch == number:
            raise ValueError(f"no {batch}")

    return step


def test_nothing_more_is_read_once_all_have_raised():
    read = []
    batches = (read.append(n) or n for n in range(10))
    together = Together(lambda n: [n], [2, 2])
    together.take(batches, fail_at(2))
    assert read == [0, 1, 2]
    assert [str(each) for each in together.answers(len)] == ["no 2", "no 2"]


def test_one_that_cannot_begin_takes_nothing():
    def begin(n):
        return [1 // n]

    together = Together(begin, [0, 1])
    together.take([7], lambda member, batch: member.append(batch))
    first, second = together.answers(list)
    assert isinstance(first, ZeroDivisionError) and second == [1, 7]


class Large:
    """Stands for a tensor."""


def test_a_batch_is_let_go_before_the_next_is_made():
    before = []

    def batches():
        for _ in range(3):
            gc.collect()
            assert not any(batch() for batch in before)
            batch = Large()
            before.append(weakref.ref(batch))
            yield batch
            del batch

    Together(lambda n: [n], [0, 1]).take(batches(), lambda member, batch: None)
    assert len(before) == 3


def test_an_error_does_not_hold_what_the_failed_step_has_made():
    made = []

    def step(member, batch):
        large = Large()
        made.append(weakref.ref(large))
        raise ValueError("no")

    together = Together(lambda n: [n], [0])
    together.take([1], step)
    (error,) = together.answers(len)
    gc.collect()
    assert made[0]() is None
    assert traceback.extract_tb(error.__traceback__)[-1].name == "step"
