"""`1e3` is a float to YAML: every option that is a whole number takes it as the number it is."""

import inspect
import numbers

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from temporal_sae.experiment.construct import build
from temporal_sae.experiment.source import build_source
from temporal_sae.sweep.slots import find_slots, thread_environment
from tests.test_config_surface import OPTIONS, composed

GIVEN = {
    "sae": {"d_in": 8},
    "tracker": {"n_latents": 4},
    "logger": {"folder": "."},
}
WITHOUT_NUMBERS = ("model", "logger")


def is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def as_floats(value):
    """The same options with a float for every whole number."""
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if is_whole(value) else value


def with_numbers_for_null(node):
    """The options with 2 wherever null stands for a whole number that is left open."""
    arguments = inspect.signature(get_class(node["_target_"])).parameters
    filled = dict(node)
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            filled[key] = with_numbers_for_null(value)
        elif value is None and str(arguments[key].annotation).startswith("int"):
            filled[key] = 2
    if "full_dataset_downsample" in filled.get("ravel", {}):
        filled["ravel"] = {**filled["ravel"], "full_dataset_downsample": 2}
    return filled


def numbers_of(component, path=""):
    """Every whole number that a component keeps, with where; floats that are whole included."""
    if isinstance(component, numbers.Real) and not isinstance(component, bool):
        yield path, type(component), component
    elif isinstance(component, torch.Tensor):
        yield path, component.dtype, tuple(component.shape)
    elif isinstance(component, dict):
        for key, item in component.items():
            yield from numbers_of(item, f"{path}.{key}")
    elif isinstance(component, (list, tuple)):
        for n, item in enumerate(component):
            yield from numbers_of(item, f"{path}.{n}")
    elif hasattr(component, "__dict__") and not isinstance(component, type):
        for key, item in vars(component).items():
            yield from numbers_of(item, f"{path}.{key}")


def made_of(config, group, folder):
    """The component of a group."""
    if group == "activations":
        return build_source(config, torch.device("cpu"), folder / "run")
    return build(config, group, **GIVEN.get(group, {}))


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, o in OPTIONS if g not in WITHOUT_NUMBERS]
)
def test_a_whole_float_makes_the_same_component(group, option, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    config = composed(f"{group}={option}")
    np.save(tmp_path / "a.npy", np.ones((8, 4), dtype=np.float32))
    if option in ("text_files", "files", "store"):
        config[group].path = str(tmp_path)
    if option == "mixture":
        part = {"_target_": "temporal_sae.data.TextFiles", "path": str(tmp_path)}
        config.data.parts, config.data.weights = [part], [1.0]
    config[group] = with_numbers_for_null(OmegaConf.to_container(config[group], resolve=True))
    floats = OmegaConf.merge(config, {group: as_floats(OmegaConf.to_container(config[group]))})
    made = [list(numbers_of(made_of(c, group, tmp_path))) for c in (config, floats)]
    floats_of = {path for path, kind, _ in made[0] if kind is float}
    # What is a number in any case may be kept as it was given.
    assert [n for n in made[1] if n[0] not in floats_of] == [
        n for n in made[0] if n[0] not in floats_of
    ]


def test_so_do_the_options_of_sweeps():
    assert find_slots("cpu", 2.0, 5, 3.0) == find_slots("cpu", 2, 5, 3)
    assert thread_environment(2, 1.0) == thread_environment(2, 1)
