"""The command line around Hydra: one clear line for what a person can correct, and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from temporal_sae import signals
from temporal_sae.commands import (
    CONF,
    PACKAGE,
    Parser,
    fail,
    in_shell,
    launch_command,
    let_readers_leave,
    program,
    tell,
    why_unusable,
)
from temporal_sae.errors import (
    EvaluationFailed,
    InvalidOption,
    RunError,
    SweepIncomplete,
    printable,
)
from temporal_sae.explain import check_typed, explain, explain_unusable
from temporal_sae.files import remove_if_empty
from temporal_sae.folders import as_folder_name, remove_unused
from temporal_sae.overrides.also import readable

log = logging.getLogger(__name__)

EVALUATION_FAILED = 3
SWEEP_INCOMPLETE = 4
OWN_SWEEPERS = ("grid", "bayes")

OmegaConf.register_new_resolver("as_folder_name", as_folder_name, replace=True)


def run_job(cfg: DictConfig) -> float:
    """Run one composed config in the folder that Hydra chose.

    Mistakes a person can correct end the process with one line and exit code 2, a signal with the
    code that shells use for it (130 for Ctrl-C). Jobs of a sweep are not run here; see `sweep`.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        given = hydra.runtime.choices.get("hydra/sweeper")
        # Whatever is raised, Hydra tells with a line of its own.
        fail(f"hydra/sweeper={given}: must be one of {', '.join(OWN_SWEEPERS)}")
    folder = Path(as_written(hydra.runtime)["output_dir"])
    relative = Path(os.path.relpath(folder))
    shown = folder if relative.parts[:1] == ("..",) else relative
    try:
        return run_alone(cfg, shown, as_written(hydra.overrides.task))
    finally:
        remove_if_empty(folder)


def as_written(config: Any) -> Any:
    """Return a part of Hydra's config with every `${…}` in it unresolved."""
    return OmegaConf.to_container(config, resolve=False)


def run_alone(cfg: DictConfig, folder: Path, overrides: list[str]) -> float:
    """Run a config for itself; what can be told in one line ends the process."""
    with signals.held():
        from temporal_sae.experiment import run_experiment  # slow to import: not for --help
        from temporal_sae.training import Stopped

    again = launch_command(overrides, folder)
    try:
        return run_experiment(cfg, folder, overrides)
    except (InvalidOption, RunError, OSError, OmegaConfBaseException) as error:
        told = tell(error, folder, f"run {again}")
        if told is None or cfg.get("debug") is True or _wants_traceback():
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


def run_command_line(launch: Callable[[], object], conf: Path) -> None:
    """Call Hydra's main function, turning what it raises into one line.

    Args:
        launch: a function decorated by `hydra.main`.
        conf: the folder of the config groups, searched for the nearest valid key.
    """
    traceback = _wants_traceback() or "debug=true" in sys.argv
    os.environ["TEMPORAL_SAE_TRACEBACK"] = "1" if traceback else ""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing
    # What Hydra only warns of is a mistake on the command line, too.
    warnings.filterwarnings("error", category=UserWarning, module=r"hydra\._internal")
    with signals.ending():
        try:
            _launch(launch, conf, traceback)
        finally:
            remove_unused()


def _launch(launch: Callable[[], object], conf: Path, traceback: bool) -> None:
    try:
        sys.argv[1:] = arranged(sys.argv[1:])
        check_typed([word for word in sys.argv[1:] if not word.startswith("-")], conf)
        launch()
    except SweepIncomplete as error:
        for job, reason in error.failures.items():
            print(f"error: {job}: {printable(reason)}", file=sys.stderr)
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
    except Exception as error:
        if traceback:
            raise
        # Before our own code runs, whatever is raised is Hydra's answer to what was typed.
        if not _inside_package(error):
            fail(explain_unusable(error, sys.argv[1:]))
        told = why_unusable(error) if isinstance(error, OSError) else None
        if told is None:
            raise
        fail(told)


@hydra_main(version_base="1.3", config_path=str(CONF), config_name="config")
def launch(cfg: DictConfig) -> float:
    """Run one composed config; returns its objective."""
    return run_job(cfg)


def main() -> None:
    """Run `launch.py` or the console script."""
    let_readers_leave()
    run_command_line(launch, CONF)


def arranged(words: list[str]) -> list[str]:
    """Return the words of a command line with its flags in front, which is where Hydra wants them.

    Whoever has a command and wants a sweep of it adds `-m` somewhere. What is no flag, or does not
    go with the others, ends the process.
    """
    parser = Parser(prog=in_shell(program()), parents=[get_args_parser()], add_help=False)
    given = vars(parser.parse_intermixed_args(words))
    overrides: list[str] = given.pop("overrides")
    asked = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if given[name]]
    if len(asked) > 1:
        parser.error(f"only one of {' and '.join(f'--{name}' for name in asked)} at a time")
    if given["resolve"] and not (given["cfg"] or given["help"]):
        parser.error("--resolve: goes with --cfg or --help")
    if given["experimental_rerun"]:
        parser.error("--experimental-rerun: reads a pickle; run.json has a command for the same")
    if dashed := [word for word in overrides if word.startswith("-")]:
        parser.error(f"{dashed[0]}: cannot be read as key=value")
    flags = []
    for name, value in given.items():
        flag = "-m" if name == "multirun" else f"--{name.replace('_', '-')}"
        if value:
            flags.append(flag if value is True else f"{flag}={value}")
    return flags + readable(overrides, multirun=bool(given["multirun"]))


def _wants_traceback() -> bool:
    asked = os.environ.get("TEMPORAL_SAE_TRACEBACK")
    return bool(os.environ.get("HYDRA_FULL_ERROR") if asked is None else asked)


def _inside_package(error: Exception) -> bool:
    """Return whether an error arose in this package: a bug, or a message that is missing there."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        around = ("run_command_line", "_launch")
        if Path(code.co_filename).is_relative_to(PACKAGE) and code.co_name not in around:
            return True
        trace = trace.tb_next
    return False
