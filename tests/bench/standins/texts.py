"""Texts in the made-up language, and data sets of them by the names that SAEBench asks for.

Each function writes one data set below a folder, as ORG/NAME.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from tests.bench.standins.vocabulary import of_topic, words

Rows = Iterable[Mapping[str, Any]]
PROFESSIONS = (0, 1, 2, 6, 9, 11, 13, 14, 18, 19, 20, 21, 22, 25, 26)
CATEGORIES = (1, 2, 3, 5, 6, 11, 18, 24, 26, 30)
LANGUAGE_PAIRS = ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt")
PROGRAMMING = ("C", "Python", "HTML", "Java", "PHP")
TRAIN, TEST = 60, 40  # rows of each class and group

# `languages=` is what SAEBench passes, so the data set has to come with code that takes it.
CODE_SCRIPT = """\
import json

import datasets


class Config(datasets.BuilderConfig):
    def __init__(self, languages=None, **kwargs):
        super().__init__(**kwargs)
        self.languages = languages


class GithubCode(datasets.GeneratorBasedBuilder):
    BUILDER_CONFIG_CLASS = Config

    def _info(self):
        text = datasets.Value("string")
        return datasets.DatasetInfo(features=datasets.Features({"code": text, "language": text}))

    def _split_generators(self, downloads):
        rows = downloads.download("rows.jsonl")
        return [datasets.SplitGenerator("train", gen_kwargs={"rows": rows})]

    def _generate_examples(self, rows):
        with open(rows) as file:
            for number, line in enumerate(file):
                row = json.loads(line)
                if row["language"] in (self.config.languages or [row["language"]]):
                    yield number, row
"""


def text(rng: random.Random, topic: int | None = None, n_words: int = 30) -> str:
    """Words of all topics, half of them of one topic where one is named."""
    everything = words()
    own = of_topic(topic % 16) if topic is not None else everything
    return " ".join(rng.choice(rng.choice((own, everything))) for _ in range(n_words))


def write_split(folder: Path, split: str, rows: Rows) -> None:
    """One parquet file, by the name that the hub gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows])
    parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def in_random_order(rows: Rows, seed: int) -> list[Mapping[str, Any]]:
    """The rows, mixed."""
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    return mixed


def openwebtext(
    folder: Path, name: str = "Skylion007/openwebtext", n: int = 300, n_words: int = 300
) -> None:
    """Plain text."""
    rng = random.Random(1)
    write_split(folder / name, "train", ({"text": text(rng, place, n_words)} for place in range(n)))


def bias_in_bios(folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Professions and genders, whose words are of different topics."""
    rng = random.Random(2)
    for split, n in (("train", train), ("test", test)):
        rows = (
            {"hard_text": text(rng, 2 * job + 5 * gender), "profession": job, "gender": gender}
            for job in PROFESSIONS
            for gender in (0, 1)
            for _ in range(n)
        )
        write_split(folder / "LabHC" / "bias_in_bios", split, in_random_order(rows, 3))


def amazon_reviews(folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Categories and ratings."""
    rng = random.Random(4)
    for split, n in (("train", train), ("test", test)):
        rows = (
            {"text": text(rng, category + 3 * int(rating)), "category": category, "rating": rating}
            for category in CATEGORIES
            for rating in (1.0, 5.0)
            for _ in range(n)
        )
        place = folder / "canrager" / "amazon_reviews_mcauley_1and5"
        write_split(place, split, in_random_order(rows, 5))


def ag_news(folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Four labels."""
    rng = random.Random(6)
    for split, n in (("train", train), ("test", test)):
        rows = ({"text": text(rng, label), "label": label} for label in range(4) for _ in range(n))
        write_split(folder / "fancyzhx" / "ag_news", split, in_random_order(rows, 7))


def europarl(folder: Path, n: int = 120) -> None:
    """Pairs of languages, each a configuration of the data set."""
    rng, place = random.Random(8), folder / "Helsinki-NLP" / "europarl"
    names = sorted({language for pair in LANGUAGE_PAIRS for language in pair.split("-")})
    for pair in LANGUAGE_PAIRS:
        rows = [
            {"translation": {name: text(rng, names.index(name)) for name in pair.split("-")}}
            for _ in range(n)
        ]
        write_split(place / pair, "train", rows)
    configs = [
        f"- config_name: {pair}\n  data_files:\n  - split: train\n    path: {pair}/train-*.parquet"
        for pair in LANGUAGE_PAIRS
    ]
    (place / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))


def github_code(folder: Path, n: int = 60) -> None:
    """Programming languages; texts are long enough to be cut at the front."""
    rng, place = random.Random(9), folder / "codeparrot" / "github-code"
    rows = [
        {"code": text(rng, topic, 150), "language": language}
        for topic, language in enumerate(PROGRAMMING)
        for _ in range(n)
    ]
    place.mkdir(parents=True, exist_ok=True)
    (place / "github-code.py").write_text(CODE_SCRIPT)
    lines = (json.dumps(row) + "\n" for row in in_random_order(rows, 10))
    (place / "rows.jsonl").write_text("".join(lines))
