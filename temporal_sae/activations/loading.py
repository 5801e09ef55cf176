"""The choice of the class of transformers that reads the files of a model, and of its options."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from temporal_sae.activations.weights import stored_dtype
from temporal_sae.errors import InvalidOption, check_bool, check_choice, check_words

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2")
AUTO = "auto"  # several devices, as accelerate sees fit
QUANTIZATION = ("8bit", "4bit")
CPU = torch.device("cpu")
POOLER = "pooler."  # of an encoder, behind all layers, which most files do not hold


def devices() -> list[str]:
    """Return the names of the devices of this machine."""
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(["cuda"] if n_cuda else []), *(f"cuda:{n}" for n in range(n_cuda))]


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading a language model; see `LanguageModel`.

    Raises:
        InvalidOption: an option is not allowed, or needs what is not installed.
    """

    dtype: str = "float32"
    revision: str | None = None
    attn_implementation: str | None = None
    device_map: str | None = None
    quantization: str | None = None
    local_files_only: bool = False
    device: torch.device = CPU

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_words("revision", self.revision, null=True)
        check_bool("local_files_only", self.local_files_only)
        for option, choices in {
            "attn_implementation": ATTENTION,
            "device_map": (AUTO, *devices()),
            "quantization": QUANTIZATION,
        }.items():
            value = getattr(self, option)
            if value is not None and (not isinstance(value, str) or value not in choices):
                raise InvalidOption(option, value, f"null or one of {', '.join(choices)}")
        self._check_installed()

    def _check_installed(self) -> None:
        if self.attn_implementation == "flash_attention_2" and not find_spec("flash_attn"):
            allowed = "another one: flash_attn is not installed, and a kernel is never fetched"
            raise InvalidOption("attn_implementation", self.attn_implementation, allowed)
        if self.quantization and self.place.type != "cuda":
            allowed = f"null on {self.place}: bitsandbytes quantises for CUDA alone"
            raise InvalidOption("quantization", self.quantization, allowed)
        needed = {
            "quantization": ("bitsandbytes", "accelerate") if self.quantization else (),
            "device_map": ("accelerate",) if self.device_map == AUTO else (),
        }
        for option, packages in needed.items():
            if lacking := [package for package in packages if not find_spec(package)]:
                allowed = f"null, or first: pip install {' '.join(lacking)}"
                raise InvalidOption(option, getattr(self, option), allowed)

    @property
    def place(self) -> torch.device:
        """The device of the model, if it is on one."""
        return self.device if self.device_map in (None, AUTO) else torch.device(self.device_map)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return DTYPES[self.dtype]

    @property
    def of_files(self) -> dict[str, Any]:
        """Options that say which files are meant."""
        return {"revision": self.revision, "local_files_only": self.local_files_only}

    @property
    def placed_by_transformers(self) -> bool:
        """Return whether the weights go to their devices while they are loaded."""
        return self.device_map == AUTO or self.quantization is not None

    @property
    def of_model(self) -> dict[str, Any]:
        """Options of `from_pretrained`, besides the dtype."""
        from transformers import BitsAndBytesConfig

        found: dict[str, Any] = {**self.of_files, "trust_remote_code": False}
        if self.attn_implementation:
            found["attn_implementation"] = self.attn_implementation
        if self.placed_by_transformers:
            found["device_map"] = AUTO if self.device_map == AUTO else {"": self.place}
        if self.quantization:
            found["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=self.quantization == "8bit",
                load_in_4bit=self.quantization == "4bit",
                bnb_4bit_compute_dtype=self.torch_dtype,
            )
        return found


@dataclass
class Loaded:
    """A model as transformers has read it.

    Args:
        model: the model.
        found: what transformers says of its weights.
        mapped: they are still in their files, in the dtype that they have there.
        why_no_loss: why it does not predict the next token, in words; None where it does.
    """

    model: Any
    found: dict[str, Any]
    mapped: bool
    why_no_loss: str | None


def load_model(where: str, options: LoadOptions) -> Loaded:
    """Read a model: with its head if it predicts the next token, else without.

    Args:
        where: folder, or name on the hub.
        options: how.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options.of_files)
    why = _why_no_loss(config)
    loaded = _read(AutoModel if why else AutoModelForCausalLM, where, config, options)
    missing = loaded.found["missing_keys"]
    if not why and missing and missing <= (head := _head_of(loaded.model)):
        why = f"its files hold no head ({sorted(head)[0]})"
        loaded = _read(AutoModel, where, config, options)
    loaded.why_no_loss = why
    pooler = {name for name in loaded.found["missing_keys"] if name.startswith(POOLER)}
    if why and pooler:
        loaded.model.pooler = None  # random, and nobody asks for it
        loaded.found["missing_keys"] -= pooler
    return loaded


def _why_no_loss(config: Any) -> str | None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    causal, kind = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING, config.model_type
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(
        config, "is_decoder", not causal
    ):
        return f"{kind} is an encoder, which reads what it would have to predict"
    if causal:
        return None
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{kind} has an encoder and a decoder, which read different tokens")
    return f"{kind} has no head that predicts the next token"


def _head_of(model: Any) -> set[str]:
    """Return the names of the weights of the head."""
    head = model.get_output_embeddings()
    path = next((path for path, module in model.named_modules() if module is head), "")
    return {f"{path}.{name}" for name, _ in head.named_parameters()} if head is not None else set()


def _read(auto: Any, where: str, config: Any, options: LoadOptions) -> Loaded:
    """Load the weights as they are stored, or whole where they have to be converted at once."""
    wanted = options.torch_dtype
    if not _is_converted_at_once(auto, config, options):
        dtype = stored_dtype(where, **options.of_files)
        if dtype is not None:
            model, found = _from_files(auto, where, dtype, options)
            if not _computes_less(model, dtype, wanted):
                return Loaded(model, found, mapped=True, why_no_loss=None)
    model, found = _from_files(auto, where, wanted, options)
    return Loaded(model, found, mapped=False, why_no_loss=None)


def _from_files(
    auto: Any, where: str, dtype: torch.dtype, options: LoadOptions
) -> tuple[Any, dict[str, Any]]:
    model, found = auto.from_pretrained(
        where,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options.of_model,
    )
    for part in (model.config, model.config.get_text_config()):
        part.dtype = options.torch_dtype
    return model, found


def _computes_less(model: Any, stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Return whether numbers that the model computes while it is built lack precision.

    Gemma's scale of the embedding has the dtype that the model is built with.
    """
    kept = set(model.state_dict())
    rounded = [n for n, b in model.named_buffers() if b.dtype == stored and n not in kept]
    return bool(rounded) and torch.finfo(stored).eps > torch.finfo(wanted).eps


def _is_converted_at_once(auto: Any, config: Any, options: LoadOptions) -> bool:
    """Return whether the weights of a model cannot wait in their files.

    Some are packed or spread over devices by transformers, and some keep float32 in other dtypes.
    """
    kind = auto._model_mapping.get(type(config), None)
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    keeps = any(getattr(kind, name, None) for name in names)
    return options.placed_by_transformers or keeps or hasattr(config, "quantization_config")
