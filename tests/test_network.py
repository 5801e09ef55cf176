"""Without a network a name on the hub is refused within seconds; local folders work."""

import socket
import time
import urllib.request
from urllib.error import HTTPError

import pytest
from huggingface_hub import constants

from temporal_sae import network
from temporal_sae.activations import LanguageModel
from temporal_sae.data import HubText
from temporal_sae.errors import InvalidOption


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No host has an address, and who waits to try again fails; returns the hosts asked for."""
    asked = []

    def getaddrinfo(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    def sleep(seconds):
        raise AssertionError(f"waits for {seconds} s")

    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return asked


def load_model():
    LanguageModel("somebody/model", "blocks.0.hook_resid_post")


def load_text():
    next(HubText("somebody/texts").documents("train", 0, 0))


@pytest.mark.parametrize("load", [load_model, load_text])
def test_a_name_on_the_hub_is_refused_after_one_try(no_network, load):
    with pytest.raises(InvalidOption) as refused:
        load()
    assert refused.value.option == "name"
    told = str(refused.value)
    assert "somebody/" in told
    assert "cannot be reached (" in told
    assert "Name or service not known" in told
    assert "a local folder, which works without a network" in told
    assert no_network == ["huggingface.co"]
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("load", [load_model, load_text])
def test_who_works_offline_is_not_even_asked(no_network, monkeypatch, load):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidOption, match="HF_HUB_OFFLINE is set"):
        load()
    assert no_network == []


def test_local_folders_ask_nobody(no_network, random_gemma, tmp_path):
    LanguageModel(str(random_gemma), "blocks.1.hook_resid_post")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text('{"text": "words"}\n')
    for name in (tmp_path / "d", tmp_path / "d" / "a.jsonl"):
        source = HubText(str(name), held_out_fraction=0)
        assert [text for _, text in source.documents("train", 0, 0)] == ["words"]
    assert no_network == []


def test_an_error_page_is_an_answer(monkeypatch):
    def urlopen(request, timeout):
        assert timeout <= 5
        raise HTTPError(request.full_url, 503, "busy", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert network.why_unreachable() is None
