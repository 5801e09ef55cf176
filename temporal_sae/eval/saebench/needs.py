"""Early refusal: what a person has to put right before SAEBench can run, everything at once.

Only what people meet is looked for. Whatever else goes wrong is the failure of one evaluation,
told in one line, and the others run. Nothing of the extra is imported into this process.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.network import why_silent

Problem = InvalidOption | RunError
Options = Mapping[str, Any]

INSTALL = 'pip install -e ".[bench]"'
# Asked in another process: the import takes seconds, and one that fails leaves pieces behind.
PROBE = """
import json, sae_bench, sae_lens
from transformer_lens.loading_from_pretrained import MODEL_ALIASES, OFFICIAL_MODEL_NAMES
print(); print(json.dumps({name: MODEL_ALIASES.get(name, []) for name in OFFICIAL_MODEL_NAMES}))
"""
HOOK = re.compile(r"blocks\.\d+\.hook_resid_(pre|post)")
AFTER_A_LAYER = ("absorption", "ravel")  # read hook_resid_post whatever the SAE's hook is
COUNTS = ("k_values", "n_values", "max_k_value", "n_features_list", "ks")  # options: of latents

REPOSITORIES = {  # data sets that have no option
    "unlearning": ("Salesforce/wikitext", "cais/wmdp", "cais/mmlu"),
    "ravel": ("adamkarvonen/ravel_prompts",),
}
STREAMED = ("codeparrot/github-code", "Helsinki-NLP/europarl")

CORPUS = "bio-forget-corpus.jsonl"
ON_REQUEST = (
    "given out on request only: ask for it at https://docs.google.com/forms/d/e/"
    "1FAIpQLSdnQc8Qn0ozSDu3VE8HLoHPvhpukX1t1dIwE5K5rJw9lnOjKw/viewform (about it: "
    "https://huggingface.co/datasets/cais/wmdp-corpora)"
)
INSTRUCT_MODELS = ("gemma-2-2b-it", "gemma-2-9b-it")  # whose prompts SAEBench knows
QUESTION_FILES = 45  # three splits and three kinds of five subjects
SHIPPED = "https://github.com/adamkarvonen/SAEBench/tree/main/artifacts/unlearning"

OPENAI = "https://api.openai.com/v1"


def check(
    options: Mapping[str, Options],
    *,
    model_name: str,
    hook_name: str,
    d_in: int,
    d_sae: int,
    tokenizer: Any,
    data_folder: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse what could not be evaluated; `options` are those of each evaluation that will run.

    Raises:
        InvalidOption: one option is wrong; its name is relative to the group `eval`.
        RunError: something else is missing, or several things are, a line each.
    """
    problems: list[Problem] = [*_installation(model_name), *_hook(hook_name, options)]
    for name, given in options.items():
        problems += _counts(name, given, d_sae, d_in)
        problems += _data(name, given, data_folder, environment)
        if name == "absorption":
            problems += _prompts(tokenizer, given)
        elif name == "unlearning":
            problems += _unlearning(model_name, given)
        elif name == "autointerp":
            problems += _judge(given, environment)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        told = (p.within("eval") if isinstance(p, InvalidOption) else p for p in problems)
        lines = [f"  {n}. {problem}" for n, problem in enumerate(told, start=1)]
        raise RunError("\n".join([f"SAEBench needs {len(problems)} things:", *lines]))


def _installation(model_name: str) -> Iterator[Problem]:
    """The extra is missing or breaks, the Python is too new, or TransformerLens lacks the model."""
    if sys.version_info[:2] >= (3, 13):
        yield RunError(
            f"SAEBench needs Python 3.11 or 3.12, and this is 3.{sys.version_info[1]}: sae-bench "
            "needs numpy < 2, which Python 3.13 has no builds of. Make an environment with Python "
            f"3.12 and run there: {INSTALL}"
        )
    elif find_spec("sae_bench") is None:
        yield RunError(
            f"SAEBench is not installed; run: {INSTALL} (an extra because sae-bench needs Python "
            "<= 3.12 and numpy < 2, and brings a gigabyte of packages)"
        )
    elif isinstance(probed := probe(), str):
        yield RunError(
            f"SAEBench cannot be imported ({probed}); where torchvision is of another build than "
            f"torch, run: pip uninstall torchvision, which it never uses; otherwise: {INSTALL}"
        )
    elif model_name.lower() not in probed:
        near = difflib.get_close_matches(model_name.split("/")[-1].lower(), probed, 3, cutoff=0)
        known, names = set(probed.values()), dict.fromkeys(probed[name] for name in near)
        allowed = f"one of the {len(known)} models that TransformerLens knows, the nearest being "
        hint = "(eval=tasks asks similar questions of any model)"
        yield InvalidOption("model_name", model_name, f"{allowed}{', '.join(names)} {hint}")


@cache
def probe() -> dict[str, str] | str:
    """Return TransformerLens's hub names by lower-case name or alias; or why it has no answer."""
    environment = {**os.environ, "JAXTYPING_DISABLE": "1"}
    asked = [sys.executable, "-c", PROBE]
    tried = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    if tried.returncode:
        return (tried.stderr.strip().splitlines() or ["its import ends the process"])[-1]
    names = json.loads(tried.stdout.splitlines()[-1])
    return {a.lower(): name for name, aliases in names.items() for a in (name, *aliases)}


def _hook(name: str, evaluations: Mapping[str, Any]) -> Iterator[RunError]:
    """TransformerLens has no module paths, and two evaluations look behind a layer only."""
    behind = [evaluation for evaluation in AFTER_A_LAYER if evaluation in evaluations]
    if not HOOK.fullmatch(name) or (name.endswith("pre") and behind):
        also = f"for {' and '.join(behind)}" if behind else "or blocks.L.hook_resid_pre"
        yield RunError(
            f"model.hook_name={name!r}: must be blocks.L.hook_resid_post {also} for SAEBench, "
            "which reads activations by the names of TransformerLens"
        )


def _counts(evaluation: str, options: Options, d_sae: int, d_in: int) -> Iterator[InvalidOption]:
    """There are fewer latents than an option asks for, or channels, of which k_values takes too."""
    for option in (o for o in COUNTS if o in options):
        channels = {d_in: "the width of the model"} if option == "k_values" else {}
        limits = {d_sae: "d_sae", **channels}
        given, most = options[option], min(limits)
        if max(given if isinstance(given, Sequence) else [given]) > most:
            allowed = f"at most {most} ({limits[most]}) in every entry"
            yield InvalidOption(f"{evaluation}.{option}", given, allowed)


def data_sets(evaluation: str, options: Options) -> list[str]:
    """Return the names of the data sets that an evaluation reads."""
    labelled = () if evaluation == "sae_probes" else options.get("dataset_names") or ()
    several = [name.split("_class_set")[0].removesuffix("_sentiment") for name in labelled]
    names = [*REPOSITORIES.get(evaluation, ()), *_streamed(options), *several]
    return [name for name in dict.fromkeys(names) if name]


def _streamed(options: Options) -> list[Any]:
    return [options.get("dataset"), options.get("dataset_name")]


def _data(
    evaluation: str, options: Options, folder: Path | None, environment: Mapping[str, str]
) -> Iterator[RunError]:
    """Data sets are not where they would be read, and nothing is fetched."""
    if folder is not None:
        if missing := [n for n in data_sets(evaluation, options) if not (folder / n).is_dir()]:
            yield RunError(
                f"{evaluation}: eval.data_folder={str(folder)!r} has no {', '.join(missing)}, and "
                "with it nothing is taken from the hub; put a copy of each there (hf download "
                f"--repo-type dataset {missing[0]} --local-dir {folder / missing[0]})"
            )
    elif environment.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        # A filled cache serves those that are not streamed.
        names = [*_streamed(options), *(n for n in data_sets(evaluation, options) if n in STREAMED)]
        if wanted := [name for name in names if name and not Path(name).is_absolute()]:
            yield RunError(
                f"{evaluation}: {', '.join(wanted)} is streamed from the hub, which HF_HUB_OFFLINE "
                "forbids; put a copy into a folder as ORG/NAME and give it as eval.data_folder"
            )


def _prompts(tokenizer: Any, options: Options) -> Iterator[InvalidOption]:
    """Absorption reads the activation at a fixed position, and takes any token that is there."""
    template, given = options["prompt_template"], options["prompt_token_pos"]
    whole, word = (
        len(tokenizer.encode(text, add_special_tokens=False))
        for text in (template.replace("{word}", "a"), "a")
    )
    if given != word - whole - 1:
        allowed = f"{word - whole - 1}, where this tokenizer puts the word of {template!r}"
        yield InvalidOption("absorption.prompt_token_pos", given, allowed)


def instruct_model(model_name: str, options: Options) -> str:
    """Return the model that answers unlearning's questions: MODEL-it where none is named."""
    name: str = options["model_name"] or model_name
    return name if name.endswith("-it") else f"{name}-it"


def _unlearning(model_name: str, options: Options) -> Iterator[InvalidOption]:
    """Yield the instruct model, the corpus that has to be asked for, and the questions."""
    instruct = instruct_model(model_name, options)
    corpus, questions = options["corpus"], options["question_ids"]
    if instruct.split("/")[-1] not in INSTRUCT_MODELS:
        allowed = f"{' or '.join(INSTRUCT_MODELS)}, whose prompts SAEBench knows, and of the family"
        given = options["model_name"] or instruct
        yield InvalidOption("unlearning.model_name", given, f"{allowed} of {model_name}")
    if not corpus or not Path(corpus).expanduser().is_file():
        yield InvalidOption("unlearning.corpus", corpus, f"the path of {CORPUS}, {ON_REQUEST}")
    if questions and len(question_files(Path(questions).expanduser())) != QUESTION_FILES:
        allowed = (
            f"null (then {instruct} is asked, which takes 20 minutes on a card), or a folder with "
            f"the {QUESTION_FILES} files of {SHIPPED}/{instruct.split('/')[-1]}/data/question_ids"
        )
        yield InvalidOption("unlearning.question_ids", questions, allowed)


def question_files(folder: Path) -> list[Path]:
    """Return the files of question ids below a folder, as SAEBench lays them out."""
    return sorted(folder.glob("*/*.csv"))


def judge_of(options: Options, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the judge's address and key, which no config and no log ever holds; "" for no key."""
    url = options["base_url"] or environment.get("OPENAI_BASE_URL") or OPENAI
    file = options["api_key_file"]
    key = Path(file).expanduser().read_text() if file else environment.get("OPENAI_API_KEY", "")
    return url.rstrip("/"), key.strip()


def _judge(options: Options, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Autointerp asks a judge, who has to answer, and the key for it."""
    try:
        url, key = judge_of(options, environment)
    except OSError as error:
        allowed = f"a file that can be read ({error.strerror})"
        yield InvalidOption("autointerp.api_key_file", options["api_key_file"], allowed)
        return
    if not key and url == OPENAI:
        yield RunError(
            "autointerp: a language model judges the latents, by default OpenAI's, and there is no "
            "key: set OPENAI_API_KEY, or eval.autointerp.api_key_file, or eval.autointerp.base_url "
            "for another endpoint with OpenAI's protocol (vLLM, llama.cpp, Ollama; no key needed)"
        )
    is_address = url.startswith(("http://", "https://"))
    if reason := why_silent(url) if is_address else "this is no address":
        allowed = f"an endpoint such as http://localhost:8000/v1 that answers ({reason})"
        yield InvalidOption("autointerp.base_url", url, allowed)
