"""`logger=wandb`: metrics go to Weights & Biases, too; nothing that happens there ends a run."""

from __future__ import annotations

import logging
import netrc
import os
import re
import secrets
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from temporal_sae.errors import InvalidOption, RunError, one_line
from temporal_sae.files import open_regular, write_atomically
from temporal_sae.registry import component
from temporal_sae.training.loggers import About, EndTable, Metrics, logged_steps

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")
LONGEST_NAME = 128
NOT_IN_A_PROJECT = re.compile(r"[/\\\\#?%:]")
LONGEST_ID = 100  # bytes
AN_ID = re.compile(r"[0-9a-f]{16}")
TAGGED = ("sae", "tracker", "loss")
# They say where and how a run is made, not what it is.
NOT_IN_A_NAME = re.compile(r"[+~]*(hydra[./].*|(device|overwrite|debug|push_to_hub|logger\b.*)=.*)")
TIME_OF_DAY = re.compile(r"\d\d-\d\d-\d\d.*")
SWEEP = "sweep.json"


@component("logger")
class WandbLogger:
    """A Weights & Biases run.

    The run is online where an API key is set (WANDB_API_KEY or `wandb login`), offline otherwise;
    it never asks for one. WANDB_MODE overrides that. Its id is drawn once and kept in `wandb/id`: a
    continued run goes on under it, and an overwritten one gets another. Every part of a continued
    run hands over all steps up to the checkpoint that it begins at; those that W&B has already
    are left out, so nothing is there twice, and the newest offline folder is the whole run. What
    goes wrong with W&B is said once, and the run goes on with `metrics.jsonl`.

    Args:
        folder: the run's folder; wandb's own files go to `wandb/` in it.
        project: name of the project.

    Raises:
        InvalidOption: W&B takes no such project.
        RunError: WANDB_MODE asks for what cannot be.
    """

    def __init__(self, folder: str | Path, project: str = "temporal_sae") -> None:
        wrong = not isinstance(project, str) or not 0 < len(project) <= LONGEST_NAME
        if wrong or NOT_IN_A_PROJECT.search(project):
            allowed = f"a name of 1 to {LONGEST_NAME} characters without any of / \\ # ? % :"
            raise InvalidOption("project", project, allowed)
        self.folder, self.project, self.mode = Path(folder), project, choose_mode()
        self._run: Any = None

    def start(self, about: About) -> None:
        """Open the run and record the config."""
        folder = self.folder.resolve()
        name = kept_id(folder / "wandb")
        self._run = self._trying(lambda: self._opened(folder, name, about, self.mode))
        if self._run is None and self.mode == "online":
            self._run = self._trying(lambda: self._opened(folder, name, about, "offline"))

    def _opened(self, folder: Path, name: str, about: About, mode: str) -> Any:
        import wandb  # slow to import

        # What is printed is nobody's in particular where several runs share a process.
        console = {"console": "off"} if about.beside_others else {}
        return wandb.init(
            project=self.project,
            dir=str(folder),
            id=name,
            name=name_of(folder, about),
            group=group_of(folder),
            tags=[str(about.config[g]["_target_"]).split(".")[-1] for g in TAGGED],
            resume="allow" if mode == "online" else None,
            config=dict(about.config),
            mode=cast(Any, mode),
            reinit="create_new",  # jobs that train side by side have theirs open in this process
            settings=wandb.Settings(silent=True, **console),
        )

    def rewind(self, step: int) -> None:
        """Hand over what W&B does not have of the steps before, from `metrics.jsonl`."""
        for earlier, metrics in logged_steps(self.folder, step):
            self.log(earlier, metrics)

    def log(self, step: int, metrics: Metrics) -> None:
        """Send the metrics of a step to the run."""
        run = self._run
        if run is not None and step >= run.starting_step:  # earlier ones are there
            self._trying(lambda: run.log(metrics, step=step))

    def summarise(self, metrics: Metrics) -> None:
        """Add to the run's summary, which until then has the last step's values."""
        if (run := self._run) is not None:
            self._trying(lambda: run.summary.update(metrics))

    def tabulate(self, table: EndTable) -> None:
        """Add the table to the run's summary."""
        if (run := self._run) is not None:
            self._trying(lambda: run.summary.update({"results": as_wandb(table)}))

    def finish(self, exit_code: int) -> None:
        """Close the run and say where it is."""
        if (run := self._run) is None:
            return
        self._run = None
        online = None if run.offline else run.url
        where = shlex.quote(str(Path(run.dir).parent))
        self._trying(lambda: run.finish(exit_code=exit_code))
        if run.offline:
            log.info("wandb: offline; to upload it: wandb sync %s", where)
        elif online:
            log.info("wandb: %s", online)

    def _trying(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call; a failure is logged, and nothing more is sent."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run can go on without
            reason = one_line(error) or type(error).__name__
            for secret in filter(None, wandb_keys()):
                reason = reason.replace(secret, "…")
            log.warning("wandb: %s; the run goes on with metrics.jsonl", reason)
            open_run, self._run = self._run, None
            if open_run is not None:
                self._trying(lambda: open_run.finish(exit_code=1))
            return None


def as_wandb(table: EndTable) -> Any:
    """Return a table as W&B shows it."""
    import wandb

    return wandb.Table(columns=table.header, data=table.rows)


def choose_mode() -> str:
    """Return WANDB_MODE, or else online where there is a key, and offline where not.

    Raises:
        RunError: it says something else, or online without a key.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    if mode not in MODES:
        raise RunError(f"WANDB_MODE={mode}: must be one of {', '.join(MODES)}")
    if mode == "online" and not has_wandb_key():
        raise RunError(
            "WANDB_MODE=online: needs a key, in WANDB_API_KEY or by `wandb login`; or leave it out"
        )
    return mode


def kept_id(folder: Path) -> str:
    """Return the id that is kept in wandb's folder; where there is none a new one."""
    path = folder / "id"
    try:
        with open_regular(path) as file:
            kept = file.read(LONGEST_ID).decode(errors="replace").strip()
    except OSError:  # there is none, or something else in its place
        kept = ""
    if not AN_ID.fullmatch(kept):
        folder.mkdir(exist_ok=True)
        kept = secrets.token_hex(8)
        write_atomically(path, kept + "\n")
    return kept


def name_of(folder: Path, about: About) -> str:
    """Return the overrides that were typed, or else the folder's name."""
    told = [word for word in about.overrides if not NOT_IN_A_NAME.fullmatch(word)]
    in_sweep = (folder.parent / SWEEP).exists()
    name = folder.name if in_sweep or not told else " ".join(told)
    return name[:LONGEST_NAME]


def group_of(folder: Path) -> str | None:
    """Return the sweep of a run: its folder's name, with the day where that is a time."""
    sweep = folder.parent
    if not (sweep / SWEEP).exists():
        return None
    dated = TIME_OF_DAY.fullmatch(sweep.name)
    return (f"{sweep.parent.name}/{sweep.name}" if dated else sweep.name)[:LONGEST_NAME]


def has_wandb_key() -> bool:
    """Return whether WANDB_API_KEY is set or `wandb login` has left a key in the netrc file."""
    return any(wandb_keys())


def wandb_keys() -> list[str | None]:
    """Return all keys that are set up."""
    keys = [os.environ.get("WANDB_API_KEY")]
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return keys
    return [*keys, *(entry[2] for host, entry in hosts.items() if "wandb" in host)]
