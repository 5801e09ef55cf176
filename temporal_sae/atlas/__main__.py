"""Gather the statistics of all latents and all pairs of an SAE.

    python -m temporal_sae.atlas FOLDER [--tokens N] [key=value ...]

FOLDER is a run's, whose SAE is followed over the run's own model and text, or others that are
chosen (`data=text_files data.path=...`); or it holds an SAE in any format that is read, which needs
to be told the model, unless its config names it: `model=hf model.name=... model.hook_name=...`.
The tables pairs.parquet and latents.parquet are written to FOLDER/atlas; docs/atlas.md says what
their columns mean. A pass that was interrupted goes on with the same command. `diff A B` compares
two of them. Exit codes: 0 it is done, 2 wrong input.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from temporal_sae import schemas, signals
from temporal_sae.atlas.ablate_command import N_EXAMPLES
from temporal_sae.atlas.command import Lines, held, print_log, told_of
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import InvalidOption, RunError, check_int, check_number
from temporal_sae.explain import composed

if TYPE_CHECKING:
    from temporal_sae.activations import ActivationSource
    from temporal_sae.sae import SparseAutoencoder

# What is done with a finished atlas, by the first word; a module with a function `main` each.
COMMANDS = {
    "ablate": "temporal_sae.atlas.ablate_command",
    "diff": "temporal_sae.atlas.diff_command",
    "explain": "temporal_sae.atlas.explain_command",
    "export": "temporal_sae.atlas.exports.command",
}
MOST_TOKENS = 2_000_000_000  # their numbers are int32


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and build the atlas."""
    let_readers_leave()
    with signals.ending():
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in COMMANDS:
        import_module(COMMANDS[words[0]]).main(words[1:])
        return
    parser = Parser(
        prog="python -m temporal_sae.atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of a run or of an SAE")
    parser.add_argument(
        "overrides", nargs="*", help="key=value options of data, model, activations"
    )
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of the text (1000000)")
    parser.add_argument("--window-size", type=int, default=1000, help="tokens of a window (1000)")
    parser.add_argument("--min-count", type=int, default=10, help="tokens a listed pair has (10)")
    parser.add_argument("--min-z", type=float, default=0.0, help="|z| of a listed pair (0)")
    parser.add_argument("--output", type=Path, help="a folder for the tables (FOLDER/atlas)")
    parser.add_argument("--keep-firings", action="store_true", help="for a longer pass later on")
    parser.add_argument(
        "--compare",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="of another run or SAE, to look for the same latents in; several times",
    )
    parser.add_argument(
        "--ablate",
        type=int,
        nargs="?",
        const=N_EXAMPLES,
        default=0,
        metavar="N",
        help=f"latents at N of their examples each ({N_EXAMPLES}; without it, at none)",
    )
    options = parser.parse_intermixed_args(words)
    print_log()
    try:
        with exit_on_mistakes(traceback="debug=true" in options.overrides):
            build(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise


def build(options: argparse.Namespace) -> None:
    """Build the atlas that the command line asks for.

    Raises:
        InvalidOption, RunError: something a person can correct.
    """
    if options.tokens > MOST_TOKENS:
        raise InvalidOption("--tokens", options.tokens, f"at most {MOST_TOKENS}")
    for name, least in (("tokens", 1), ("window_size", 1), ("min_count", 1), ("ablate", 0)):
        check_int(f"--{name.replace('_', '-')}", getattr(options, name), least)
    check_number("--min-z", options.min_z)
    folder: Path = options.folder
    if not os.path.exists(folder):
        raise RunError(f"{folder}: there is no such folder")
    # Slow to import, and not for --help.
    from temporal_sae.atlas.build import Options, build_atlas
    from temporal_sae.atlas.pairs import Choice
    from temporal_sae.atlas.stability import snapshots_in
    from temporal_sae.experiment.determinism import deterministic_on_cpu

    output: Path = options.output or folder / "atlas"
    check_free(output)
    with held(output), told_of(output):
        sae, source, identity = opened_pass(folder, options.overrides, output)
        choice = Choice(options.min_count, options.min_z)
        sizes = options.tokens, options.window_size
        wanted = Options(
            *sizes,
            choice,
            keep_firings=options.keep_firings,
            title=folder.resolve().name,
            snapshots=tuple(snapshots_in(folder)),
            others=tuple(options.compare),
            n_ablated=options.ablate,
        )
        with deterministic_on_cpu(source.device):
            build_atlas(output, sae, source, identity, wanted, Lines().show)


def check_free(output: Path) -> None:
    """Refuse a folder in which the pages would replace those of somebody else.

    Raises:
        RunError: see above.
    """
    from temporal_sae.atlas.folder import LATENTS  # slow to import

    found = [name for name in ("index.html", "site") if (output / name).exists()]
    if found and not (output / LATENTS).exists():
        told = f"holds {' and '.join(found)} but no atlas; choose another folder"
        raise RunError(f"--output={output}: {told}")


def opened_pass(
    folder: Path, overrides: list[str], output: Path
) -> tuple[SparseAutoencoder, ActivationSource, dict[str, Any]]:
    """Open the SAE and the source of a pass, and return them with what tells the pass from others.

    Args:
        folder: of a run or of an SAE.
        overrides: options that are typed.
        output: folder of the atlas.

    Raises:
        InvalidOption, RunError: something a person can correct.
    """
    from temporal_sae.eval.__main__ import with_facts
    from temporal_sae.experiment.evaluate import identity_of, opened, weights_hash

    overrides = ["eval=none", *overrides]
    record: dict[str, Any] | None = None
    if (folder / "run.json").exists():
        cfg = config_of_run(folder, overrides)
        record = {**schemas.read(folder / "run.json", schemas.EvaluatedRecord)}
        sae_folder = folder / "sae"
    else:
        cfg, sae_folder = with_facts(folder, overrides), folder
    sae, components = opened(sae_folder, cfg, output, record)
    source = components.source
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    identity = {"sae": weights_hash(sae), "source": [identity_of(config), source.describe()]}
    return sae, source, identity


def config_of_run(folder: Path, overrides: list[str]) -> DictConfig:
    """Return the typed config with the run's own groups, where no other is chosen in their place.

    Raises:
        RunError: an option is typed of a group that stays the run's own.
    """
    from temporal_sae.experiment.evaluate import SOURCE_GROUPS, evaluation_config

    typed = composed(overrides)
    cfg = evaluation_config(folder, typed)
    keys = {override: override.split("=")[0].lstrip("+~") for override in overrides}
    for override, key in keys.items():
        group = key.split(".")[0]
        if group in SOURCE_GROUPS and group not in keys.values():
            raise RunError(
                f"{override}: the run's own {group} is kept, as it is; {group}=NAME chooses another"
            )
        if key in SOURCE_GROUPS:
            cfg[key] = typed[key]
    return cfg


if __name__ == "__main__":
    main()
