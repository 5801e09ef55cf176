"""A check within seconds of whether the Hugging Face hub can be reached."""

from __future__ import annotations

import ssl
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from http.client import HTTPException
from unittest.mock import patch
from urllib.error import HTTPError

from huggingface_hub import constants

from temporal_sae.errors import one_line

SECONDS = 5.0
# What each library looks at before it asks for anything; those of other versions are passed over.
SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
    ("transformers.utils.hub", "_is_offline_mode"),
)


def why_unreachable() -> str | None:
    """Return why the hub cannot be reached, in words; None where it answers."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return why_silent(constants.ENDPOINT)


def why_silent(url: str) -> str | None:
    """Return why nobody answers at an address, in words; None where somebody does."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except (HTTPError, HTTPException):
        return None
    except OSError as error:
        reason = getattr(error, "reason", error)
        # The hub's own client may know other certificates.
        return None if isinstance(reason, ssl.SSLError) else one_line(reason)
    return None


@contextmanager
def without_waiting() -> Iterator[str | None]:
    """While open, the hub's libraries ask only their caches if the hub cannot be reached.

    Left to themselves they try for half a minute for each file, and there are several.

    Yields:
        Why it cannot be reached, to be told with `unreachable` if the caches do not help; or None.
    """
    reason = why_unreachable()
    with offline() if reason else nullcontext():
        yield reason


@contextmanager
def switched_off(reason: str) -> Iterator[str]:
    """While open, the hub's libraries that are imported by now ask only their caches.

    Yields:
        The reason, to be told with `unreachable` if the caches do not help.
    """
    with offline():
        yield reason


@contextmanager
def offline() -> Iterator[None]:
    """While open, the hub's libraries that are imported by now ask nobody.

    Not even a host that counts what is loaded, as `datasets` does for local files, too.
    """
    with ExitStack() as stack:
        for module, switch in SWITCHES:
            if hasattr(sys.modules.get(module), switch):
                stack.enter_context(patch.object(sys.modules[module], switch, True))
        yield


def unreachable(reason: str) -> str:
    """Return what is allowed instead of a name on the hub, for a message."""
    return (
        f"a local folder, which works without a network: {constants.ENDPOINT} cannot be reached "
        f"({reason}), and no copy has been kept on this machine"
    )
