"""Rows over a network that fails, is silent, or refuses: tried again, and never for ever."""

import threading
import time

import pytest
import requests
from datasets import IterableDataset

from temporal_sae import network
from temporal_sae.data import HubText, patience
from temporal_sae.errors import InvalidOption, RunError

ROWS = [f"document {n}" for n in range(20)]


@pytest.fixture
def hub(monkeypatch):
    """A hub whose rows come as `answer(number, how often it was asked for)` lets them."""

    def serve(answer):
        asked = [0] * len(ROWS)

        def rows():
            for number, text in enumerate(ROWS):
                asked[number] += 1
                answer(number, asked[number])
                yield {"text": text}

        served = IterableDataset.from_generator(rows)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: served)
        monkeypatch.setattr(network, "why_unreachable", lambda: None)
        monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)

    return serve


def read(start=0, **options):
    source = HubText("somebody/texts", held_out_fraction=0, **options)
    return [text for _, text in source.documents("train", 0, 0, start)]


def status(number):
    error = requests.HTTPError(f"answer {number}")
    error.response = requests.Response()
    error.response.status_code = number
    return error


@pytest.mark.parametrize("failure", [ConnectionError(), TimeoutError(), status(503), status(429)])
@pytest.mark.parametrize("start", [0, 5])
def test_rows_are_all_there_once_although_the_connection_fails(hub, caplog, failure, start):
    def answer(number, times):
        if number in (7, 13) and times <= 3:
            raise failure

    hub(answer)
    assert read(start) == ROWS[start:]
    told = "data.name=somebody/texts: item 8 does not come ("
    assert sum(message.startswith(told) for message in caplog.messages) == 3


def test_pauses_grow_and_end(hub, monkeypatch):
    pauses = []
    now = [0.0]

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    def answer(number, times):
        if number == 3:
            raise ConnectionError("gone")

    hub(answer)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 1)
    monkeypatch.setattr(patience.time, "sleep", sleep)
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    with pytest.raises(RunError, match=r"somebody/texts: row 4 of train cannot be read \(gone\)"):
        read(patience=300)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("error", [status(404), status(401), ValueError("bad"), OSError("disk")])
def test_what_no_try_can_mend_is_told_at_once(hub, caplog, error):
    def answer(number, times):
        if number == 3:
            raise error

    hub(answer)
    with pytest.raises(RunError, match="row 4 of train cannot be read"):
        read(patience=0.1)
    assert caplog.messages == []


def test_a_host_that_says_nothing_is_not_waited_for(hub):
    silence = threading.Event()
    hub(lambda number, _: silence.wait(30) if number == 3 else None)
    began = time.monotonic()
    with pytest.raises(RunError, match=r"row 4 of train cannot be read \(nothing has come for 0.3"):
        read(patience=0.3)
    assert time.monotonic() - began < 20
    silence.set()


def test_a_data_set_that_cannot_be_opened_in_time_is_refused(hub, monkeypatch):
    hub(lambda *_: None)
    silence = threading.Event()
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: silence.wait(30))
    with pytest.raises(InvalidOption, match=r"name='somebody/texts'.*nothing has come for 0.3 s"):
        read(patience=0.3)
    silence.set()


def test_no_thread_is_left_behind(hub):
    hub(lambda *_: None)
    before = threading.active_count()
    for _ in range(5):
        assert read() == ROWS
    time.sleep(0.2)
    assert threading.active_count() <= before
