"""One model of a merge, and its adapter, under the names that alias groups give their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import printable
from svc_dist.plan.tensors.copies import same_sample
from svc_dist.storage.access import Access
from svc_dist.storage.reading import Source


class TiedModel:
    """A model (``tensors`` is None for an adapter alone) whose names ``join`` and ``separate`` change.

    ``number``, ``adapter_number``: of the inputs that its tensors and those of its adapter are read from.
    """

    def __init__(self, opened: OpenedModel, number: int, adapter_number: int, access: Access) -> None:
        self.location = opened.location
        self.number, self.adapter_number = number, adapter_number
        self._opened, self._access = opened, access
        self.tensors = None if opened.model is None else dict(opened.model.tensors)
        self._pairs = {} if opened.adapter is None else dict(opened.adapter.pairs)
        self._saved = {} if opened.adapter is None else dict(opened.adapter.saved)

    def stored(self, names: Sequence[str]) -> list[str]:
        """Those of the names that the model itself stores."""
        return [name for name in names if name in (self.tensors or {})]

    def shapes(self, names: Sequence[str]) -> int:
        """How many shapes the model's tensors of these names have."""
        return len({spec.shape for name, spec in (self.tensors or {}).items() if name in names})

    def differing(self, names: Sequence[str]) -> tuple[str, str] | None:
        """Two of these tensors that the model itself stores and whose samples differ."""
        model, stored = self._opened.model, self.stored(names)
        if model is None or self.tensors is None or len(stored) < 2:
            return None
        source, first = Source(model.location, model.files, self._access), self.tensors[stored[0]]
        others = (name for name in stored[1:] if not same_sample(source, first, model.tensors[name]))
        return next(((stored[0], name) for name in others), None)

    def separates(self, shared: Sequence[str], head: str) -> str | None:
        """What the adapter does that leaves head and embedding two tensors; None where they stay one.

        ``ensure_weight_tying`` is PEFT's promise that both were trained as one; a saved module is a copy of its own.
        """
        adapter, names = self._opened.adapter, (*shared, head)
        if adapter is None or not any(name in self._pairs or name in self._saved for name in names):
            return None
        saved = [name for name in names if name in self._saved]
        if len(saved) > 1 and not self._same_saved(saved):
            return f"saves {saved[0]} and {saved[-1]} as two different tensors"
        if adapter.config.ensure_weight_tying:
            return None
        if head in self._pairs:
            return f"is LoRA on {printable(head)}, which is also the embedding of the base"
        if len(saved) == 1 and adapter.config.saves_module(saved[0]):
            return f"saves {printable(saved[0])} alone (modules_to_save), which is both embedding and head of the base"
        return None

    def trains_embedding_alone(self, shared: Sequence[str]) -> bool:
        """Whether the adapter is LoRA on the embedding, and was trained without the head's being tied to that."""
        adapter = self._opened.adapter
        return (
            adapter is not None
            and not adapter.config.ensure_weight_tying
            and any(name in self._pairs for name in shared)
        )

    def twice_trained(self, names: Sequence[str]) -> tuple[str, str] | None:
        """Two of these names that the adapter changes in different ways."""
        adapter = self._opened.adapter
        if adapter is None:
            return None
        trained, saved = ([name for name in names if name in held] for held in (self._pairs, self._saved))
        if len(trained) > 1 and not adapter.config.ensure_weight_tying:
            return trained[0], trained[1]
        return (saved[0], saved[-1]) if len(saved) > 1 and not self._same_saved(saved) else None

    def join(self, lead: str, others: Sequence[str]) -> Iterator[tuple[int, TensorSpec]]:
        """Have the name ``lead`` for all; yield the copies that must equal it, each with the number of its input."""
        for tensors, number in ((self.tensors or {}, self.number), (self._saved, self.adapter_number)):
            for name in others:
                spec = tensors.pop(name, None)
                if spec is not None and lead in tensors:
                    yield number, spec
                elif spec is not None:
                    tensors[lead] = structs.replace(spec, name=lead)
        for name in others:
            if name in self._pairs:
                pairs = self._pairs.pop(name)
                self._pairs.setdefault(lead, pairs)

    def drop(self, name: str) -> None:
        """Leave out a tensor, and what the adapter has for it."""
        for held in (self.tensors or {}, self._pairs, self._saved):
            held.pop(name, None)

    def separate(self, lead: str, shared: Sequence[str], head: str) -> None:
        """Have both the embedding ``lead`` and a head: where one is missing, it is the other."""
        if self.tensors is None:
            return
        stored = self.stored((*shared, head))
        if stored and head not in self.tensors:
            self.tensors[head] = structs.replace(self.tensors[stored[0]], name=head)
        elif stored == [head]:
            self.tensors[lead] = structs.replace(self.tensors[head], name=lead)

    def reopened(self) -> OpenedModel:
        """The model with its names as they are now."""
        model, adapter = self._opened.model, self._opened.adapter
        if model is not None and self.tensors is not None:
            model = replace(model, tensors=self.tensors)
        if adapter is not None:
            adapter = replace(adapter, pairs=self._pairs, saved=self._saved)
        return OpenedModel(self.location, model, adapter)

    def _same_saved(self, names: Sequence[str]) -> bool:
        adapter = self._opened.adapter
        assert adapter is not None
        source = Source(adapter.location, adapter.files, self._access)
        return all(same_sample(source, self._saved[names[0]], self._saved[name]) for name in names[1:])
