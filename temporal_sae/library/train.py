"""Train SAEs on activations, and evaluate them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from temporal_sae.activations import ActivationSource
from temporal_sae.activations.given import as_source
from temporal_sae.activations.source import ROWS
from temporal_sae.errors import InvalidOption, RunError, check_int
from temporal_sae.eval import AutoEvaluation
from temporal_sae.eval.subject import attempt
from temporal_sae.experiment.build import choose_device
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.library.call import Call, Shared, TrainedSAE, Wanted
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.training import Lane, ProgressDisplay, SharedStream, Stopped, train_together
from temporal_sae.training.progress import JointProgress, NoProgress

STEPS_WANTED = 500  # of short runs, as long as batches do not get too small
SMALLEST_BATCH, LARGEST_BATCH = 64, 2048
MOST_HELD_OUT = 4096  # rows of an iterable
OF_ONE = tuple(field.name for field in fields(Wanted) if field.name != "options")
OF_ALL = ("batch_size", "seed", "device", "held_out_fraction", "progress", "n_sequences")


def train(
    x: Any,
    sae: str | SparseAutoencoder | None = None,
    *,
    d_sae: int | None = None,
    tracker: Any = "co_activation",
    loss: Any = "orthogonality",
    num_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    held_out_fraction: float = 0.1,
    finetune: str | Path | SparseAutoencoder | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    n_sequences: int = 256,
    **options: Any,
) -> TrainedSAE:
    """Train an SAE on activations, and evaluate it on some that are held out.

    Args:
        x: a tensor, array or memory map [..., d_in]; a path of .npy, .safetensors or .parquet
            files; an iterable of batches [n, d_in], of which a list is read again where it ends;
            or an `ActivationSource`.
        sae: an architecture (`topk`, `batch_topk`, `standard`, `jumprelu`, `gated`, `matryoshka`,
            `lista`), or an SAE, which is trained in place; None: that of `finetune`, or `topk`.
        d_sae: number of latents; None: that of `finetune`, or 4096.
        tracker: `co_activation`, its options in a dictionary (`{"window_size": 500}`), a tracker,
            or None for the plain SAE.
        loss: `orthogonality`, its options in a dictionary (`{"ortho_weight": 1.0}`), a penalty, or
            None for the plain SAE.
        num_tokens: rows to train on; None: those of x that are not held out, once.
        batch_size: rows of a step; None: so many that there are 500 steps, between 64 and 2048.
        seed: fixes initial weights and order.
        device: None: CUDA where there is one.
        held_out_fraction: share of an array or of files that is not trained on.
        finetune: an SAE, or a folder with one in any readable format, whose weights are the start.
        folder: receives checkpoints, from which the same call goes on, `metrics.jsonl`, `sae/` and
            `results.json`; a larger `num_tokens` trains further. None: nothing is written.
        progress: show how far training is, also in a notebook.
        n_sequences: held-out sequences (of 128 rows where there is no text) for the evaluation.
        options: of the architecture (`k`, `l1_weight`, …) and of `Trainer` (`lr`, `precision`, …).

    Raises:
        InvalidOption, RunError: in one line, what is wrong and what is allowed.
        KeyboardInterrupt: Ctrl-C; a checkpoint is in the folder, if there is one.
    """
    wanted = Wanted(sae, d_sae, tracker, loss, num_tokens, finetune, folder, options)
    shared = Shared(batch_size, seed, held_out_fraction)
    (result,) = trained(x, [wanted], shared, device, progress, n_sequences)
    if not isinstance(result, TrainedSAE):
        raise result
    return result


def train_many(
    x: Any,
    saes: Sequence[Mapping[str, Any]],
    *,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    held_out_fraction: float = 0.1,
    progress: bool = True,
    n_sequences: int = 256,
    **options: Any,
) -> list[TrainedSAE | Exception]:
    """Train several SAEs side by side on the same batches, which are read once.

    Each becomes to the bit what `train` makes of it alone with the same `batch_size`.

    Args:
        x: as in `train`.
        saes: for each SAE its own arguments of `train`, such as `{"sae": "topk", "k": 8}`.
        batch_size, seed, device, held_out_fraction, progress, n_sequences: as in `train`.
        options: further arguments of all SAEs that do not have their own.

    Returns:
        What has become of each, in their order; in the place of one whose training has failed,
        the error.

    Raises:
        InvalidOption, RunError: in one line, what is wrong; nothing has been trained.
        KeyboardInterrupt: Ctrl-C; of each there is a checkpoint in its folder, if it has one.
    """
    wanted = [each_wanted(own, options) for own in checked_list(saes)]
    check_nothing_is_shared(wanted)
    shared = Shared(batch_size, seed, held_out_fraction)
    return trained(x, wanted, shared, device, progress, n_sequences)


def checked_list(saes: Any) -> list[Mapping[str, Any]]:
    """Return the arguments of each SAE.

    Raises:
        InvalidOption: they are not in a list of dictionaries, or have an argument of all.
    """
    is_list = isinstance(saes, Sequence) and len(saes) > 0
    if not is_list or not all(isinstance(own, Mapping) for own in saes):
        allowed = 'a list of dictionaries of arguments, such as [{"k": 8}, {"k": 16}]'
        raise InvalidOption("saes", saes, allowed)
    for n, own in enumerate(saes):
        for name in OF_ALL:
            if name in own:
                allowed = "given for all, beside the list, since they train on the same batches"
                raise InvalidOption(f"saes.{n}.{name}", own[name], allowed)
    return list(saes)


def each_wanted(own: Mapping[str, Any], options: Mapping[str, Any]) -> Wanted:
    """Return the arguments of one SAE, those of all included."""
    every = {**options, **own}
    named = {name: every.pop(name) for name in OF_ONE if name in every}
    return Wanted(**named, options=every)


def check_nothing_is_shared(wanted: Sequence[Wanted]) -> None:
    """Refuse what would be trained or written by several SAEs at once.

    Raises:
        InvalidOption: a folder, or an object that training changes, is given for several.
    """
    for name in ("folder", "sae", "tracker", "loss"):
        given = [getattr(each, name) for each in wanted]
        if name == "folder":
            taken = [os.path.realpath(value) for value in given if isinstance(value, (str, Path))]
        else:
            objects = [v for v in given if not isinstance(v, (str, Mapping, type(None)))]
            taken = [str(id(value)) for value in objects]
        if len(taken) > len({*taken}):
            value = next(v for v in given if v is not None)
            raise InvalidOption(f"saes.{name}", value, "another one for each SAE")


def trained(
    x: Any,
    wanted: Sequence[Wanted],
    shared: Shared,
    device: str | torch.device | None,
    progress: bool,
    n_sequences: int,
) -> list[TrainedSAE | Exception]:
    """Train and evaluate; of an SAE whose training fails the error is returned.

    Raises:
        InvalidOption, RunError, KeyboardInterrupt: see `train_many`.
    """
    calls = [Call(each) for each in wanted]
    shared.seed = check_int("seed", shared.seed, 0)
    check_int("n_sequences", n_sequences, 1)
    where = choose_device("auto" if device is None else str(device))
    source = opened(x, calls, shared, where)
    cuda = [source.device] if source.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), deterministic_on_cpu(source.device):
        stream = source.stream(shared.batch_size or 1, shared.seed)
        on_stream = SharedStream(stream)
        lanes = [call.training(source, on_stream, shared) for call in calls]
        show(lanes, progress)
        with on_stream.released():
            train_together(lanes)
        for lane in lanes:
            if isinstance(lane.error, Stopped):
                raise KeyboardInterrupt(str(lane.error)) from None
        return finished(calls, source, n_sequences)


def opened(x: Any, calls: Sequence[Call], shared: Shared, device: torch.device) -> ActivationSource:
    """Return the source of the activations, open, and complete what all SAEs share.

    Raises:
        InvalidOption, RunError: it cannot be read; or folders hold calls on other batches.
    """
    earlier = [call.earlier for call in calls if call.earlier is not None]
    known = {(e["held_out_rows"], e["batch_size"]) for e in earlier}
    if len(known) > 1:
        raise RunError("folder: they hold trainings on other batches; continue them one by one")
    rows, batch = next(iter(known), (None, None))
    lengths = [call.wanted.num_tokens for call in calls]
    shared.held_out_rows = held_out_rows_for(lengths) if rows is None else rows
    source = as_source(x, device, shared.held_out_fraction, shared.held_out_rows)
    source.open()
    source.why_not(ROWS)  # raises where held-out rows are damaged, and not only after all training
    if shared.batch_size is None:
        shared.batch_size = batch or batch_size_for(max(call.length(source) for call in calls))
    shared.batch_size = check_batch(source, shared.batch_size)
    return source


def show(lanes: Sequence[Lane], progress: bool) -> None:
    """Let trainings show how far they are, where that is wanted."""
    steps = max(lane.trainer.total_steps for lane in lanes)
    display: ProgressDisplay = NoProgress()
    if progress:
        display = ProgressDisplay(steps, Console())
        if len(lanes) > 1:
            display = JointProgress(steps, Console(), len(lanes))
    for lane in lanes:
        lane.parts.progress = display


def finished(
    calls: Sequence[Call], source: ActivationSource, n_sequences: int
) -> list[TrainedSAE | Exception]:
    """Return what has been trained, evaluated together, or the errors that have ended it."""
    answers: list[Any] = [call.lane.error for call in calls]
    whole = [number for number, error in enumerate(answers) if error is None]
    for number in whole:
        calls[number].fold_scale()
    found = evaluated([calls[number].model for number in whole], source, n_sequences)
    for number, sections in zip(whole, found, strict=True):
        answers[number] = attempt(partial(calls[number].result, source, sections))
    return answers


def held_out_rows_for(lengths: Sequence[int | None]) -> int:
    """Return how many rows of an iterable are held out: a tenth of a short run."""
    known = [-(-n_tokens // 10) for n_tokens in lengths if n_tokens is not None]
    return min(MOST_HELD_OUT, max(known)) if len(known) == len(lengths) else MOST_HELD_OUT


def batch_size_for(n_tokens: int) -> int:
    """Return the rows of a step."""
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, n_tokens // STEPS_WANTED))


def check_batch(source: ActivationSource, batch_size: int) -> int:
    """Return the rows of a step; the shuffle buffer has to hold them.

    Raises:
        InvalidOption: it does not, or they are no whole number.
    """
    batch_size = check_int("batch_size", batch_size, 1)
    if batch_size > source.buffer_tokens:
        allowed = f"at most {source.buffer_tokens:,}, the rows that are mixed"
        raise InvalidOption("batch_size", batch_size, allowed)
    return batch_size


def evaluated(
    saes: Sequence[SparseAutoencoder], source: ActivationSource, n_sequences: int
) -> list[dict[str, Any] | Exception]:
    """Return the metrics that the source allows, by section; none where nothing is held out."""
    options = AutoEvaluation(
        n_reconstruction_sequences=min(n_sequences, 128), n_sparsity_sequences=n_sequences
    )
    found: list[dict[str, Any] | Exception] = [{} for _ in saes]
    for evaluation in options.chosen(source) if saes else ():
        for number, section in enumerate(evaluation.measure_together(saes, source)):
            so_far = found[number]
            if isinstance(section, Exception) or isinstance(so_far, Exception):
                found[number] = so_far if isinstance(so_far, Exception) else section
            else:
                found[number] = so_far | {evaluation.section: section}
    return found
