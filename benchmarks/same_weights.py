"""Compare the weights that two commits train: `python benchmarks/same_weights.py OLD NEW`.

OLD and NEW are checkouts, such as `git worktree add /tmp/old COMMIT` and `.`. Every architecture,
loss and tracker is trained at toy size in both, and the default run for its first 100k tokens; the
weights have to agree byte for byte. Exits with 1 and the names of those that do not.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TOY = (
    "activations.buffer_tokens=4096",
    "sae.d_sae=256",
    "trainer.num_tokens=30720",
    "trainer.batch_size=256",
    "trainer.warmup_steps=10",
    "trainer.dead_after_tokens=5000",
    "tracker.window_size=300",
    "eval=none",
)
WITHOUT_WINDOW = tuple(option for option in TOY if not option.startswith("tracker."))
# The same job in words of another time: a checkout takes the first that it does not refuse.
JOBS: dict[str, tuple[tuple[str, ...], ...]] = {
    "default": (("trainer.num_tokens=100000", "eval=none"),),
    "topk": ((*TOY, "sae.k=8"),),
    "batch_topk": ((*TOY, "sae=batch_topk", "sae.k=8"),),
    "matryoshka": ((*TOY, "sae=matryoshka", "sae.k=8"),),
    "standard": ((*TOY, "sae=standard", "sae.resample_every=50"),),
    "jumprelu": ((*TOY, "sae=jumprelu"),),
    "gated": ((*TOY, "sae=gated"),),
    "tracker off": ((*WITHOUT_WINDOW, "sae.k=8", "tracker=off", "loss.ortho_weight=0"),),
    "transcript": ((*TOY, "sae.k=8", "tracker=transcript"),),
    "consecutive": ((*TOY, "sae.k=8", "tracker=transcript", "loss=consecutive"),),
    "ortsae": ((*WITHOUT_WINDOW, "sae.k=8", "tracker=off", "loss=ortsae"),),
    "uniform": ((*TOY, "sae.k=8", "loss.weighting=uniform"),),
    "sparse in order": ((*TOY, "sae.k=8", "tracker.storage=sparse", "tracker.stream=ordered"),),
    "permuted": ((*TOY, "sae.k=8", "loss.permuted=true"),),
    "exact": ((*TOY, "sae.k=8", "loss.estimator=exact", "loss.floor=0.5"),),
    "long average": tuple(
        (*TOY, "sae.k=8", "tracker.alpha_source=const", f"loss.weighting={name}")
        for name in ("long_average", "average")
    ),
    "instability only": tuple(
        (*TOY, "sae.k=8", "loss.floor=1.0", f"loss.weighting={name}")
        for name in ("instability_only", "only")
    ),
    "resumed": ((*TOY, "sae.k=8", "trainer.checkpoint_every=20"),),
    "of activations": ((*TOY, "sae.k=8", "loss.gram=activations", "loss.penalty=abs"),),
}


def weights_after(checkout: Path, words: tuple[tuple[str, ...], ...], folder: Path) -> str:
    """Checksum of the weights that a job of this checkout has saved.

    Raises:
        SystemExit: it does not finish, in none of the ways to type it.
    """
    said = ""
    for options in words:
        command = [sys.executable, "launch.py", f"hydra.run.dir='{folder}'", *options]
        if folder.name == "resumed":
            stop_after_a_checkpoint(command, checkout, folder)
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        if done.returncode == 0:
            return hashlib.sha256((folder / "sae/sae_weights.safetensors").read_bytes()).hexdigest()
        said = done.stderr
    sys.exit(f"{checkout}: {' '.join(words[-1])}\n{said}")


def stop_after_a_checkpoint(command: list[str], checkout: Path, folder: Path) -> None:
    """Interrupt a run once it has written its first checkpoint."""
    with subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        while run.poll() is None and not list((folder / "checkpoints").glob("step_*")):
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)


def main() -> None:
    """Train everything twice and show what differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="*", choices=JOBS, default=list(JOBS))
    args = parser.parse_args()
    table = Table("job", "old", "new", "")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            old, new = (
                weights_after(checkout.absolute(), JOBS[name], Path(folder) / which / name)
                for which, checkout in (("old", args.old), ("new", args.new))
            )
            table.add_row(name, old[:12], new[:12], "same" if old == new else "DIFFERENT")
    Console().print(table)
    if "DIFFERENT" in list(table.columns[3].cells):
        sys.exit(1)


if __name__ == "__main__":
    main()
