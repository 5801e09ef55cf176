"""What has gone wrong inside sae_bench, told in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType

CLASS_TOO_SMALL = (
    "{evaluation}: a data set has too few texts of some class for the sizes that were asked for "
    "({detail}); lower {sizes}, or use more data"
)
# By the function of sae_bench in which an error arises: what it means.
MEANINGS = {
    "filter_dataset": CLASS_TOO_SMALL,
    "get_spurious_corr_data": CLASS_TOO_SMALL,
    "gather_dataset_from_df": CLASS_TOO_SMALL,
    "get_balanced_dataset": CLASS_TOO_SMALL,
    "get_balanced_amazon_sentiment_dataset": CLASS_TOO_SMALL,
    "get_europarl_dataset": CLASS_TOO_SMALL,
    "get_github_code_dataset": CLASS_TOO_SMALL,
    "load_and_tokenize_dataset": (
        "{evaluation}: sae_bench reads five characters of the data set for each token of "
        "eval.{evaluation}.total_tokens, and these gave fewer tokens; use more or plainer text"
    ),
    "_validate_prompts_are_same_length": (
        "absorption: the tokenizer splits some words of its own vocabulary, so that the prompts "
        "differ in length; use another model, or leave absorption out of eval.evals"
    ),
    "create_icl_prompt": "absorption: the vocabulary has too few alphabetic tokens",
    "get_different_attribute_prompt": (
        "ravel: all prompts of an attribute that the model answers have the same answer ({detail})"
    ),
    "create_dataloader_from_pairs": (
        "ravel: the model answers too few prompts correctly to fill a batch; raise "
        "eval.ravel.num_pairs_per_attribute or lower eval.llm_batch_size"
    ),
    "get_official_model_name": "{evaluation}: TransformerLens does not know the model",
    "get_train_test_indices": (
        "sae_probes: a data set has too few texts of one class for even halves ({detail})"
    ),
}
SIZES = {
    "sparse_probing": (
        "eval.sparse_probing.probe_train_set_size and eval.sparse_probing.probe_test_set_size"
    ),
    "scr": "eval.scr.train_set_size and eval.scr.test_set_size",
    "tpp": "eval.tpp.train_set_size and eval.tpp.test_set_size",
}
# By the name of a class of error, of its own or an ancestor.
KINDS = {
    "OutOfMemoryError": "{evaluation}: out of memory; lower eval.llm_batch_size ({detail})",
    "MemoryError": "{evaluation}: out of memory; lower eval.llm_batch_size",
    "AuthenticationError": (
        "autointerp: the judge refuses the key (OPENAI_API_KEY or eval.autointerp.api_key_file)"
    ),
    "PermissionDeniedError": "autointerp: the judge's key may not be used for this ({detail})",
    "NotFoundError": "autointerp: the judge's endpoint has no such model or address ({detail})",
    "RateLimitError": "autointerp: the judge takes no more for now ({detail}); run it again later",
    "APITimeoutError": "autointerp: the judge does not answer in time",
    "APIConnectionError": "autointerp: nothing answers at eval.autointerp.base_url ({detail})",
    "APIStatusError": "autointerp: the judge answers with an error ({detail})",
    "GatedRepoError": "{evaluation}: the hub gives this to those who ask: log in ({detail})",
    "DatasetNotFoundError": "{evaluation}: a data set is missing ({detail})",
    "OfflineModeIsEnabled": "{evaluation}: this needs the hub, and it may not be used ({detail})",
    "HfUriError": "{evaluation}: the hub has no such name ({detail})",
}
KEY = re.compile(r"\bsk-[\w*-]+")
LONGEST = 300


def explain(evaluation: str, error: BaseException) -> str:
    """One line about an error, by where in sae_bench it has arisen or of which kind it is.

    Args:
        evaluation: one of EVALUATIONS.
        error: as it was caught, with its traceback.
    """
    detail = first_line(error)
    kinds = (KINDS[c.__name__] for c in type(error).__mro__ if c.__name__ in KINDS)
    places = (MEANINGS[f] for f in functions_of(error.__traceback__) if f in MEANINGS)
    for template in (*kinds, *places):
        sizes = SIZES.get(evaluation, "its sizes")
        return template.format(evaluation=evaluation, detail=detail, sizes=sizes)
    return f"{evaluation}: {detail}"


def functions_of(trace: TracebackType | None) -> Iterator[str]:
    """Names of the functions that an error has come through, the innermost first."""
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return reversed(names)


def first_line(error: BaseException) -> str:
    """Kind and message in one line of bounded length, without keys of an API."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return KEY.sub("sk-…", text)[:LONGEST]
