"""Everything that a config names on the hub, in one folder: for machines without a network.

In the folder `hub/` holds models and SAEBench's data sets by their names, and `text/` the rows that
training reads. What is there already is not fetched again; a file that was cut off is continued.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from omegaconf import DictConfig

from temporal_sae.activations.pretrained import where_is
from temporal_sae.commands import launch_command, module_command, quoted
from temporal_sae.data import TextSource
from temporal_sae.data.patience import patiently
from temporal_sae.data.readers import open_rows
from temporal_sae.data.sources import HubRows
from temporal_sae.errors import RunError, check_int, one_line
from temporal_sae.explain import composed
from temporal_sae.machine import MIB
from temporal_sae.network import why_unreachable

HUB, TEXT = "hub", "text"
UNFINISHED = ".unfinished"
PATIENCE = 300.0  # seconds in which the next row has to come
# Of a model only what transformers reads here: one kind of weights, and no code.
WEIGHTS = ("*.safetensors", "*.bin")
BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt")
NOT_AT_ALL = ("*/*", "training_args.bin")


def add_commands(commands: Any) -> None:
    """Add `fetch` to the commands of `python -m temporal_sae.activations`."""
    parser = commands.add_parser("fetch", help="bring what a config names on the hub into a folder")
    parser.add_argument("folder", type=Path, help="that receives it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as launch.py has them")
    parser.add_argument("--documents", metavar="N", type=int, help="only so many rows of a text")
    parser.set_defaults(do=fetch)


def fetch(options: argparse.Namespace) -> None:
    """Bring everything, and print how a job uses it.

    Raises:
        InvalidOption, RunError: something cannot be had.
    """
    if options.documents is not None:
        check_int("--documents", options.documents, 1)
    cfg, folder = composed(options.overrides), options.folder.absolute()
    own = fetch_all(cfg, folder, options.documents)
    if not own:
        print("nothing to fetch: this config names nothing on the hub")
        return
    words = [f"{key}={value if value == 'true' else quoted(value)}" for key, value in own.items()]
    print(f"all is in {folder}; without a network: {launch_command([*options.overrides, *words])}")


def fetch_all(cfg: DictConfig, folder: Path, documents: int | None) -> dict[str, str]:
    """Bring everything into a folder; return the keys that name it there, with their values."""
    model, text, others = named_on_hub(cfg)
    if (model or text or others) and (reason := why_unreachable()):
        told = f"{constants.ENDPOINT} cannot be reached ({reason}); fetch where there is a network"
        raise RunError(told)
    own: dict[str, str] = {}
    if model:
        own["model.name"] = str(fetch_repository("model", model, folder, cfg.model.get("revision")))
        own["model.local_files_only"] = "true"
    for rows in text:
        own[f"data.{rows.key}"] = str(fetch_rows(rows, folder, documents))
    for kind, name in others:
        fetch_repository(kind, name, folder)
    if others:
        own["eval.data_folder"] = str(folder / HUB)
    if others and model and not cfg.eval.get("model_name"):
        own["eval.model_name"] = model  # by which SAEBench knows it, and not by its folder
    return own


def named_on_hub(cfg: DictConfig) -> tuple[str | None, list[HubRows], list[tuple[str, str]]]:
    """Return the model, the text and what the evaluation needs beside it, as far as not local."""
    from temporal_sae.experiment.build import check_keys
    from temporal_sae.experiment.components import load_plugins
    from temporal_sae.experiment.construct import build, naming

    check_keys(cfg)
    load_plugins(cfg.plugins)
    text: TextSource | None = build(cfg, "data", folder=None) if cfg.get("data") else None
    with naming("model"):
        name = cfg.model.name if cfg.get("model") else None
        model = name if name and not os.path.isdir(where_is(name)) else None
    return model, text.from_hub() if text else [], build(cfg, "eval").from_hub(name or "")


@contextmanager
def telling(kind: str, name: str) -> Iterator[None]:
    """Errors of the hub inside come out as one line, with what helps."""
    try:
        yield
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        helps = f"accept its terms at {page}, and once on this machine: hf auth login"
        raise RunError(f"{name}: is gated; {helps}") from error
    except RepositoryNotFoundError as error:
        told = f"{name}: is no {kind} on the hub, or a private one (then first: hf auth login)"
        raise RunError(told) from error
    except RevisionNotFoundError as error:
        raise RunError(f"{name}: has no such revision on the hub") from error
    except RunError:
        raise
    except Exception as error:  # of whichever library transfers files
        reason = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
        told = f"{name}: cannot be fetched ({reason}); the same command goes on where it stopped"
        raise RunError(told) from error


def fetch_repository(kind: str, name: str, folder: Path, revision: str | None = None) -> Path:
    """Bring a model or a data set, as it lies on the hub."""
    target = folder / HUB / name
    with telling(kind, name):
        files = sizes_of(kind, name, revision)
        if kind == "model":
            files = files_of_model(files)
        needed = sum(size for file, size in files.items() if not (target / file).is_file())
        check_room(folder, name, needed)
        print(f"{kind} {name}: {needed / MIB:,.0f} MiB to fetch → {target}", flush=True)
        if needed:
            escaped = [file.replace("[", "[[]") for file in files]
            snapshot_download(
                name, repo_type=kind, revision=revision, local_dir=target, allow_patterns=escaped
            )
    return target


def sizes_of(kind: str, name: str, revision: str | None) -> dict[str, int]:
    """Bytes of every file of a repository."""
    api = HfApi()
    ask: Any = api.model_info if kind == "model" else api.dataset_info
    found = ask(name, revision=revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in found.siblings or []}


def files_of_model(files: dict[str, int]) -> dict[str, int]:
    """Return those that are read: configs, tokenizer, and weights of the first kind found."""

    def like(*patterns: str) -> dict[str, int]:
        return {f: size for f, size in files.items() if any(Path(f).match(p) for p in patterns)}

    weights = next((found for kind in WEIGHTS if (found := like(kind))), {})
    chosen = {**like(*BESIDE_WEIGHTS), **weights}
    return {f: size for f, size in chosen.items() if f not in like(*NOT_AT_ALL)}


def check_room(folder: Path, name: str, needed: int) -> None:
    """Refuse what does not fit on the disk.

    Raises:
        RunError: see above.
    """
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        there = f"{free / MIB:,.0f} are free in {folder}"
        raise RunError(f"{name}: takes {needed / MIB:,.0f} MiB, and {there}; choose another folder")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one around it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def fetch_rows(rows: HubRows, folder: Path, documents: int | None) -> Path:
    """Bring a split of a data set, or its first rows, as `save_to_disk` writes them."""
    facts = [rows.name.replace("/", "--"), rows.subset, rows.split, documents]
    target = folder / TEXT / ".".join(str(fact) for fact in facts if fact is not None)
    print(f"text {rows.name} → {target}", flush=True)
    if target.is_dir():
        return target
    unfinished = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with telling("dataset", rows.name):
        save_rows(rows, documents, unfinished)
    os.replace(unfinished / "rows", target)
    shutil.rmtree(unfinished)
    return target


def save_rows(rows: HubRows, documents: int | None, folder: Path) -> None:
    """Write rows to `folder/rows`; downloads of a whole split stay in the hub's cache till then."""
    from datasets import Dataset, load_dataset

    if documents is None:
        found = load_dataset(rows.name, rows.subset, split=rows.split)
    else:
        opened = open_rows(rows.name, rows.subset, rows.split, True, PATIENCE)
        coming = patiently(opened.rows, 0, PATIENCE, f"data.{rows.key}={rows.name}")
        first = itertools.islice(coming, documents)
        found = Dataset.from_generator(
            _Once(first), features=opened.rows.features, cache_dir=str(folder / "cache")
        )
    found.save_to_disk(str(folder / "rows"))


class _Once:
    """A generator function of rows that can be had once; `datasets` names its files by a hash."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self.rows = rows

    def __call__(self) -> Iterator[Any]:
        return self.rows

    def __reduce__(self) -> Any:
        return (str, ())


def command(overrides: list[str], folder: str = "FOLDER") -> str:
    """Return the command that fetches what a config names."""
    return module_command("temporal_sae.activations", "fetch", folder, *overrides)
