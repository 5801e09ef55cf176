"""Commands: what is printed can be typed, wherever the package is, and output may be cut short."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from temporal_sae import commands
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.explain import explain_unreadable

ROOT = Path(__file__).parents[1]
# A path's characters; what cannot be seen is refused as the name of a folder.
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Co", "Cn"))
    | st.sampled_from("'\"\\$ {},=[]()~#!`:;&|*?<>\t%"),
    min_size=1,
    max_size=12,
).filter(lambda name: name.isprintable() and name.strip() and name != "???")


def as_hydra_reads(override):
    """The value of an override, as it is found in the composed config."""
    return OmegaConf.create(
        {"value": OverridesParser.create().parse_override(override).value()}
    ).value


@given(NAMES)
@example("it's")
@example("a=b, ${seed} 'c' \"d\"")
@example("ends in a backslash\\")
@example("\\${now:%Y}")
@example("\\\\'${x}")
@example("日本 über")
@example("null")
@example("1e3")
def test_the_command_that_continues_can_be_typed_for_any_folder(name):
    typed = shlex.split(commands.launch_command(["seed=3"], Path(name)))
    assert typed[-2] == "seed=3"
    key, value = typed[-1].split("=", 1)
    assert key == "hydra.run.dir"
    assert as_hydra_reads(f"x={value}") == str(Path(name))


@pytest.mark.parametrize(
    "value", ["p/c=d", "it's", "日本", 'a"b', "über", "~/x", "a(b", "[a", "a#b", "a;b", "${", "=3"]
)
def test_what_cannot_be_read_is_shown_as_it_has_to_be_typed(value):
    told = explain_unreadable(f"data.path={value}")
    advice = shlex.split(told.split("in quotes: ")[1])
    assert len(advice) == 1
    assert as_hydra_reads(advice[0]) == value


def test_quotes_are_the_ones_that_are_easy_to_type():
    told = explain_unreadable("data.path=p/c=d")
    assert told.endswith("""put in quotes: "data.path='p/c=d'\"""")


def test_commands_name_the_interpreter_and_the_script_from_here(monkeypatch, tmp_path):
    inside = tmp_path / ".venv" / "bin" / "python"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(inside))
    assert commands.module_command("temporal_sae.eval", "a b") == (
        ".venv/bin/python -m temporal_sae.eval 'a b'"
    )
    monkeypatch.setattr(commands, "LAUNCH", tmp_path / "launch.py")
    (tmp_path / "launch.py").touch()
    assert commands.launch_command(["seed=1"]) == ".venv/bin/python launch.py seed=1"
    monkeypatch.chdir(tmp_path.parent)
    assert (
        commands.launch_command([]) == f"{tmp_path.name}/.venv/bin/python {tmp_path.name}/launch.py"
    )
    monkeypatch.chdir("/")
    assert commands.launch_command([]).startswith(f"{str(tmp_path)[1:]}/.venv/bin/python")


def test_without_the_sources_the_command_is_the_console_script(monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "LAUNCH", tmp_path / "none.py")
    monkeypatch.setattr(sys, "executable", "/opt/env/bin/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commands.launch_command(["seed=1"]) == "/opt/env/bin/temporal-sae seed=1"
    (tmp_path / "temporal-sae").touch(mode=0o755)
    assert commands.launch_command(["seed=1"]) == "temporal-sae seed=1"


@pytest.mark.parametrize("words", [["launch.py", "--help"], ["-m", "temporal_sae.sae.hub", "-h"]])
@pytest.mark.slow
def test_a_reader_may_leave(words):
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # as `head` has when it has read enough
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunError("no such run"), "error: no such run\n"),
        (InvalidOption("seed", -1, "0 or more"), "error: seed=-1: must be 0 or more\n"),
        (
            OSError(13, "Permission denied", "x/y"),
            "error: x/y: cannot be used (Permission denied)\n",
        ),
        (
            OSError(28, "No space left on device"),
            "error: the disk is full; what is written is whole, so free some space and give the "
            "same command again\n",
        ),
    ],
)
def test_a_mistake_ends_a_command_with_one_line(capsys, error, said):
    with pytest.raises(SystemExit) as stop, commands.exit_on_mistakes():
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == said
    with pytest.raises(type(error)), commands.exit_on_mistakes(traceback=True):
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("it names no file")])
def test_what_is_no_mistake_of_a_person_goes_on_up(error):
    with pytest.raises(type(error)), commands.exit_on_mistakes():
        raise error
