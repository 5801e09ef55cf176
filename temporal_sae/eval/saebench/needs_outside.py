"""What unlearning, autointerp, RAVEL and sae-probes need that cannot come with the package."""

from __future__ import annotations

import difflib
import json
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from temporal_sae.errors import InvalidOption, RunError, check_number
from temporal_sae.eval.saebench.needs_install import official_name

Problem = InvalidOption | RunError

CORPUS = "bio-forget-corpus.jsonl"
FORM = (
    "https://docs.google.com/forms/d/e/"
    "1FAIpQLSdnQc8Qn0ozSDu3VE8HLoHPvhpukX1t1dIwE5K5rJw9lnOjKw/viewform"
)
INSTRUCT_MODELS = ("gemma-2-2b-it", "gemma-2-9b-it")  # whose prompts SAEBench knows
QUESTIONS = (
    "wmdp-bio",
    "mmlu-high-school-us-history",
    "mmlu-college-computer-science",
    "mmlu-high-school-geography",
    "mmlu-human-aging",
)
QUESTION_SPLITS = ("all", "train", "test")
QUESTION_KINDS = ("correct", "correct-iff-question", "correct-no-tricks")
SHIPPED = "https://github.com/adamkarvonen/SAEBench/tree/main/artifacts/unlearning"

OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
ANSWERS_WITHIN = 5.0  # seconds
SHORTEST_WINDOW = 21

RAVEL_DATA = "adamkarvonen/ravel_prompts"
RAVEL_FAMILIES = ("gemma-2-", "pythia", "gpt-neox")  # whose layers sae_bench finds
RAVEL_PARTS = ("attribute_to_prompts", "entity_attributes", "entity_to_split", "prompt_to_split")


def instruct_model(model_name: str, options: Mapping[str, Any]) -> str:
    """The model that answers unlearning's questions: MODEL-it where none is named."""
    name: str = options.get("model_name") or model_name
    return name if name.endswith("-it") else f"{name}-it"


def question_files() -> list[str]:
    """Paths below the folder of question ids; where one is missing the model is asked again."""
    return [
        f"{split}/{questions}_{kind}.csv"
        for split in QUESTION_SPLITS
        for questions in QUESTIONS
        for kind in QUESTION_KINDS
    ]


def unlearning_problems(
    model_name: str, options: Mapping[str, Any], known: bool = True
) -> Iterator[Problem]:
    """The instruct model, the corpus that has to be asked for, and the questions.

    Args:
        model_name: that the SAE belongs to.
        options: of the evaluation.
        known: whether TransformerLens knows the model; nothing more is said of it otherwise.
    """
    instruct = instruct_model(model_name, options)
    if instruct.split("/")[-1] not in INSTRUCT_MODELS and (known or options.get("model_name")):
        yield InvalidOption(
            "unlearning.model_name",
            options.get("model_name") or instruct,
            f"{' or '.join(INSTRUCT_MODELS)}, whose prompts SAEBench knows, and of the same family "
            f"as the SAE's model {model_name}",
        )
    yield from corpus_problems(options.get("corpus"))
    yield from question_problems(options.get("question_ids"), instruct)
    thresholds = options.get("retain_thresholds") or ()
    if any("e" in str(threshold) for threshold in thresholds):
        yield InvalidOption(
            "unlearning.retain_thresholds",
            list(thresholds),
            "numbers from 0.0001, since SAEBench writes smaller ones into names of files that it "
            "cannot read back",
        )


def corpus_problems(corpus: str | None) -> Iterator[InvalidOption]:
    """A file of JSON lines with a `text` each."""
    how = (
        f"the path of {CORPUS}, given out on request only: ask for it at {FORM} (about it: "
        "https://huggingface.co/datasets/cais/wmdp-corpora)"
    )
    if not corpus:
        yield InvalidOption("unlearning.corpus", corpus, how)
        return
    try:
        with Path(corpus).expanduser().open() as file:
            first = json.loads(file.readline())["text"]
    except OSError:
        yield InvalidOption("unlearning.corpus", corpus, f"{how}; there is no such file")
    except (ValueError, LookupError, TypeError):
        yield InvalidOption("unlearning.corpus", corpus, 'a file of lines such as {"text": "…"}')
    else:
        if not isinstance(first, str):
            yield InvalidOption("unlearning.corpus", corpus, "texts by the name of text")


def question_problems(folder: str | None, instruct: str) -> Iterator[InvalidOption]:
    """The ids, in a folder as SAEBench's repository has it; without one the model is asked."""
    if not folder:
        return
    missing = [f for f in question_files() if not (Path(folder).expanduser() / f).is_file()]
    if missing:
        yield InvalidOption(
            "unlearning.question_ids",
            folder,
            f"null (then {instruct} is asked, which takes 20 minutes on a card), or a copy of "
            f"{SHIPPED}/{instruct.split('/')[-1]}/data/question_ids, which the package leaves out; "
            f"{missing[0]} is missing" + (f" ({len(missing)} files are)" * (len(missing) > 1)),
        )


def autointerp_problems(
    options: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[Problem]:
    """A judge that answers, the key for it, and windows that examples fit into."""
    yield from wrong_number("autointerp.temperature", options.get("temperature"))
    context = options.get("llm_context_size", SHORTEST_WINDOW)
    if context < SHORTEST_WINDOW:
        yield InvalidOption(
            "autointerp.llm_context_size",
            context,
            f"at least {SHORTEST_WINDOW}: an example is a token with ten on either side",
        )
    url = judge_url(options, environment)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield InvalidOption(
            "autointerp.base_url", url, "the address of an API such as http://localhost:8000/v1"
        )
        return
    try:
        key = judge_key(options, environment)
    except OSError as error:
        yield InvalidOption(
            "autointerp.api_key_file",
            options["api_key_file"],
            f"a file that can be read ({error.strerror})",
        )
    else:
        if not key and url == OPENAI:
            yield RunError(
                "autointerp: a language model judges the latents, by default OpenAI's, and there "
                f"is no key: set {KEY_VARIABLE}, or eval.autointerp.api_key_file, or "
                "eval.autointerp.base_url for another endpoint with OpenAI's protocol (vLLM, "
                "llama.cpp, Ollama; no key needed)"
            )
    if reason := silence(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)):
        yield InvalidOption(
            "autointerp.base_url", url, f"an endpoint that answers, and this one does not: {reason}"
        )


def wrong_number(option: str, value: Any) -> Iterator[InvalidOption]:
    """The value is neither null nor a number that is not negative."""
    try:
        check_number(option, 0 if value is None else value)
    except InvalidOption as error:
        yield error


def judge_url(options: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Where the judge is: the option, the variable of OpenAI's library, or OpenAI."""
    return str(options.get("base_url") or environment.get(URL_VARIABLE) or OPENAI).rstrip("/")


def judge_key(options: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The key, which no config and no log ever holds; empty if there is none."""
    file = options.get("api_key_file")
    return (
        Path(file).expanduser().read_text().strip() if file else environment.get(KEY_VARIABLE, "")
    )


def silence(host: str, port: int) -> str:
    """Why nothing answers at an address; empty if something does, or a proxy is in between."""
    if urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return ""
    try:
        socket.create_connection((host, port), timeout=ANSWERS_WITHIN).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def ravel_problems(
    model_name: str, options: Mapping[str, Any], data_folder: Path | None, known: bool = True
) -> Iterator[Problem]:
    """A model whose layers sae_bench finds, classes with two attributes, and their prompts.

    Args:
        model_name, options, known: as for `unlearning_problems`.
        data_folder: may hold the prompts.
    """
    official = official_name(model_name).lower()
    if known and not any(family in official for family in RAVEL_FAMILIES):
        yield RunError(
            f"ravel: SAEBench finds the layers of Gemma-2 and of Pythia, not of {model_name}; "
            "leave ravel out of eval.evals"
        )
    selection = options.get("entity_attribute_selection") or {}
    local = data_folder / RAVEL_DATA if data_folder else None
    for entity, attributes in selection.items():
        if isinstance(attributes, str) or len(attributes) < 2:
            yield InvalidOption(
                f"ravel.entity_attribute_selection.{entity}",
                attributes,
                "at least two attributes, since one is tested against the others",
            )
        elif local is not None and local.is_dir():
            yield from prompt_problems(entity, attributes, local)


def prompt_problems(entity: str, attributes: Sequence[str], folder: Path) -> Iterator[Problem]:
    """The files of one class of entities, and the attributes in them."""
    files = {part: folder / f"ravel_{entity}_{part}.json" for part in RAVEL_PARTS}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        yield RunError(f"ravel: {folder} has no {', '.join(missing)} for the entities '{entity}'")
        return
    known = json.loads(files["attribute_to_prompts"].read_text())
    for attribute in attributes:
        if attribute not in known:
            yield InvalidOption(
                f"ravel.entity_attribute_selection.{entity}",
                attribute,
                f"one of {', '.join(known)}",
            )


def sae_probes_problems(options: Mapping[str, Any]) -> Iterator[InvalidOption]:
    """Names of data sets that the sae_probes package has."""
    known, names = probing_data(), options.get("dataset_names") or ()
    for name in [names] if isinstance(names, str) else names:
        if known and name not in known:
            near = difflib.get_close_matches(str(name), known, 3, cutoff=0)
            yield InvalidOption(
                "sae_probes.dataset_names",
                name,
                f"one of the {len(known)} data sets of sae_probes, the nearest being "
                f"{', '.join(near)}",
            )


def probing_data() -> list[str]:
    """Data sets with two classes in the sae_probes package; none if it is not installed."""
    spec = find_spec("sae_probes")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        table = Path(folder) / "data" / "probing_datasets_MASTER.csv.zst"
        if table.is_file():
            from pyarrow import csv, input_stream  # part of datasets

            with input_stream(str(table), compression="zstd") as stream:
                rows = csv.read_csv(stream).to_pylist()
            return [
                Path(row["Dataset save name"]).name.split(".")[0]
                for row in rows
                if row["Data type"] == "Binary Classification"
            ]
    return []
