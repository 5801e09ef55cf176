"""From the overrides of a job to its config.

Hydra takes a few tenths of a second to compose one. It is asked once for every choice of groups;
plain values are set in a copy, as it would set them itself at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from temporal_sae.errors import RunError, one_line

VALUE, CHOICE, OTHER = "a value", "a choice of a group", "something else"


class Composer:
    """Composes the jobs of a sweep.

    Args:
        config: of the sweep as a whole.
        loader: Hydra's.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader) -> None:
        self.config, self.loader = config, loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a job, with that of Hydra.

        Raises:
            HydraException: there is no such key, group or option.
        """
        parsed = self._parser.parse_overrides(list(overrides))
        kinds = [self._kind(override) for override in parsed]
        if OTHER in kinds:  # they are applied in their order, and not after the plain ones
            config = self.loader.load_sweep_config(self.config, list(overrides))
        else:
            config = self._base([o for o, k in zip(overrides, kinds, strict=True) if k == CHOICE])
            values = [o for o, k in zip(parsed, kinds, strict=True) if k == VALUE]
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
        with open_dict(config.hydra):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.override_dirname = dirname(parsed, config)
        return config

    def _base(self, choices: list[str]) -> DictConfig:
        """Return a copy of the config with these choices of groups."""
        key = tuple(choices)
        if key not in self._bases:
            self._bases[key] = self.loader.load_sweep_config(self.config, choices)
        return copy.deepcopy(self._bases[key])

    def _kind(self, override: Override) -> str:
        key = str(override.key_or_group)
        is_changed = override.type == OverrideType.CHANGE and override.package is None
        if not is_changed or key.startswith("hydra"):
            return OTHER
        if key not in self._groups:
            self._groups[key] = bool(self.loader.get_group_options(key))
        if not self._groups[key]:
            return VALUE
        return CHOICE if isinstance(override.value(), (str, list)) else OTHER

    def job(
        self, number: int, overrides: Sequence[str], telling: Sequence[str], name: str | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Return the name of a job's folder, and its config as plain data, all resolved.

        Args:
            number: of the job.
            overrides: of the job.
            telling: those of them that the name of a new folder is to show.
            name: of the folder that there is already.
        """
        config = self.compose(overrides)
        with open_dict(config.hydra), as_hydras(config):
            config.hydra.job.num = config.hydra.job.id = number
            if telling:
                config.hydra.job.override_dirname = ",".join(telling)
            name = name or subdir(config)
            config.hydra.runtime.output_dir = str(Path(str(config.hydra.sweep.dir)) / name)
            return name, plain(config)


def subdir(config: DictConfig) -> str:
    """Return the name of a new job's folder."""
    try:
        return str(OmegaConf.select(config, "hydra.sweep.subdir", throw_on_missing=True))
    except OmegaConfBaseException:
        plain(config)  # an option that refers to nothing is told by its own name
        raise


def plain(config: DictConfig) -> dict[str, Any]:
    """Return all of a config but Hydra's part, resolved.

    Raises:
        RunError: a value refers to what there is not.
    """
    found = {}
    for key in config:
        if key == "hydra":
            continue
        try:
            node = "???" if OmegaConf.is_missing(config, key) else config[key]
            is_group = OmegaConf.is_config(node)
            found[str(key)] = OmegaConf.to_container(node, resolve=True) if is_group else node
        except OmegaConfBaseException as error:
            why = one_line(str(error).splitlines()[0])
            raise RunError(f"{error.full_key}: cannot be resolved ({why})") from error
    return found


@contextmanager
def as_hydras(config: DictConfig) -> Iterator[None]:
    """While open, `${hydra:…}` is that of this config."""
    hydras = HydraConfig.instance()
    before, hydras.cfg = hydras.cfg, config
    try:
        yield
    finally:
        hydras.cfg = before


def dirname(parsed: Sequence[Override], config: DictConfig) -> str:
    """Return the overrides as Hydra puts them into the name of a folder."""
    how = config.hydra.job.config.override_dirname
    return get_overrides_dirname(
        overrides=[override for override in parsed if not override.is_hydra_override()],
        kv_sep=how.kv_sep,
        item_sep=how.item_sep,
        exclude_keys=how.exclude_keys,
    )
