"""What has to come from outside: a corpus, a judge, prompts; where it is put, how to get it."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.eval.saebench.plans import only, problems

pytestmark = pytest.mark.usefixtures("known")


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "bio-forget-corpus.jsonl"
    file.write_text('{"text": "cells"}\n')
    return file


def test_unlearning_needs_a_corpus_that_has_to_be_asked_for(corpus):
    line = only(problems("unlearning"))
    assert line.startswith("unlearning.corpus=None")
    assert "bio-forget-corpus.jsonl" in line
    assert "https://docs.google.com/forms/" in line and "cais/wmdp-corpora" in line
    assert problems("unlearning", options={"corpus": str(corpus)}) == []
    line = only(problems("unlearning", options={"corpus": f"{corpus}x"}))
    assert line.startswith(f"unlearning.corpus='{corpus}x'")


def test_unlearning_needs_an_instruct_model(corpus):
    given = {"corpus": str(corpus)}
    line = only(problems("unlearning", options=given, model_name="gpt2"))
    assert line.startswith(
        "unlearning.model_name='gpt2-it': must be gemma-2-2b-it or gemma-2-9b-it"
    )
    given["model_name"] = "google/gemma-2-9b-it"
    assert problems("unlearning", options=given, model_name="gemma-2-2b") == []


def test_question_ids_are_complete(corpus, tmp_path):
    given = {"corpus": str(corpus), "question_ids": str(tmp_path / "ids")}
    for n in range(45):
        file = tmp_path / "ids" / ("train", "test", "all")[n % 3] / f"{n}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert problems("unlearning", options=given) == []
    file.unlink()
    line = only(problems("unlearning", options=given))
    assert line.startswith(f"unlearning.question_ids='{tmp_path / 'ids'}'") and "45 files" in line
    assert "github.com/adamkarvonen/SAEBench" in line and "gemma-2-2b-it" in line


@pytest.fixture
def endpoint(monkeypatch):
    """An address where somebody answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_autointerp_needs_a_judge(endpoint):
    assert problems("autointerp", options={"base_url": endpoint}) == []
    assert problems("autointerp", environment={"OPENAI_BASE_URL": endpoint}) == []
    line = next(line for line in problems("autointerp") if "OPENAI_API_KEY" in line)
    assert "eval.autointerp.base_url" in line and "eval.autointerp.api_key_file" in line


def test_a_judge_that_does_not_answer(endpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    closed = f"http://127.0.0.1:{port}/v1"
    line = only(problems("autointerp", options={"base_url": closed}))
    assert line.startswith(f"autointerp.base_url='{closed}'") and "refused" in line
    assert "http://localhost:8000/v1" in only(problems("autointerp", options={"base_url": "me"}))


def test_the_key_is_never_shown(endpoint, tmp_path):
    file = tmp_path / "key"
    options = {"base_url": endpoint, "api_key_file": str(file)}
    assert "No such file" in only(problems("autointerp", options=options))
    file.write_text("sk-abc123")
    assert problems("autointerp", options=options) == []
