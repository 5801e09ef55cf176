"""Wrong values for every key of every option: refused in one line that names the key."""

from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from temporal_sae.commands import CONF
from temporal_sae.data import StdlibText
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.construct import KINDS, arguments_of, build, find_class
from temporal_sae.explain import with_defaults
from tests.wrong_values import RANGES

OPTIONS = [
    (path.parent.name, path.stem)
    for group in KINDS
    for path in sorted((CONF / group).glob("*.yaml"))
]
# What the command line would have to say before a run begins, and what the run itself gives.
NEEDED = {
    "data=mixture": {"parts": [{"_target_": "temporal_sae.data.StdlibText"}] * 2},
    "data=text_files": {"path": "texts"},
    "activations=files": {"path": "rows.npy"},
    "activations=store": {"path": "store"},
    "model=hf": {"name": "tiny", "hook_name": "blocks.1.hook_resid_post"},
}
GIVEN = {
    "sae": {"d_in": 1},
    "tracker": {"n_latents": 1, "device": "cpu"},
    "logger": {"folder": Path("run")},
    "model": {"device": "cpu"},
    "data": {"folder": None},
    "activations": {"model": lambda: None, "text": StdlibText(), "device": "cpu"},
}


def ranges_of(group, option):
    """The range of each key of an option."""
    base = "saebench" if option.startswith("saebench") else option
    return RANGES[f"{group}={base}"] if f"{group}={base}" in RANGES else RANGES[group]


def keys_of(node, ranges, prefix=""):
    """Dotted keys, down to those that have a range or hold no mapping."""
    keys = []
    for key, value in node.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in ranges:
            keys += keys_of(value, ranges, f"{prefix}{key}.")
        elif key != "_target_":
            keys.append(f"{prefix}{key}")
    return keys


@cache
def option_config(group, option):
    """The option as the command line would compose it, by itself; to be copied."""
    cfg = OmegaConf.create({"seed": 42, "trainer": {"reconstruction": "fvu"}})
    cfg[group] = with_defaults(CONF / group / f"{option}.yaml")
    for key, value in NEEDED.get(f"{group}={option}", {}).items():
        cfg[group][key] = value
    return cfg


def refusal(cfg, group):
    """What is said of a config, None if it is accepted."""
    try:
        named, _ = arguments_of(find_class(f"{group}._target_", cfg[group]["_target_"]))
        given = {k: v for k, v in GIVEN.get(group, {}).items() if named is None or k in named}
        build(cfg, group, **given)
    except (InvalidOption, RunError) as error:
        return str(error)
    return None


def accepted(group, option, key, wrong, random_gemma):
    """The wrong values of a key that are not refused as they should be, and what was said."""
    bad = []
    for value in wrong:
        cfg = option_config(group, option).copy()
        if group == "model":
            cfg.model.name, cfg.model.hook_name = str(random_gemma), "blocks.1.hook_resid_post"
        OmegaConf.update(cfg, f"{group}.{key}", value, merge=False)
        said = refusal(cfg, group)
        if said is None or not said.startswith(f"{group}.{key}=") or "\n" in said:
            bad.append((value, said))
    return bad


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_has_a_range(group, option):
    node = OmegaConf.to_container(option_config(group, option)[group], resolve=False)
    ranges = ranges_of(group, option)
    assert set(keys_of(node, ranges)) <= set(ranges)


# The other options of SAEBench differ from the first in values alone.
@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, o in OPTIONS if not o.startswith("saebench_")]
)
@pytest.mark.parametrize("some", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_wrong_values_of_every_key_are_refused(
    group, option, some, random_gemma, text_folder, monkeypatch
):
    monkeypatch.chdir(text_folder.parent)
    cfg = option_config(group, option)
    keys = keys_of(OmegaConf.to_container(cfg[group], resolve=False), ranges_of(group, option))
    if some and len(keys) > 40:  # a third of them says whether anything is looked at
        keys = keys[::3]
    bad = {}
    for n, key in enumerate(keys):
        # One wrong value a key, another for the next; all of them where there is time.
        wrong = ranges_of(group, option)[key].wrong
        chosen = wrong[n % len(wrong) :][:1] if some else wrong
        if found := accepted(group, option, key, chosen, random_gemma):
            bad[key] = found
    assert bad == {}


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, o in OPTIONS if not o.startswith("saebench_")]
)
def test_misspelt_keys_are_refused(group, option, random_gemma):
    cfg = option_config(group, option).copy()
    if group == "model":
        cfg.model.name = str(random_gemma)
    cfg[group]["misspelt"] = 1
    assert refusal(cfg, group) == f"{group}.misspelt: unknown key"
