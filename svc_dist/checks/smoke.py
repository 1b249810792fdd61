"""Load a merged model in transformers and run it once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist.checks import architecture
from svc_dist.errors import MissingExtraError, RecipeError, VerificationError
from svc_dist.storage.open import open_storage

_IDS = 8  # token ids of a forward pass
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


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
    otherwise. Runs no code of the checkpoint's. Raises VerificationError when weights are missing, do not fit, or give
    an output that is not finite; MissingExtraError, RecipeError.
    """
    try:
        import accelerate  # noqa: F401  (transformers needs it to spread a model over devices)
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"smoke needs {error.name}", "pip install 'svc-dist[check]'") from None
    path = open_storage(output).path
    if path is None:
        raise RecipeError(f"{output}: transformers loads from local folders only", "copy the model to a disk first")
    folder = str(path)
    began = time.monotonic()
    model, name = _load(folder)
    inputs, tokenizer = _inputs(model, folder, prompt)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with torch.inference_mode():
        result = model(**inputs)
        out = next(value for value in result.to_tuple() if isinstance(value, torch.Tensor))
        if not bool(out.isfinite().all()):
            raise VerificationError(
                f"{output}: {name} loads, but its output holds NaN or Inf",
                "svc-dist verify --deep looks for damage; else try a smaller lambda",
            )
        text = None
        if tokenizer is not None and model.can_generate():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
            text = tokenizer.decode(ids[0], skip_special_tokens=True)
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
            f"{folder}: transformers cannot read its config.json: {architecture.reason_of(error)}"
        ) from None
    name = str((config.architectures or ["none named"])[0])
    kind = getattr(transformers, name, None)
    if kind is None:
        raise RecipeError(f"{folder}: transformers does not know the architecture {name}", "upgrade transformers")
    model, wrong, unused = architecture.load(kind, folder, "auto")
    if wrong or unused:
        raise VerificationError(f"{folder}: {name}: {architecture.summarised(wrong + unused)}")
    return model.eval(), name


def _inputs(model: Any, folder: str, prompt: str) -> tuple[dict[str, Any], Any]:
    """Inputs for one forward pass, and the tokenizer behind them, if any."""
    import torch
    import transformers

    config = model.config
    if model.main_input_name == "input_ids":
        if not any((Path(folder) / name).exists() for name in _TOKENIZER):
            size = config.get_text_config().vocab_size
            ids = {"input_ids": torch.arange(_IDS)[None] % size}
            return (ids | {"decoder_input_ids": ids["input_ids"]} if config.is_encoder_decoder else ids), None
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **architecture.RULE)
        tokens = dict(tokenizer(prompt, return_tensors="pt"))
        if config.is_encoder_decoder:
            tokens["decoder_input_ids"] = tokens["input_ids"][:, :1]
        return tokens, tokenizer
    if model.main_input_name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        return {"pixel_values": torch.zeros(1, getattr(vision, "num_channels", 3), size, size, dtype=model.dtype)}, None
    raise RecipeError(
        f"{folder}: {type(model).__name__} loads, but smoke cannot generate its input {model.main_input_name}",
        "run the model with your own inputs",
    )
