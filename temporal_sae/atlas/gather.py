"""One pass of a frozen SAE over a source of activations, in text order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from temporal_sae import signals
from temporal_sae.activations import ActivationSource
from temporal_sae.activations.rows import EndOfRows, Reader
from temporal_sae.atlas.firings import FiringsWriter, damaged
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)

SECONDS_BETWEEN_NOTES = 20.0


@torch.no_grad()
def gather(
    sae: SparseAutoencoder,
    source: ActivationSource,
    writer: FiringsWriter,
    n_tokens: int,
    seed: int = 0,
    show: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the firings of the training rows until there are those of `n_tokens` or a few more.

    What the source reads at once is never cut, so that a longer pass goes on where a shorter one
    ended. One that was interrupted goes on where it was noted last, which is every 20 seconds.
    Nothing is read twice; where all has been read before, the log says so.

    Args:
        sae: takes rows as the source gives them (input scale folded in), on its device.
        source: of the rows; it is open.
        writer: receives the firings.
        n_tokens: rows in all, at least.
        seed: fixes the order of the documents.
        show: is told how many there are.

    Raises:
        RunError: the rows cannot be read, or the place at which to go on is none.
    """
    reader = source.reader(seed)
    if writer.reader_state is not None:
        try:
            reader.load_state_dict(writer.reader_state)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise damaged(writer.folder, "notes no place in this text") from error
    noted = time.monotonic()
    while writer.n_tokens < n_tokens:
        signals.obey()
        try:
            rows = reader.read()
        except EndOfRows:
            break
        if has_begun_again(reader, source, writer.n_tokens):
            break
        writer.add(rows, sae.encode(rows.x.to(sae.W_dec.device, sae.W_dec.dtype)))
        show(writer.n_tokens)
        if time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
            writer.note(reader.state_dict())
            noted = time.monotonic()
    if writer.n_tokens < n_tokens:
        log.warning(
            "there are %s tokens to read, fewer than %s", f"{writer.n_tokens:,}", f"{n_tokens:,}"
        )
    writer.note(reader.state_dict())


def has_begun_again(reader: Reader, source: ActivationSource, n_tokens: int) -> bool:
    """Return True if the last read gave, among others, rows that had been read before.

    Args:
        reader: gave it.
        source: of the reader.
        n_tokens: given until then; the first read counts whatever it gave.
    """
    rows_in_pass = source.rows_in_pass
    if rows_in_pass is not None:
        return n_tokens >= rows_in_pass
    return n_tokens > 0 and getattr(reader, "epoch", 0) > 0
