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
        values = [override for override in parsed if self._is_plain_value(override)]
        rest = [o for o, p in zip(overrides, parsed, strict=True) if p not in values]
        key = tuple(rest)
        if key not in self._bases:
            self._bases[key] = self.loader.load_sweep_config(self.config, rest)
        config = copy.deepcopy(self._bases[key])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        with open_dict(config.hydra):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.override_dirname = dirname(parsed, config)
        return config

    def _is_plain_value(self, override: Override) -> bool:
        """Return whether an override has no say in what is composed: it sets a key that exists."""
        key = str(override.key_or_group)
        is_changed = override.type == OverrideType.CHANGE and override.package is None
        if not is_changed or key.startswith("hydra"):
            return False
        if key not in self._groups:
            self._groups[key] = bool(self.loader.get_group_options(key))
        return not self._groups[key]

    def folder(self, number: int, overrides: Sequence[str], telling: Sequence[str]) -> str:
        """Return the name of a job's folder: its number and what tells it from the others.

        Args:
            number: of the job.
            overrides: of the job.
            telling: those of them that its name is to show.
        """
        config = self.compose(overrides)
        with open_dict(config.hydra):
            config.hydra.job.num = config.hydra.job.id = number
            if telling:
                config.hydra.job.override_dirname = ",".join(telling)
        with as_hydras(config):
            return str(OmegaConf.select(config, "hydra.sweep.subdir", throw_on_missing=True))

    def plain(self, number: int, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the config of the job in a folder as plain data, all resolved."""
        config = self.compose(overrides)
        with open_dict(config.hydra):
            config.hydra.job.num = config.hydra.job.id = number
            config.hydra.runtime.output_dir = str(folder)
        with as_hydras(config), open_dict(config):
            config.pop("hydra")
            plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        return plain


@contextmanager
def as_hydras(config: DictConfig) -> Iterator[None]:
    """While open, `${hydra:…}` is that of this config."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def dirname(parsed: Sequence[Override], config: DictConfig) -> str:
    """Return the overrides as Hydra puts them into the name of a folder."""
    how = config.hydra.job.config.override_dirname
    return get_overrides_dirname(
        overrides=[override for override in parsed if not override.is_hydra_override()],
        kv_sep=how.kv_sep,
        item_sep=how.item_sep,
        exclude_keys=how.exclude_keys,
    )
