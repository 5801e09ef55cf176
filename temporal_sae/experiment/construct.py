"""From the options of one config group to the object that does its work.

What a person types may name any class. Whether it takes these options is judged before it is
called, and whether it is what the group needs before anything uses it.
"""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Collection, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from temporal_sae import signals
from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.data import TextSource
from temporal_sae.errors import InvalidOption, RunError, one_line
from temporal_sae.eval import Evaluation
from temporal_sae.renamed import new_key, new_value
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.training import Trainer
from temporal_sae.training.loggers import MetricsLogger
from temporal_sae.training.parts import PairPenalty, Tracker

TARGET = "_target_"
# What the component of each group has to be: a class to inherit from, or the members of a protocol.
KINDS: dict[str, type] = {
    "model": LanguageModel,
    "data": TextSource,
    "activations": ActivationSource,
    "sae": SparseAutoencoder,
    "tracker": Tracker,
    "loss": PairPenalty,
    "trainer": Trainer,
    "eval": Evaluation,
    "logger": MetricsLogger,
}


def build(cfg: DictConfig, group: str, **given: Any) -> Any:
    """Instantiate one group's `_target_` with its own options, and with `given`, which the run has.

    Raises:
        InvalidOption, RunError: an option is unknown, missing or not allowed, or the class is not
            one for this group.
    """
    return make(group, plain(cfg[group]), KINDS[group], **given)


def make(place: str, options: Any, kind: type, **given: Any) -> Any:
    """Instantiate the options at a key of the config, `place`, as one of `kind`.

    Raises:
        InvalidOption, RunError: as `build`.
    """
    signals.obey()
    check_options(place, options, given)
    give_inside(options, given)
    with naming(place, options):
        built = instantiate(options, **given, _convert_="all")
    if not isinstance(built, kind):
        members = sorted({*vars(kind), *getattr(kind, "__annotations__", ())})
        lacking = [m for m in members if not m.startswith("_") and not hasattr(built, m)]
        allowed = f"a class with all that {kind.__name__} has; it lacks {', '.join(lacking)}"
        raise InvalidOption(f"{place}.{TARGET}", options[TARGET], allowed)
    return built


def give_inside(options: dict[str, Any], given: dict[str, Any]) -> None:
    """Give the run's own folder to parts that name it, such as those of a mixture."""
    if "folder" not in given:
        return
    for key, value in options.items():
        for _, part in targets_below(str(key), value):
            known, _ = arguments_of(find_class(TARGET, part[TARGET]))
            if known and "folder" in known:
                part["folder"] = given["folder"]
            give_inside(part, given)


def plain(node: Any) -> Any:
    """Return a part of the config as plain dictionaries, lists and values, all resolved.

    Raises:
        RunError: a value is missing, or refers to what there is not.
    """
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise RunError(
            f"{error.full_key}: has no value yet; give one on the command line"
        ) from error
    except OmegaConfBaseException as error:
        why = one_line(str(error).splitlines()[0])
        raise RunError(f"{error.full_key}: cannot be resolved ({why})") from error


def check_options(place: str, options: Any, given: Collection[str] = ()) -> None:
    """Refuse options that the class they name does not take, before it is called.

    Args:
        place: key of the options in the config.
        options: a mapping with the name of a class in `_target_`; so may be what is in it.
        given: arguments that are not options.

    Raises:
        InvalidOption, RunError: see above.
    """
    if not isinstance(options, dict) or TARGET not in options:
        allowed = (
            f"options with a {TARGET}; {place.split('.')[0]}=NAME chooses one of those there are"
        )
        raise InvalidOption(place, options, allowed)
    known, required = arguments_of(find_class(f"{place}.{TARGET}", options[TARGET]))
    for key in options:
        taken = known is None or key in known
        # Hydra obeys other keys that begin so, such as `_partial_`, and passes them to no class.
        if key != TARGET and (key in given or str(key).startswith("_") or not taken):
            now = new_key(f"{place}.{key}")
            raise RunError(f"{place}.{key}: " + (f"is called {now} now" if now else "unknown key"))
    for key in required:
        if key not in options and key not in given:
            raise RunError(f"{place}.{key}: is missing")
    for key, value in options.items():
        if new := new_value(f"{place}.{key}", value):
            raise InvalidOption(f"{place}.{key}", value, f"{new}, as it is called now")
        for inner, nested in targets_below(f"{place}.{key}", value):
            check_options(inner, nested)


def targets_below(place: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping in `value` that names a class, with its key; not those inside of one."""
    if isinstance(value, dict) and TARGET in value:
        yield place, value
    elif isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from targets_below(f"{place}.{key}", item)


def typed_key(place: str, options: Any, told: str) -> str:
    """Return a key as a person types it: Hydra writes `parts[0].parts1` of `parts.0.parts.1`."""
    for inner, nested in targets_below(place, options):
        if re.sub(r"[][.]", "", inner) == re.sub(r"[][.]", "", told):
            return inner
        for key, value in nested.items():
            found = typed_key(f"{inner}.{key}", value, told)
            if found != told:
                return found
    return told


def find_class(option: str, name: Any) -> type:
    """Return the class of that full name.

    Raises:
        InvalidOption: there is none.
    """
    try:
        found = pydoc.locate(name) if isinstance(name, str) and name else None
    except pydoc.ErrorDuringImport as error:
        raise InvalidOption(option, name, f"a class that can be imported ({error})") from error
    if not isinstance(found, type):
        raise InvalidOption(option, name, "the full name of a class, such as package.module.Class")
    return found


def arguments_of(cls: type) -> tuple[Collection[str] | None, list[str]]:
    """Return the arguments that a class takes, None for any, and those that it needs."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:  # of a class that is written in C
        return None, []
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_any else {p.name for p in parameters}, required


class naming:  # noqa: N801 - reads as a statement: `with naming("tracker"):`
    """Errors inside come out with the config group in front of the option.

    Args:
        group: of the options.
        options: of what is built inside.
    """

    def __init__(self, group: str, options: Any = None) -> None:
        self.group, self.options = group, options

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        group, cause = self.group, error
        if isinstance(error, InstantiationException):
            cause = error.__cause__
            if nested := re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE):
                group = typed_key(group, self.options, f"{group}.{nested[1]}")
            if cause is None:  # Hydra itself refuses to call it
                raise RunError(f"{group}.{TARGET}: {one_line(error)}") from error
        if isinstance(cause, InvalidOption):
            raise cause.within(group) from error
        if isinstance(cause, RunError):
            raise cause from error
