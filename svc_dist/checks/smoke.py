"""Load a merged model in transformers and run it once."""

from __future__ import annotations

import inspect
import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.foreign import missing_folder
from svc_dist.checkpoint.weight_files import ADAPTER
from svc_dist.checks import architecture
from svc_dist.checks.made_inputs import attempts
from svc_dist.errors import MissingExtraError, RecipeError, ResourceError, VerificationError, require_extra
from svc_dist.storage.hub.locate import locate_here
from svc_dist.storage.open import open_storage

_log = logging.getLogger("svc_dist")
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_FROM_TOKENIZER = {"input_ids", "attention_mask", "token_type_ids", "decoder_input_ids"}


@dataclass(frozen=True)
class Smoke:
    """A loaded model, the shape of its output and, where it can generate, the ``generated`` text."""

    architecture: str
    dtype: str
    devices: tuple[str, ...]
    seconds: float
    generated: str | None
    shape: tuple[int, ...]

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"{self.architecture} in {self.dtype} on {', '.join(self.devices)}: loads, with every weight in its place",
            f"output {list(self.shape)}, finite; {self.seconds:.1f} s in total",
        ]
        return "\n".join([*lines, f"generates: {self.generated}"] if self.generated is not None else lines)


def smoke(output: str, prompt: str = "The capital of France is", tokens: int = 16) -> Smoke:
    """Load a model by the architecture in its config, spread over the available devices, and run it once.

    Greedy generation of ``tokens`` from ``prompt`` where it has a tokenizer and can generate, one forward pass
    otherwise, on inputs made from its config. Runs no code of the checkpoint's. Raises VerificationError when weights
    are missing, do not fit, or give an output that is not finite; RecipeError where no inputs can be made;
    MissingExtraError, ResourceError.
    """
    require_extra("check", "smoke", "accelerate", "transformers")  # accelerate spreads a model over devices
    output = locate_here(output)
    path = open_storage(output).path
    if path is None:
        raise RecipeError(f"{output}: transformers loads from local folders only", "copy the model to a disk first")
    if (missing := missing_folder(open_storage(output))) is not None:
        raise missing
    if (path / ADAPTER.index).exists() and not (path / "config.json").exists():
        raise RecipeError(
            f"{output}: an adapter, and smoke loads whole models",
            "svc-dist verify checks it; PeftModel.from_pretrained(base, path) loads it",
        )
    folder = str(path)
    began = time.monotonic()
    model, name = _load(folder)
    tokenizer = _tokenizer(folder) if "input_ids" in inspect.signature(model.forward).parameters else None
    inputs, out = _run(model, folder, tokenizer, prompt)
    if not bool(out.isfinite().all()):
        raise VerificationError(
            f"{output}: {name} loads, but its output holds NaN or Inf",
            "svc-dist verify --deep looks for damage; else try a smaller lambda",
        )
    text = _generated(model, tokenizer, inputs, tokens) if tokenizer is not None else None
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    seconds = time.monotonic() - began
    return Smoke(name, str(model.dtype).removeprefix("torch."), tuple(devices), seconds, text, tuple(out.shape))


def _load(folder: str) -> tuple[Any, str]:
    """The model and the name of its architecture."""
    import transformers

    try:
        config = architecture.read_config(folder)
    except (OSError, ValueError) as error:
        raise VerificationError(
            f"{folder}: transformers cannot read its config.json: {architecture.reason_of(error)}",
            "svc-dist verify says whether the model is whole; else restore config.json from the base",
        ) from None
    name = str((config.architectures or ["none named"])[0])
    kind = getattr(transformers, name, None)
    if kind is None:
        raise RecipeError(f"{folder}: transformers does not know the architecture {name}", "upgrade transformers")
    try:
        model, wrong, unused = architecture.load(kind, folder, "auto")
    except ImportError as error:  # a package that this architecture alone needs
        reason = architecture.reason_of(error)
        raise MissingExtraError(f"{folder}: transformers cannot load {name}: {reason}", "install the package") from None
    except Exception as error:  # whatever a library raises on a model that it cannot load
        _raise_out_of_memory(error, name)
        raise VerificationError(
            f"{folder}: transformers cannot load {name}: {architecture.reason_of(error)}",
            "svc-dist verify says whether the model is whole; load it with your own code to see more",
        ) from None
    if wrong or unused:
        raise VerificationError(
            f"{folder}: {name}: {architecture.summarised(wrong + unused)}",
            "svc-dist verify says which tensors differ from the base; see whether the base itself loads",
        )
    return model.eval(), name


def _tokenizer(folder: str) -> Any:
    """The model's tokenizer; None where it has none, or one that cannot be loaded here."""
    import transformers

    if not any((Path(folder) / name).exists() for name in _TOKENIZER):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, **architecture.RULE)
    except Exception as error:  # whatever a library raises: a package is missing, a kind is unknown
        _log.warning(
            f"warning: the tokenizer of {folder} cannot be loaded ({architecture.reason_of(error)}): smoke makes up "
            "token ids"
        )
        return None


def _run(model: Any, folder: str, tokenizer: Any, prompt: str) -> tuple[dict[str, Any], Any]:
    """Inputs that the model takes, and its first output of floats."""
    import torch

    reasons: list[str] = []
    for made in itertools.chain(_from_prompt(model, tokenizer, prompt), attempts(model)):
        inputs = {name: value.to(model.device) for name, value in made.items()}
        try:
            with torch.inference_mode():
                result = model(**inputs)
        except Exception as error:  # whatever a model raises on inputs that it does not take
            _raise_out_of_memory(error, type(model).__name__)
            reasons.append(f"{', '.join(inputs)}: {architecture.reason_of(error)}")
            continue
        out = next(filter(torch.is_floating_point, _tensors(result)), None)
        if out is not None:
            return inputs, out
        reasons.append(f"{', '.join(inputs)}: the output holds no numbers")
    tried = f" (tried {len(reasons)}; the first: {reasons[0]})" if reasons else ""
    raise RecipeError(
        f"{folder}: {type(model).__name__} loads, but smoke cannot generate its input {model.main_input_name}{tried}",
        "run the model with your own inputs",
    )


def _from_prompt(model: Any, tokenizer: Any, prompt: str) -> Iterator[dict[str, Any]]:
    """The prompt as the tokenizer's inputs, where there is one."""
    if tokenizer is None:
        return
    try:
        tokens = dict(tokenizer(prompt, return_tensors="pt"))
    except Exception as error:  # whatever a library raises on a tokenizer that is not whole
        _log.warning(f"warning: the tokenizer cannot read the prompt: {architecture.reason_of(error)}")
        return
    taken = inspect.signature(model.forward).parameters
    tokens = {name: value for name, value in tokens.items() if name in taken}
    if model.config.is_encoder_decoder:
        tokens["decoder_input_ids"] = tokens["input_ids"][:, :1]
    yield tokens


def _generated(model: Any, tokenizer: Any, inputs: dict[str, Any], tokens: int) -> str | None:
    """The text that the model continues its inputs with; None where it cannot generate from them."""
    import torch

    if not model.can_generate() or set(inputs) - _FROM_TOKENIZER:
        return None
    try:
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        return str(tokenizer.decode(ids[0], skip_special_tokens=True))
    except Exception as error:  # whatever a library raises: some models generate with more inputs, or by other means
        _raise_out_of_memory(error, type(model).__name__)
        _log.warning(f"warning: the model runs, but does not generate: {architecture.reason_of(error)}")
        return None


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors in an output, at any depth."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _raise_out_of_memory(error: Exception, name: str) -> None:
    """Raise ResourceError when a model is too large for this machine."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        raise ResourceError(f"{name} needs more memory than there is", "run smoke on a larger machine") from None
