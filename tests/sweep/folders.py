"""Folders of sweeps and what runs leave in them."""

import json
from pathlib import Path

from temporal_sae.sweep.plan import SweepFolder


def planned(path, configs, name="{}_x", **options):
    """A sweep with a job for each config; its overrides are the number and the config's items."""
    sweep = SweepFolder(path)
    wanted = [
        [f"n={n}", *(f"{k}={v}" for k, v in c.items() if isinstance(v, str))]
        for n, c in enumerate(configs)
    ]
    sweep.path.mkdir(exist_ok=True)
    sweep.plan("command", "local", wanted, lambda n, overrides: name.format(n), **options)
    sweep.write_configs(dict(enumerate(configs)))
    return sweep


def leave(folder, status, step=None, **more):
    """What a run leaves in its folder."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    record = {"status": status, "config": {}, **more}
    (folder / "run.json").write_text(json.dumps(record))
    if step is not None:
        (folder / "checkpoints" / f"step_{step:09d}.0.safetensors").touch()
        (folder / "metrics.jsonl").write_text(json.dumps({"step": step}))


def is_alive(pid):
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
