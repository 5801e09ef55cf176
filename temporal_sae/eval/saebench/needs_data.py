"""Whether data sets that are kept locally have enough rows of every class.

sae_bench drops a class with too few texts, or stops at an assertion without a message, after the
language model is loaded. What it takes is, for a task of `size` texts: size/4 of each class and
group (profession and gender, category and rating), size/2 of each class where there are no groups,
and for SCR more than 2 * (size/4) of the two combinations that the biased probe is trained on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.saebench.options import DEFAULTS

SPLITS = ("train", "test")
SETS = "_class_set"
BIOS = "LabHC/bias_in_bios"
AMAZON = "canrager/amazon_reviews_mcauley_1and5"
SENTIMENT = f"{AMAZON}_sentiment"
NEWS = "fancyzhx/ag_news"
CODE = "codeparrot/github-code"
EUROPARL = "Helsinki-NLP/europarl"

# The numbers that stand for classes in the data sets, as SAEBench chooses them.
CLASSES: dict[str, tuple[Any, ...]] = {
    f"{BIOS}{SETS}1": (0, 1, 2, 6, 9),
    f"{BIOS}{SETS}2": (11, 13, 14, 18, 19),
    f"{BIOS}{SETS}3": (20, 21, 22, 25, 26),
    AMAZON: (1, 2, 3, 5, 6),
    SENTIMENT: (1.0, 5.0),
    NEWS: (0, 1, 2, 3),
    CODE: ("C", "Python", "HTML", "Java", "PHP"),
    EUROPARL: ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt"),
}
COLUMNS = {BIOS: ("profession", "gender"), AMAZON: ("category", "rating")}
GROUPS: dict[str, tuple[Any, Any]] = {BIOS: (0, 1), AMAZON: (1.0, 5.0)}
# Class pairs of SCR: professor/nurse, architect/journalist, surgeon/psychologist, attorney/teacher;
# books/CDs, software/electronics, pet supplies/office products, industrial/toys.
PAIRS = {
    BIOS: ((21, 13), (1, 11), (25, 22), (2, 26)),
    AMAZON: ((24, 26), (30, 6), (18, 11), (3, 1)),
}
SIZES = {  # option of the number of texts, by split
    "sparse_probing": ("probe_train_set_size", "probe_test_set_size"),
    "scr": ("train_set_size", "test_set_size"),
    "tpp": ("train_set_size", "test_set_size"),
}

LOOKUP = "column1_vals_lookup"
STREAMED = (CODE, EUROPARL)
REPOSITORIES = {  # data sets that have no option
    "unlearning": ("Salesforce/wikitext", "cais/wmdp", "cais/mmlu"),
    "ravel": ("adamkarvonen/ravel_prompts",),
}


@dataclass(frozen=True)
class Wanted:
    """At least `rows` rows of a split have `values` in `columns`."""

    repository: str
    split: str
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    rows: int
    subset: str = ""  # folder of a configuration


def absent_problems(
    evaluation: str, options: Mapping[str, Any], data_folder: Path
) -> Iterator[RunError]:
    """One line for the data sets that are not below `data_folder`, which then replaces the hub."""
    names = [*REPOSITORIES.get(evaluation, ())]
    for option in ("dataset", "dataset_name"):
        names += [options[option]] if options.get(option) else []
    if evaluation in SIZES:
        names += [repository_of(name) for name in options.get("dataset_names") or ()]
    missing = [name for name in dict.fromkeys(names) if not (data_folder / name).is_dir()]
    if missing:
        yield RunError(
            f"{evaluation}: eval.data_folder={str(data_folder)!r} has no {', '.join(missing)}, and "
            "with it nothing is taken from the hub; put a copy of each there (hf download "
            f"--repo-type dataset {missing[0]} --local-dir {data_folder / missing[0]})"
        )


def offline_problems(
    evaluation: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[RunError]:
    """One line for the data sets that are streamed from the hub, where it may not be used.

    A filled cache serves those that are not streamed.
    """
    names = [options.get("dataset"), options.get("dataset_name")]
    if evaluation in SIZES:
        names += [name for name in options.get("dataset_names") or () if name in STREAMED]
    wanted = [name for name in names if name and not Path(name).is_absolute()]
    if wanted and environment.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        yield RunError(
            f"{evaluation}: {', '.join(wanted)} is streamed from the hub, which HF_HUB_OFFLINE "
            "forbids; put a copy into a folder as ORG/NAME and give the folder as eval.data_folder"
        )


def row_problems(
    evaluation: str, options: Mapping[str, Any], data_folder: Path
) -> Iterator[InvalidOption]:
    """One line for each data set and split that has too few rows of some class.

    Data sets that are not below `data_folder`, or not as parquet, are passed over.
    """
    sizes = dict(zip(SPLITS, SIZES.get(evaluation, ()), strict=False))
    if not sizes or not set(sizes.values()) <= options.keys():
        return
    counted = cache(count_all)
    for name in options.get("dataset_names") or ():
        for split, option in sizes.items():
            short = []
            for wanted in wanted_rows(evaluation, name, split, options, sizes):
                folder = data_folder / wanted.repository / wanted.subset
                counts = counted(folder, split, wanted.columns)
                if counts is not None and counts[wanted.values] < wanted.rows:
                    short.append((counts[wanted.values], wanted))
            if short:
                yield too_few(f"{evaluation}.{option}", options[option], short)


def repository_of(name: str) -> str:
    """Where the rows are of which SAEBench makes several data sets."""
    return name.split(SETS)[0].removesuffix("_sentiment")


def too_few(option: str, size: Any, short: Sequence[tuple[int, Wanted]]) -> InvalidOption:
    """The class with the fewest rows, and how many others are short of some."""
    found, wanted = min(short, key=lambda pair: pair[0])
    what = " and ".join(
        f"{column} {value}" for column, value in zip(wanted.columns, wanted.values, strict=True)
    )
    others = f" ({len(short) - 1} other classes are short too)" if len(short) > 1 else ""
    return InvalidOption(
        option,
        size,
        f"smaller: it takes {wanted.rows} {wanted.split} texts of every class, and "
        f"{wanted.repository} has {found} with {what or wanted.subset}{others}",
    )


def wanted_rows(
    evaluation: str,
    name: str,
    split: str,
    options: Mapping[str, Any],
    sizes: Mapping[str, str],
) -> Iterator[Wanted]:
    """What an evaluation takes of a data set."""
    size = int(options[sizes[split]])
    repository = name.split(SETS)[0]
    classes = CLASSES.get(name, ())
    if evaluation == "scr":
        if options.get(LOOKUP, DEFAULTS["scr"][LOOKUP]) == DEFAULTS["scr"][LOOKUP]:
            yield from wanted_by_scr(repository, split, size // 4)
    elif repository in COLUMNS:
        for pair in ((c, group) for c in classes for group in GROUPS[repository]):
            yield Wanted(repository, split, COLUMNS[repository], pair, size // 4)
    elif name == SENTIMENT:
        for rating in classes:
            yield Wanted(AMAZON, split, ("rating",), (rating,), size // 2)
    elif name == NEWS:
        for label in classes:
            yield Wanted(NEWS, split, ("label",), (label,), size // 2)
    elif name in (CODE, EUROPARL) and split == "train":  # the test texts come from there too
        both = sum(int(options[option]) // 2 for option in sizes.values())
        for value in classes:
            if name == CODE:
                yield Wanted(CODE, "train", ("language",), (value,), both)
            else:
                yield Wanted(EUROPARL, "train", (), (), both, subset=value)


def wanted_by_scr(repository: str, split: str, quarter: int) -> Iterator[Wanted]:
    """Four combinations of two classes and two groups, two of them more often."""
    first, second = GROUPS.get(repository, (None, None))
    for positive, negative in PAIRS.get(repository, ()):
        for pair, biased in (
            ((positive, first), True),
            ((negative, second), True),
            ((positive, second), False),
            ((negative, first), False),
        ):
            rows = 2 * quarter + 1 if biased else quarter
            yield Wanted(repository, split, COLUMNS[repository], pair, rows)


def count_all(
    folder: Path, split: str, columns: tuple[str, ...]
) -> Counter[tuple[Any, ...]] | None:
    """How often each combination of values occurs in the parquet files of a split."""
    import pyarrow.parquet  # part of datasets

    files = [file for file in sorted(folder.rglob("*.parquet")) if belongs(file, folder, split)]
    if not files:
        return None
    counts: Counter[tuple[Any, ...]] = Counter()
    for file in files:
        if not columns:
            counts[()] += pyarrow.parquet.read_metadata(file).num_rows
            continue
        if not set(columns) <= set(pyarrow.parquet.read_schema(file).names):
            return None
        table = pyarrow.parquet.read_table(file, columns=list(columns))
        rows = table.group_by(list(columns)).aggregate([([], "count_all")]).to_pylist()
        counts.update({tuple(row[c] for c in columns): row["count_all"] for row in rows})
    return counts


def belongs(file: Path, folder: Path, split: str) -> bool:
    """Whether `train-00000-of-00001.parquet` or `train/0.parquet` is of the split `train`."""
    name = file.relative_to(folder).as_posix()
    return re.search(rf"(^|[/_-]){split}([/_.-]|$)", name) is not None
