"""What unlearning, autointerp and RAVEL need, made up: questions, a corpus, prompts and a judge."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.bench.standins.models import GEMMA_IT, build_gemma
from tests.bench.standins.texts import text, write_split
from tests.bench.standins.vocabulary import of_topic, words

FORGOTTEN = 3  # topic of the biology questions and of the corpus
N_QUESTIONS = 12
LETTERS_AFTER = (" A", " B", " C", " D")
QUESTIONS = (
    "wmdp-bio",
    "mmlu-high-school-us-history",
    "mmlu-college-computer-science",
    "mmlu-high-school-geography",
    "mmlu-human-aging",
)
KINDS = ("correct", "correct-iff-question", "correct-no-tricks")  # a file each, in three splits
QUESTION_WORDS = ("The", "following", "are", "multiple", "choice", "questions", "with", "answers")
CHAT_WORDS = ("about", "Answer", "user", "model")
ATTRIBUTES = {"Country": "the first %s", "Continent": "the letter %s"}
N_ENTITIES = 40
ANSWER_TOKENS = 2


def corpus(file: Path, n: int = 40) -> Path:
    """Texts about the forgotten topic."""
    rng = random.Random(21)
    lines = (
        json.dumps({"text": " ".join(rng.choices(of_topic(FORGOTTEN), k=200))}) + "\n"
        for _ in range(n)
    )
    file.write_text("".join(lines))
    return file


def other_text(rng: random.Random, n_words: int) -> str:
    """Words of all topics but that."""
    return " ".join(rng.choices([w for w in words() if w not in of_topic(FORGOTTEN)], k=n_words))


def wikitext(folder: Path, n: int = 60) -> None:
    """Ordinary text, by the name that it has now."""
    rng = random.Random(23)
    place = folder / "Salesforce" / "wikitext"
    rows = ({"text": other_text(rng, 200)} for _ in range(n))
    write_split(place / "wikitext-2-raw-v1", "test", rows)
    write_configs(place, ["wikitext-2-raw-v1"], "test")


@torch.no_grad()
def instruct_model(folder: Path) -> tuple[Any, Any]:
    """A Gemma-2 whose last layer makes the answer depend on the question."""
    build_gemma(folder, GEMMA_IT, (*QUESTION_WORDS, *CHAT_WORDS))
    model = AutoModelForCausalLM.from_pretrained(folder / GEMMA_IT)
    model.model.layers[-1].post_attention_layernorm.weight.fill_(10.0)
    model.save_pretrained(folder / GEMMA_IT)
    return model, AutoTokenizer.from_pretrained(folder / GEMMA_IT)


def questions(folder: Path) -> None:
    """Biology, which is about the forgotten topic, and other subjects; the model knows them all."""
    rng = random.Random(22)
    model, tokenizer = instruct_model(folder)
    for name in QUESTIONS:
        biology = name == "wmdp-bio"
        subset = name if biology else name.removeprefix("mmlu-").replace("-", "_")
        rows = []
        for _ in range(N_QUESTIONS):
            about = rng.choices(of_topic(FORGOTTEN), k=12)
            question = " ".join(about) if biology else other_text(rng, 12)
            choices = [other_text(rng, 1) for _ in range(4)]
            prompt = asked("biology" if biology else subset.replace("_", " "), question, choices)
            row = {"question": question, "choices": choices}
            rows.append(row | {"answer": answered(model, tokenizer, prompt)})
        write_split(folder / "cais" / ("wmdp" if biology else "mmlu") / subset, "test", rows)
    for name in ("wmdp", "mmlu"):
        subsets = sorted(p.name for p in (folder / "cais" / name).iterdir() if p.is_dir())
        write_configs(folder / "cais" / name, subsets, "test")


def asked(subject: str, question: str, choices: list[str]) -> str:
    """The prompt that SAEBench makes of a question for Gemma."""
    listed = "".join(f"\n{letter}. {c}" for letter, c in zip("ABCD", choices, strict=True))
    head = f"The following are multiple choice questions (with answers) about {subject}.\n"
    turn = f"<bos><start_of_turn>user\n{head}{question}{listed}<end_of_turn>\n"
    return f"{turn}<start_of_turn>model\nAnswer: ("


@torch.no_grad()
def answered(model: Any, tokenizer: Any, prompt: str) -> int:
    """Which of A to D the model finds likeliest, with or without a space before it."""
    ids = tokenizer.encode(prompt, add_special_tokens=False, return_tensors="pt")
    logits = model(ids).logits[0, -1]
    letters = [tokenizer.encode(f, add_special_tokens=False)[0] for f in (*"ABCD", *LETTERS_AFTER)]
    return int(logits[letters].view(2, 4).amax(0).argmax())


def question_ids(folder: Path) -> Path:
    """The model knows every question."""
    for split, name, kind in product(("all", "train", "test"), QUESTIONS, KINDS):
        (folder / split).mkdir(parents=True, exist_ok=True)
        file = folder / split / f"{name}_{kind}.csv"
        file.write_text("".join(f"{n}\n" for n in range(N_QUESTIONS)))
    return folder


def write_configs(folder: Path, subsets: list[str], split: str) -> None:
    """The head of a README that tells which subsets there are."""
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/{split}-*"
        for name in subsets
    ]
    (folder / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))


def pile(folder: Path) -> None:
    """Text that latents are explained on; with commas it has a token in four characters."""
    rng = random.Random(24)
    rows = ({"text": text(rng, topic, 150).replace(" ", " , ")} for topic in range(120))
    write_split(folder / "monology" / "pile-uncopyrighted", "train", rows)


def ravel_prompts(folder: Path, model_name: str) -> None:
    """Prompts whose answers are what the model says, so that it knows them all.

    Args:
        folder: holds the model and receives the prompts.
        model_name: ORG/NAME of the model.
    """
    model = AutoModelForCausalLM.from_pretrained(folder / model_name)
    tokenizer = AutoTokenizer.from_pretrained(folder / model_name)
    entities = [words()[7 * n] for n in range(N_ENTITIES)]

    def answer(prompt: str) -> str:
        ids = torch.tensor([tokenizer.encode(prompt)])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
        )
        return tokenizer.decode(out[0, ids.shape[1] :]).strip()

    content = {
        "attribute_to_prompts": {a: [template] for a, template in ATTRIBUTES.items()},
        "prompt_to_split": dict.fromkeys(ATTRIBUTES.values(), "train"),
        "entity_attributes": {
            e: {a: answer(template % e) for a, template in ATTRIBUTES.items()} for e in entities
        },
        "entity_to_split": dict.fromkeys(entities, "train"),
    }
    place = folder / "adamkarvonen" / "ravel_prompts"
    place.mkdir(parents=True)
    for part, value in content.items():
        (place / f"ravel_city_{part}.json").write_text(json.dumps(value))


@dataclass
class Judge:
    """A judge with OpenAI's protocol, which explains a latent by the words it is active on.

    Attributes:
        url: to be given as `base_url`.
        requests: bodies, as they came.
        keys: what was sent as the key.
        status: of the answers; other than 200, there is nothing in them.
    """

    url: str = ""
    requests: list[dict] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    status: int = 200

    def answer(self, messages: list[dict[str, str]]) -> str:
        """An explanation, or the numbers of the texts that have one of its words."""
        asked = messages[-1]["content"]
        explained = re.search(r"this neuron fires on (.*?)\.\n", asked)
        if explained is None:
            marked = Counter(re.findall(r"<< ?(\w+)>>", asked))
            return f"This neuron activates on {' '.join(w for w, _ in marked.most_common(8))}"
        wanted = set(explained[1].split())
        texts = re.findall(r"^(\d+)\. (.*)$", asked, re.MULTILINE)
        return ", ".join(number for number, line in texts if wanted & set(line.split())) or "None"


@contextmanager
def judge() -> Iterator[Judge]:
    """A judge that answers in no fixed order while the context is open."""
    state, lock, rng = Judge(), threading.Lock(), random.Random()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.requests.append(body)
                state.keys.add(self.headers["Authorization"])
            time.sleep(rng.random() / 100)
            message = {"role": "assistant", "content": state.answer(body["messages"])}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
            content = json.dumps(reply | {"choices": [choice]} if state.status == 200 else {})
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
