"""The command line around Hydra: one clear line for what a person can correct, and exit codes."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any, NoReturn

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from temporal_sae import signals
from temporal_sae.errors import (
    EvaluationFailed,
    InvalidOption,
    JobFailed,
    JobRefused,
    RunError,
    SweepIncomplete,
    printable,
    reason_of,
)
from temporal_sae.files import remove_if_empty
from temporal_sae.folders import as_folder_name, remove_unused
from temporal_sae.sweep.plan import NOTE

log = logging.getLogger(__name__)

WRONG_INPUT = 2
EVALUATION_FAILED = 3
SWEEP_INCOMPLETE = 4
OWN_SWEEPERS = ("grid", "bayes")


OmegaConf.register_new_resolver("as_folder_name", as_folder_name, replace=True)


def run_job(cfg: DictConfig) -> float:
    """Run one composed config in the folder that Hydra chose.

    Alone, mistakes a person can correct end the process with one line and exit code 2. As a job of
    a sweep it raises JobFailed instead, so that the other jobs go on. A signal ends the process
    with the code that shells use for it (130 for Ctrl-C).

    Raises:
        JobFailed: the job of a sweep has failed; the reason is logged.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    relative = Path(os.path.relpath(folder))
    shown = folder if relative.parts[:1] == ("..",) else relative
    run = run_in_sweep if hydra.mode == RunMode.MULTIRUN else run_alone
    try:
        if hydra.mode == RunMode.MULTIRUN:
            check_sweep_is_there(hydra)
        return run(cfg, shown, list(hydra.overrides.task))
    finally:
        remove_if_empty(folder)


def check_sweep_is_there(hydra: HydraConf) -> None:
    """Keep a job from making the folder of its sweep again, once somebody has removed it.

    Raises:
        JobRefused: it is gone.
    """
    folder = Path(hydra.sweep.dir)
    if hydra.runtime.choices.get("hydra/sweeper") in OWN_SWEEPERS and not (folder / NOTE).exists():
        raise JobRefused(f"{folder}: the folder was removed while the sweep was going on")


def run_alone(cfg: DictConfig, folder: Path, overrides: list[str]) -> float:
    """Run a config for itself; what can be told in one line ends the process."""
    with signals.held():
        from temporal_sae.experiment import run_experiment  # slow to import: not for --help
        from temporal_sae.experiment.record import command_line
        from temporal_sae.training import Stopped

    again = command_line(overrides, folder)
    try:
        return run_experiment(cfg, folder, overrides)
    except (InvalidOption, RunError, OSError) as error:
        if not (told := tell(error, folder, f"run {again}")) or cfg.debug or _wants_traceback():
            raise
        fail(told)
    except EvaluationFailed as error:
        for name, reason in error.failures.items():
            print(f"error: eval {name}: {reason}", file=sys.stderr)
        log.warning("to repeat what failed: %s", again)
        sys.exit(EVALUATION_FAILED)
    except (Stopped, KeyboardInterrupt) as stopped:
        what = str(stopped) or "interrupted"
        log.warning("%s; to continue: %s", what, again)
        sys.exit(signals.exit_code(stopped))


def run_in_sweep(cfg: DictConfig, folder: Path, overrides: list[str]) -> float:
    """Run a config as a job of a sweep."""
    with signals.held():
        from temporal_sae.experiment import run_experiment
        from temporal_sae.training import Stopped

    log.info("%s: %s", folder, " ".join(overrides) or "defaults")
    try:
        return run_experiment(cfg, folder, overrides)
    except (Stopped, KeyboardInterrupt) as stopped:
        log.warning("%s: %s", folder, str(stopped) or "interrupted")
        sys.exit(signals.exit_code(stopped))
    except Exception as error:
        told = tell(error, folder, "repeat the command")
        if told is None or cfg.debug or _wants_traceback():
            log.exception("%s has failed", folder)
        else:
            log.error("error: %s", told)
        if isinstance(error, (InvalidOption, RunError)):
            raise JobRefused(str(error)) from error
        raise JobFailed(told or reason_of(error)) from error


def tell(error: Exception, folder: Path, then: str) -> str | None:
    """One line on what a person can correct; None for what is a bug.

    Args:
        error: what has ended the run.
        folder: of the run.
        then: what to do once there is space on the disk.
    """
    if isinstance(error, (InvalidOption, RunError, EvaluationFailed)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return (
            f"{folder}: the disk is full; what is written is whole, so free some space and {then}"
        )
    return None


def run_command_line(launch: Callable[[], object], conf: Path) -> None:
    """Call Hydra's main function, turning what it raises into one line.

    Args:
        launch: a function decorated by `hydra.main`.
        conf: the folder of the config groups, searched for the nearest valid key.
    """
    traceback = _wants_traceback() or "debug=true" in sys.argv
    os.environ["TEMPORAL_SAE_TRACEBACK"] = "1" if traceback else ""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing
    with signals.ending():
        try:
            _launch(launch, conf, traceback)
        finally:
            remove_unused()


def _launch(launch: Callable[[], object], conf: Path, traceback: bool) -> None:
    try:
        launch()
    except SweepIncomplete as error:
        for job, reason in error.failures.items():
            print(f"error: {job}: {reason}", file=sys.stderr)
        print(f"to repeat what failed or is missing: {error.again}", file=sys.stderr)
        sys.exit(SWEEP_INCOMPLETE)
    except (InvalidOption, RunError) as error:
        if traceback:
            raise
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        if traceback:
            raise
        own = isinstance(error.__cause__, (InvalidOption, RunError))  # of a launcher or a sweeper
        fail(str(error.__cause__) if own else explain(error, conf))
    except OSError as error:
        if traceback or error.filename is None or _inside_package(error):
            raise
        where = os.fsdecode(error.filename)
        fail(f"hydra.run.dir={where}: must be a folder that can be written ({error.strerror})")


def fail(message: str) -> NoReturn:
    """Print one line and exit."""
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def explain(error: Exception, conf: Path) -> str:
    """A composition error in one line, with the nearest valid key or the options there are."""
    text = str(error)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return explain_unknown_key(unknown[1].lstrip("+~").split("@")[0], conf)
    if choice := re.search(r"Could not find '([\w/]+)/([^/']+)'", text):
        options = ", ".join(options_of(choice[1], conf))
        return f"{choice[1]}={choice[2]}: must be one of {options}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value ({text.splitlines()[0]})"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def options_of(group: str, conf: Path) -> list[str]:
    """The options of a config group: files, and what Hydra and its plugins bring along."""
    try:
        stored = ConfigStore.instance().list(group)
    except OSError:
        stored = []
    files = {path.stem for path in (conf / group).glob("*.yaml")}
    return sorted(files | {name.removesuffix(".yaml") for name in stored})


def explain_unknown_key(key: str, conf: Path) -> str:
    """Say that a key is unknown, to which option of its group it belongs, or what is nearest."""
    keys = known_keys(conf)
    if key in keys:
        group = key.split(".")[0]
        options = " or ".join(f"{group}={option}" for option in keys[key])
        return f"{key}: unknown key with this {group}; it belongs to {options}"
    group = key.split(".")[0]
    of_group = [k for k in keys if k.startswith(f"{group}.")] or list(keys)
    nearest = difflib.get_close_matches(key, of_group, n=1, cutoff=0.0)
    return f"{key}: unknown key; the nearest valid key is {nearest[0]}"


def known_keys(conf: Path) -> dict[str, list[str]]:
    """Every key that some choice of options has, with the options that have it."""
    top = as_dict(OmegaConf.load(conf / "config.yaml"))
    keys: dict[str, list[str]] = {str(key): [] for key in top if key not in ("defaults", "hydra")}
    for group in sorted(p for p in conf.iterdir() if p.is_dir()):
        if group.name in ("experiment", "sweep", "hydra"):
            continue
        keys[group.name] = []
        for option in sorted(group.glob("*.yaml")):
            for key in keys_below(as_dict(with_defaults(option)), f"{group.name}."):
                keys.setdefault(key, []).append(option.stem)
    return keys


def with_defaults(option: Path) -> Any:
    """An option's file over those of its group that its defaults list names."""
    own: Any = OmegaConf.load(option)
    names = [d for d in own.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    return OmegaConf.merge(*(with_defaults(option.with_stem(name)) for name in names), own)


def as_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, with what is missing or refers to other keys as it is written."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return plain


def keys_below(config: dict[str, Any], prefix: str) -> list[str]:
    """Dotted keys of everything in a config."""
    found = []
    for key, value in config.items():
        if not str(key).startswith("_"):
            found.append(f"{prefix}{key}")
            found += keys_below(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


def _wants_traceback() -> bool:
    asked = os.environ.get("TEMPORAL_SAE_TRACEBACK")
    return bool(os.environ.get("HYDRA_FULL_ERROR") if asked is None else asked)


def _inside_package(error: OSError) -> bool:
    """Whether the error arose in our own code: then it is a bug, or a message is missing there."""
    trace = error.__traceback__
    package = str(Path(__file__).parent)
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(package) and trace.tb_frame.f_code.co_name != "_launch":
            return True
        trace = trace.tb_next
    return False
