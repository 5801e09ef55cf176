"""The last words of a sweep, as a person reads them."""

import io

import pytest
from rich.console import Console

from temporal_sae.report.sweep_summary import say_last_words
from tests.report.sweeps import results_of, write_job


def last_words(folder, jobs, width=160):
    console = Console(file=io.StringIO(), width=width)
    say_last_words(folder, jobs, console)
    return console.file.getvalue()


def rows_of(text):
    """The cells of the table's lines, which begin with a number."""
    lines = [line.split() for line in text.splitlines()]
    return [cells for cells in lines if cells and cells[0].isdigit()]


def scored(folder, number, overrides, ev, **more):
    return write_job(folder, number, overrides, results_of(explained_variance=ev, **more))


def test_every_finished_job_has_a_row_and_the_best_is_named_with_its_files(tmp_path):
    jobs = [
        scored(tmp_path, 0, "loss.w=0 lr=3", 0.25, ce_loss_score=0.9, dead_share=0.125),
        scored(tmp_path, 1, "loss.w=1 lr=3", 0.5, ce_loss_score=0.8, dead_share=0.0),
        scored(tmp_path, 2, "tracker=off lr=3", 0.125),
        write_job(tmp_path, 3, "loss.w=2 lr=3", state="failed", reason="why"),
    ]
    (jobs[1].folder / "notes.md").write_text("")
    text = last_words(tmp_path, jobs)
    assert text.startswith("results of the 3 of 4 jobs that are finished:\n")
    assert rows_of(text) == [
        ["0", "0", "0.900", "0.250", "12.5%"],
        ["1", "1", "0.800", "0.500", "0.0%"],
        ["2", "off", "-", "0.125", "-"],
    ]
    head = " ".join(text.splitlines()[1].split())
    assert head == "job w tracker CE score explained variance dead latents"
    assert text.splitlines()[-3:] == [
        "best job: 1 (loss.w=1), explained_variance 0.5",
        f"  in {jobs[1].folder} (read notes.md)",
        f"all results: {tmp_path / 'sweep.csv'}",
    ]
    assert last_words(tmp_path, jobs[3:]) == ""


def test_seeds_are_averaged_and_one_lucky_seed_is_no_best_setting(tmp_path):
    jobs = [
        scored(tmp_path, n, f"w={w} seed={seed}", ev)
        for n, (w, seed, ev) in enumerate(
            [(0, 1, 0.25), (0, 2, 0.75), (1, 1, 0.5), (1, 2, 0.625), (2, 1, 0.875)]
        )
    ]
    text = last_words(tmp_path, jobs)
    assert rows_of(text) == [
        ["2", "0", "0.500", "±", "0.354"],
        ["2", "1", "0.562", "±", "0.088"],
        ["1", "2", "0.875"],
    ]
    assert "best setting: w=1, explained_variance 0.5625 ± 0.08839 over 2 seeds\n" in text
    assert "best job: 4 (w=2 seed=1), explained_variance 0.875\n" in text


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("explained_variance", "best job: 1 (seed=1)"),
        ("dead_share", "best job: 0 (seed=0)"),
        ("l0", "no best job: neither side of l0 is declared better"),
    ],
)
def test_the_best_is_on_the_better_side_of_the_objective(tmp_path, objective, said):
    jobs = [
        write_job(
            tmp_path,
            n,
            f"seed={n}",
            results_of(l0=5.5 + n, explained_variance=n / 4, dead_share=n / 8),
            config={"objective": objective},
        )
        for n in (0, 1)
    ]
    text = last_words(tmp_path, jobs)
    assert said in text
    assert ("objective l0" in text) == (objective == "l0")


def test_an_objective_typed_later_counts_and_training_averages_do_without_an_evaluation(tmp_path):
    results = {"training results": {"final_info": {"l0": 4.5, "explained_variance": 0.5}}}
    jobs = [write_job(tmp_path, n, f"a={n} objective=l0", results) for n in (0, 1)]
    text = last_words(tmp_path, jobs)
    assert "objective l0" in text
    assert rows_of(text) == [["0", "0", "4.5"], ["1", "1", "4.5"]]
    assert "objective explained_variance" in last_words(
        tmp_path, [write_job(tmp_path, 2, "a=2", results)]
    )


@pytest.mark.parametrize("objective", ["explained_variance", "l0"])
def test_of_many_jobs_the_best_are_shown_and_the_others_counted(tmp_path, objective):
    jobs = [
        write_job(
            tmp_path,
            n,
            f"a={n}",
            results_of(explained_variance=n / 100, l0=float(n)),
            config={"objective": objective},
        )
        for n in range(93)
    ]
    text = last_words(tmp_path, jobs)
    best = range(53, 93) if objective == "explained_variance" else range(40)
    assert [int(cells[0]) for cells in rows_of(text)] == list(best)
    which = "best" if objective == "explained_variance" else "first"
    assert f"the {which} 40 are shown; 53 more are in sweep.csv" in text


def test_sizes_come_with_their_elbows(tmp_path):
    jobs = [
        scored(tmp_path, n, f"sae.k={k}", ev, l0=k)
        for n, (k, ev) in enumerate([(4, 0.2), (8, 0.5), (16, 0.6)])
    ]
    for job in jobs:
        path = job.folder / "results.json"
        sizes = '{"training results": {"config": {"dict_size": 64}}, '
        path.write_text(path.read_text().replace("{", sizes, 1))
    text = last_words(tmp_path, jobs)
    line = "d_sae=64: explained variance has its elbow at L0 8 (between 4 and 16 of 3 points)"
    assert line in text.splitlines()
    assert "against L0" in text


def test_numbers_that_no_float_holds_are_left_out(tmp_path):
    jobs = [scored(tmp_path, n, f"seed={n}", ev) for n, ev in enumerate([0.5, 10**400, 1e308])]
    (jobs[2].folder / "results.json").write_text(
        (jobs[0].folder / "results.json").read_text().replace("0.5", "1e999")
    )
    assert rows_of(last_words(tmp_path, jobs)) == [["3", "0.500"]]


def test_words_of_a_folder_are_neither_markup_nor_escape_codes(tmp_path):
    jobs = [scored(tmp_path, n, f"a={word}", 0.5) for n, word in enumerate(["[/bold]", "\x1b[2J"])]
    text = last_words(tmp_path, jobs)
    assert "[/bold]" in text
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
