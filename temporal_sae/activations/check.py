"""Before a job is queued: line by line, whether everything that it needs is on this machine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from huggingface_hub import auth_check
from omegaconf import DictConfig

from temporal_sae.activations.fetch import command, existing, telling
from temporal_sae.activations.pretrained import ordinary_tokens, where_is
from temporal_sae.activations.weights import INDEX, weight_files
from temporal_sae.commands import WRONG_INPUT
from temporal_sae.errors import InvalidOption, RunError, one_line, printable
from temporal_sae.explain import composed
from temporal_sae.machine import MIB
from temporal_sae.network import offline, why_unreachable

FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
CHECKPOINTS_AT_ONCE = 3  # the newest two and the one that is being written


class Unknown(RunError):
    """Nothing can be said."""


def add_commands(commands: Any) -> None:
    """Add `check` to the commands of `python -m temporal_sae.activations`."""
    parser = commands.add_parser("check", help="say whether everything is there that a job needs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as launch.py has them")
    parser.add_argument("--online", action="store_true", help="jobs have a network: ask the hub")
    parser.add_argument("--load", action="store_true", help="load the model for the memory budget")
    parser.set_defaults(do=check)


def check(options: argparse.Namespace) -> None:
    """Print a line for everything, and exit with 2 where something is missing.

    Raises:
        InvalidOption, RunError: an option of the job is not allowed.
    """
    looked = Looked(composed(options.overrides), options.overrides, options.online, options.load)
    is_whole = True
    for name, look in looked.all():
        try:
            print(f"ok        {name}: {printable(look())}", flush=True)
        except Unknown as error:
            print(f"unknown   {name}: {error}", flush=True)
        except (InvalidOption, RunError) as error:
            is_whole = False
            print(f"missing   {name}: {error}", flush=True)
    if not is_whole:
        sys.exit(WRONG_INPUT)


class Looked:
    """Looks for each thing that a job needs; every method tells of one.

    Args:
        cfg: of the job.
        overrides: it is composed of.
        online: what the hub can give is there.
        load: the model may be loaded.

    Raises:
        InvalidOption, RunError: an option of the job is not allowed.
    """

    def __init__(self, cfg: DictConfig, overrides: list[str], online: bool, load: bool) -> None:
        from temporal_sae.experiment.build import build_cheap

        self.cfg, self.overrides, self.online, self.load = cfg, overrides, online, load
        typed = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
        self.folder = Path(next((typed[key] for key in FOLDER_KEYS if key in typed), "outputs"))
        logging.getLogger("temporal_sae").setLevel(logging.WARNING)
        self.cheap = build_cheap(cfg, self.folder)
        self.model: str = cfg.model.name if cfg.get("model") else ""

    def all(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield what is needed, and a function that says what is there or raises."""
        if self.model:
            yield f"model {self.model}", self.look_at_model
        text = self.cheap.source.text
        if text is not None:
            yield "text", self.look_at_text
        if not self.model:
            yield "activations", self.look_at_source
        for kind, name in self.cheap.evaluation.from_hub(self.model):
            yield f"{kind} {name}", partial(self.on_hub, kind, name)
        yield "disk", self.look_at_disk
        yield "memory", self.look_at_memory

    @cached_property
    def silence(self) -> str | None:
        """Return the reason for which the hub does not answer; None where it does."""
        return why_unreachable()

    def on_hub(self, kind: str, name: str) -> str:
        """Return the state of something that has to be fetched, unless jobs have a network."""
        reason = self.silence
        if reason is None:
            with telling(kind, name):
                auth_check(name, repo_type=kind)
            if self.online:
                return "can be had from the hub"
        may = "the hub gives it" if reason is None else f"the hub cannot be reached: {reason}"
        told = f"is not on this machine ({may}); where there is a network: "
        raise RunError(told + command(self.overrides))

    def look_at_model(self) -> str:
        """Config, tokenizer and whole weights; none of these is taken for granted."""
        from transformers import AutoConfig, AutoTokenizer

        where = where_is(self.model)
        options = {"revision": self.cfg.model.get("revision"), "local_files_only": True}
        try:
            with offline():
                AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
                tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
                if not ordinary_tokens(tokenizer):
                    raise ValueError("the files of its tokenizer are missing")
                files = whole_weights(where, **options)
        except Exception as error:  # damaged files raise whatever reads them
            if not os.path.isdir(where):
                return self.on_hub("model", self.model)
            reason = one_line(str(error)[:240]) or type(error).__name__
            raise RunError(f"{where}: is not whole ({reason}); copy or fetch it again") from error
        n_bytes = sum(os.path.getsize(path) for path in files)
        told = f"config, tokenizer and {len(files)} weight file(s), {n_bytes / MIB:,.0f} MiB"
        return f"{told}, in {Path(files[0]).parent}"

    def look_at_text(self) -> str:
        """Return the first document, read."""
        from temporal_sae.experiment.construct import naming

        text = self.cheap.source.text
        assert text is not None
        remote = text.from_hub()
        if remote and not self.online:
            return self.on_hub("dataset", remote[0].name)
        with naming("data"):
            found = next(text.documents("train", 0, 0), None)
        if found is None:
            raise RunError("data: holds no document to train on")
        document = found[1]
        size = len(document) if isinstance(document, str) else document.size()
        return f"its first document has {size:,} characters"

    def look_at_source(self) -> str:
        """Rows that come without a model are opened as a run does it."""
        from temporal_sae.experiment.source import open_source

        source = self.cheap.source
        open_source(source)
        source.check("train")
        return f"{source.name}, rows of {source.d_in}"

    def look_at_disk(self) -> str:
        """Checkpoints, and SAEs that are kept, against what is free."""
        needed = self.planned_on_disk()
        place = existing(self.folder.absolute())
        free = shutil.disk_usage(place).free
        told = f"{needed / MIB:,.0f} MiB for checkpoints and the SAE, {free / MIB:,.0f} are free"
        if needed > free:
            helps = "free some, or choose another hydra.run.dir"
            raise RunError(f"{told} in {place}; {helps}")
        return f"{told} in {place}"

    def planned_on_disk(self) -> int:
        """Bytes of a run's folder at its largest, without what the evaluation leaves."""
        from temporal_sae.experiment.build import build_without_memory
        from temporal_sae.training.snapshots import is_kept

        cheap, d_in = self.cheap, self.width()
        sae = build_without_memory(self.cfg, d_in)
        weights = sum(p.nbytes for p in sae.parameters())
        k = min(sae.tracked_latents, sae.d_sae)
        tracker = cheap.tracker.planned_bytes(sae.d_sae, k, cheap.device)
        buffer = cheap.source.buffer_tokens * (4 * d_in + 12)
        checkpoint = 3 * weights + buffer + sum(item.n_bytes for item in tracker.values())
        steps, every = cheap.trainer.total_steps, cheap.trainer.keep_every
        kept = sum(is_kept(n, every) for n in range(1, steps + 1)) if every else 0
        return CHECKPOINTS_AT_ONCE * checkpoint + (1 + kept) * weights

    def width(self) -> int:
        """Return the width of the rows; from the model's config where nothing is open."""
        from temporal_sae.experiment.source import open_source

        source = self.cheap.source
        if not self.model:
            open_source(source)
            return source.d_in
        from transformers import AutoConfig

        try:
            with offline():
                config = AutoConfig.from_pretrained(where_is(self.model), trust_remote_code=False)
        except Exception as error:
            raise Unknown("it takes the config of the model to tell") from error
        return int(config.get_text_config().hidden_size)

    def look_at_memory(self) -> str:
        """Return the budget as a run prints it."""
        from temporal_sae.experiment.build import build_without_memory
        from temporal_sae.experiment.memory import check_memory
        from temporal_sae.experiment.source import fitted, open_source

        if self.model and not self.load:
            raise Unknown("it takes the model to tell, which --load loads")
        open_source(self.cheap.source)
        evaluation = fitted(self.cheap.evaluation, self.cheap.source)
        sae = build_without_memory(self.cfg, self.cheap.source.d_in)
        budget = check_memory(self.cfg, self.cheap, evaluation, sae)
        evaluation.check(self.cheap.source, sae)
        return f"{sum(budget.values()) / MIB:,.0f} MiB in all fit"


def whole_weights(where: str, **options: Any) -> list[str]:
    """Return the files of the weights, each as long as it says itself and with all that it should.

    Raises:
        Exception: of safetensors, for one that is cut off.
        ValueError: there are none, or the index names what no file has.
    """
    from safetensors import safe_open
    from transformers.utils import cached_file

    found: set[str] = set()
    files = list(weight_files(where, **options))
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= set(file.keys())
    optional = {"_raise_exceptions_for_missing_entries": False}
    if not files and (other := cached_file(where, "pytorch_model.bin", **optional, **options)):
        return [other]
    if not files:
        raise ValueError("it has no weights")
    index = Path(files[0]).with_name(INDEX)
    if len(files) > 1 and (lacking := json.loads(index.read_text())["weight_map"].keys() - found):
        raise ValueError(f"{len(lacking)} weights are in no file, such as {min(lacking)}")
    return files
