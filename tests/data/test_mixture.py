"""Several sources as one: proportions, order, a stop in the middle, what is said of them."""

import itertools
import json
import re
from pathlib import Path

import pytest

from temporal_sae.data import HubText, MixtureText, TextFiles, TextSource
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.__main__ import main as evaluate
from temporal_sae.registry import components
from tests.data.test_command import SMALL


def files(folder, word, n, times=1, **options):
    """A source of `n` files, each of which repeats its own word."""
    folder.mkdir()
    for number in range(n):
        (folder / f"{number}.txt").write_text(f"{word}{number:03d} " * times)
    return TextFiles(str(folder), **options)


@pytest.fixture
def mixture(tmp_path):
    """Two thirds of short texts, one third of long ones of which there are few."""
    parts = [files(tmp_path / "a", "a", 40, held_out_fraction=0.3)]
    parts.append(files(tmp_path / "b", "b", 8, times=20, held_out_fraction=0.4))
    return lambda **options: MixtureText(parts, **{"weights": [2, 1], **options})


def first(source, n, split="train", seed=0, start=0):
    return list(itertools.islice(source.documents(split, seed, 0, start), n))


def test_parts_stand_for_their_share_of_the_characters(mixture):
    texts = [text for _, text in first(mixture(), 1000)]
    in_a = sum(len(text) for text in texts if text.startswith("a"))
    in_b = sum(len(text) for text in texts if text.startswith("b"))
    assert abs(in_a / (in_a + in_b) - 2 / 3) < 0.01
    equal = [text for _, text in first(mixture(weights=None), 1000)]
    in_a = sum(len(text) for text in equal if text.startswith("a"))
    assert abs(in_a / sum(map(len, equal)) - 1 / 2) < 0.01


@pytest.mark.parametrize("n", [0, 1, 7, 30, 200, 401])
def test_it_is_continued_anywhere_to_the_same_documents(mixture, n):
    whole = first(mixture(), 500)
    start = json.loads(json.dumps(whole[n - 1][0])) if n else 0
    assert first(mixture(), 500 - n, start=start) == whole[n:]


def test_a_part_may_be_a_mixture_itself(mixture, tmp_path):
    whole = MixtureText([mixture(), files(tmp_path / "c", "c", 5)])
    texts = first(whole, 300)
    in_c = sum(len(text) for _, text in texts if text.startswith("c"))
    assert abs(in_c / sum(len(text) for _, text in texts) - 1 / 2) < 0.02
    assert first(whole, 200, start=json.loads(json.dumps(texts[99][0]))) == texts[100:]
    assert TextFiles in components("data.parts.0.parts.1") == components("data.parts")


def test_a_part_that_is_used_up_begins_its_next_pass_in_another_order(mixture, caplog):
    texts = [text for _, text in first(mixture(), 400)]
    of_a = [text for text in texts if text.startswith("a")]
    n = len(set(of_a))
    assert sorted(of_a[:n]) == sorted(of_a[n : 2 * n]) == sorted(set(of_a))
    assert of_a[:n] != of_a[n : 2 * n]
    told = "data.parts.0 begins its second pass: one holds about"
    assert sum(message.startswith(told) for message in caplog.messages) == 1
    assert texts == [text for _, text in first(mixture(), 400)]
    assert texts != [text for _, text in first(mixture(), 400, seed=1)]


def test_held_out_text_is_apart_and_read_once(mixture):
    held_out = [text for _, text in first(mixture(), 1000, "held_out")]
    assert len(held_out) == len(set(held_out)) > 3
    assert set(held_out).isdisjoint(text for _, text in first(mixture(), 1000))
    assert {text[0] for text in held_out} == {"a", "b"}


def test_every_fact_names_its_part(tmp_path):
    one, two = files(tmp_path / "a", "a", 2), files(tmp_path / "b", "b", 3)
    for folder in ("a", "b"):
        (tmp_path / folder / "empty").write_text("")
    one, two = TextFiles(one.path), TextFiles(two.path)
    mixture = MixtureText([one, two])
    assert mixture.left_out() == {"empty": {"count": 2, "example": "0/empty"}}
    assert mixture.listing().keys() >= {"0/0.txt", "1/2.txt"}
    assert mixture.describe() == {"parts": [one.describe(), two.describe()], "weights": [1.0, 1.0]}


class Nothing(TextSource):
    def documents(self, split, seed, epoch, start=0):
        yield from ()


def test_a_part_without_text_is_named(tmp_path):
    mixture = MixtureText([files(tmp_path / "a", "a", 2, held_out_fraction=0), Nothing()])
    with pytest.raises(RunError, match=r"data.parts.1 holds no text"):
        first(mixture, 10)
    assert first(mixture, 10, "held_out") == []


def test_refusals_carry_the_number_of_the_part(tmp_path):
    good = files(tmp_path / "a", "a", 2)
    with pytest.raises(InvalidOption, match=r"parts.1.name='/nowhere'"):
        first(MixtureText([good, HubText("/nowhere")]), 10)
    for parts in ([], None, "words", [3], [good, 3]):
        with pytest.raises(InvalidOption, match="parts="):
            MixtureText(parts)
    for weights in ([1], [1, 0], [1, -1], [1, "x"], 3, [1, 1, 1]):
        with pytest.raises(InvalidOption, match="weights="):
            MixtureText([good, good], weights)


def test_broken_rows_of_a_part_are_remembered(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"te\n{"text": "b"}\n')
    source = MixtureText(
        [HubText(str(tmp_path / "rows.jsonl"), held_out_fraction=0, skip_broken=1)]
    )
    first(source, 2)
    other = MixtureText([HubText(str(tmp_path / "rows.jsonl"), held_out_fraction=0)])
    other.load_state_dict(source.state_dict())
    assert other.left_out() == source.left_out() != {}
    assert len(first(other, 10)) == 10


RUN = Path("outputs/mine")


@pytest.fixture
def train(command, random_gemma, text_folder):
    """Trains for four steps on a mixture; returns (exit code, stdout, stderr)."""
    texts = f"{{_target_:temporal_sae.data.TextFiles,path:'{text_folder}'}}"
    library = "{_target_:temporal_sae.data.StdlibText}"

    def run(*overrides):
        return command(
            f"model.name={random_gemma}",
            *(option for option in SMALL if not option.startswith("data=")),
            "data=mixture",
            f"data.parts=[{texts},{library}]",
            "data.weights=[0.7,0.3]",
            f"hydra.run.dir={RUN}",
            "trainer.checkpoint_every=1",
            *overrides,
        )

    return run


def test_a_run_on_a_mixture_is_continued_and_evaluated_from_its_folder(train):
    assert train()[0] == 0
    weights = RUN / "sae" / "sae_weights.safetensors"
    trained = weights.read_bytes()
    for checkpoint in sorted((RUN / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    for name in ("results.json", "notes.md"):
        (RUN / name).unlink()
    record = json.loads((RUN / "run.json").read_text())
    (RUN / "run.json").write_text(json.dumps({**record, "status": "running"}))
    code, out, err = train()
    assert code == 0, err
    assert "continuing at step 3 of 4" in out
    assert weights.read_bytes() == trained
    evaluate([str(RUN), "eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4"])
    code, _, err = train("data.weights=[0.5,0.5]")
    assert code == 2, err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{_target_:temporal_sae.data.TextFiles,path:nowhere}", r"data\.parts\.0\.path='nowhere'"),
        (
            "{_target_:temporal_sae.data.MixtureText,parts:[{_target_:temporal_sae.data.StdlibText}"
            ",{_target_:temporal_sae.data.TextFiles,path:nowhere}]}",
            r"data\.parts\.0\.parts\.1\.path='nowhere'",
        ),
        ("{_target_:temporal_sae.data.TextFiles,paht:x}", r"data\.parts\.0\.paht: unknown key"),
        ("{_target_:temporal_sae.data.TextFiles}", r"data\.parts\.0\.path: is missing"),
        ("{_target_:pathlib.Path}", r"data\.parts="),
    ],
)
def test_mistakes_in_a_part_are_told_with_its_key(train, part, message):
    code, _, err = train(f"data.parts=[{part}]", "data.weights=null")
    assert code == 2
    assert re.match(f"error: {message}", err)
    assert err.count("\n") == 1


def test_a_part_that_is_the_runs_own_folder_is_refused(train):
    RUN.mkdir(parents=True)
    (RUN / "a.txt").write_text("some words " * 500)
    part = f"{{_target_:temporal_sae.data.TextFiles,path:'{RUN}'}}"
    code, _, err = train(f"data.parts=[{part}]", "data.weights=null")
    assert code == 2
    assert "must be text outside the run's own folder" in err
