"""Tensors of every rank, dtype and value through the whole command, against references that are computed plainly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from svc_dist.checkpoint import layout
from svc_dist.errors import ExitCode
from svc_dist.linalg import lapack
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.rank_rules import rank
from tests.support import candidate_references as candidates
from tests.support import elementwise_references as entries
from tests.support import spectral_references as plain
from tests.support.checkpoints import poke, write_checkpoint, write_recipe
from tests.support.command import Ended, Run

Tensors = dict[str, Tensor]

ELEMENTWISE = tuple(name for name, method in METHODS.items() if method.family == "elementwise")
SPECTRAL = tuple(name for name, method in METHODS.items() if method.family == "spectral")
LEAVE_ONES_OUT = (
    "ace",
    "resmerge",
)  # of equal entries they make zero: what is centred, or beside the leading direction
OF_ONE = tuple(name for name, method in METHODS.items() if method.experts == (1, 1))
ALONE = tuple(name for name in METHODS if name != "nuslerp")  # of one expert
#: Parameters with which a method does something of its own, and the descents take few steps.
GIVEN: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.4}, "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.1}, "dare_linear": {"density": 0.5}, "dare_ties": {"density": 0.5},
    "della": {"density": 0.5}, "della_linear": {"density": 0.5}, "slerp": {"t": 0.3}, "sce": {"select_topk": 1.0},
    "wudi": {"steps": 5}, "optmerge": {"steps": 5},
}  # fmt: skip
SVC: dict[str, Any] = {"method": "svc", "alpha": 0.5}


def rule(match: str, method: str, calibrate: Mapping[str, Any] | str = "none", **parameters: Any) -> dict[str, Any]:
    given = GIVEN.get(method, {}) | parameters
    return {"match": match, "merge_method": method, "parameters": given, "calibrate": calibrate}


class Merge:
    """Checkpoints in a folder and the command that merges them."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.models: list[Path] = []

    def save(self, base: Tensors, *experts: Tensors, shards: int = 2) -> None:
        names = ["base", *(f"expert{number}" for number in range(len(experts)))]
        self.models = [
            write_checkpoint(self.folder / name, tensors, shards)
            for name, tensors in zip(names, [base, *experts], strict=True)
        ]

    def __call__(self, output: str = "out", precision: str = "float64", **recipe: Any) -> Ended:
        file = write_recipe(self.folder / f"{output}.yaml", self.models, **recipe)
        return self.run("merge", file, self.folder / output, "--executor", "inline", "--precision", precision)

    def done(self, output: str = "out", precision: str = "float64", **recipe: Any) -> Tensors:
        """Merge, and read back what was written."""
        ended = self(output, precision, **recipe)
        assert ended.code == ExitCode.DONE, ended.err
        written: Tensors = {}
        for file in sorted((self.folder / output).glob("model*.safetensors")):
            written |= load_file(file)
        return written

    def report(self, output: str = "out") -> dict[str, Any]:
        return json.loads((self.folder / output / "merge_report.json").read_text())


@pytest.fixture
def merge(run: Run, tmp_path: Path) -> Merge:
    return Merge(run, tmp_path)


def models(
    shapes: Mapping[str, Sequence[int]], experts: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensors]:
    """A base and experts: what they share, and what each has of its own."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Tensors:
        return {name: torch.randn(tuple(shape), generator=generator, dtype=dtype) for name, shape in shapes.items()}

    base, shared = drawn(), drawn()
    own = [drawn() for _ in range(experts)]
    return [base, *({name: base[name] + 0.02 * shared[name] + 0.02 * delta[name] for name in base} for delta in own)]


def stacked(all_models: Sequence[Tensors], name: str) -> Tensor:
    """The deltas ``(K, ...)`` of a tensor in float64."""
    base, *experts = (tensors[name].double() for tensors in all_models)
    return torch.stack([expert - base for expert in experts])


def error(result: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm(result - expected) / torch.linalg.norm(expected))


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(
        left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8)
    )


# --- Matrices of every kind ----------------------------------------------------------------------------------------


def spectral(method: str, deltas: Tensor) -> Tensor:
    """A spectral method on ``(K, m, n)``, by full decompositions."""
    if method == "swudi_a":
        values = torch.linalg.eigvalsh(plain.normalised(deltas)[0]).flip(0).clamp_min(1e-8)
        top = rank("participation_sqrt", values, (len(deltas) * deltas.shape[1], deltas.shape[2]))
        return plain.swudi_a(deltas, top)
    reference = getattr(plain, method, None) or getattr(candidates, method)
    return reference(deltas, **GIVEN.get(method, {}))


def svc_of(method: str, deltas: Tensor, side: str = "left") -> Tensor:
    merged = deltas.sum(0) if method == "task_arithmetic" else spectral(method, deltas)
    basis = plain.iso_c_basis(deltas if side == "left" else deltas.mT) if method == "iso_c" else None
    if side == "right":
        return plain.svc(merged.T, deltas.mT, SVC["alpha"], basis).T
    return plain.svc(merged, deltas, SVC["alpha"], basis)


#: What a rule asks for, and the same on deltas ``(K, m, n)``.
MATRIX_RULES = {method: (rule(f"{method}.*", method), lambda d, m=method: spectral(m, d)) for method in SPECTRAL} | {
    f"{method}_{side}": (
        rule(f"{method}_{side}.*", method, SVC | {"side": side}),
        lambda d, m=method, s=side: svc_of(m, d, s),
    )
    for method in ("task_arithmetic", "tsv_m", "iso_c", "star", "swudi")
    for side in ("left", "right")
}
EXPERTS = 4  # matrices fused in one tensor
KINDS = {
    "weight": (14, 10),
    "experts": (EXPERTS, 9, 12),
    "conv1.weight": (10, 4, 3),  # a kernel by its name
    "patch.weight": (9, 3, 2, 2),
}


def matrices_of(kind: str, deltas: Tensor) -> Tensor:
    """``(K, count, m, n)``: what a spectral step sees of a tensor's deltas."""
    if kind == "experts":
        return deltas
    return deltas.reshape(len(deltas), 1, deltas.shape[1], -1)


def of_every_kind() -> list[Tensors]:
    """Tensors of every kind for every rule, and the fused ones once more as single matrices."""
    shapes = {f"{name}.{kind}": shape for name in MATRIX_RULES for kind, shape in KINDS.items()}
    made = models(shapes, 3)
    for tensors in made:
        for name in MATRIX_RULES:
            for index, matrix in enumerate(tensors[f"{name}.experts"]):
                tensors[f"{name}.single{index}"] = matrix.clone()
    return made


def test_matrices_of_every_kind_are_merged_as_the_formulas_say(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    made = of_every_kind()
    merge.save(*made)
    rules = [rule for rule, _ in MATRIX_RULES.values()]
    written = merge.done(rules=rules)
    wrong = []
    for name, (_, reference) in MATRIX_RULES.items():
        for kind in KINDS:
            full = f"{name}.{kind}"
            deltas = matrices_of(kind, stacked(made, full))
            expected = torch.stack([reference(deltas[:, index]) for index in range(deltas.shape[1])])
            found = error(written[full] - made[0][full], expected.view(written[full].shape))
            if not found <= 1e-8:
                wrong.append(f"{full}: {found:.0e}")
        for index in range(EXPERTS):
            if not same_bits(written[f"{name}.experts"][index], written[f"{name}.single{index}"]):
                wrong.append(f"{name}.experts[{index}] is not what it is alone")
    assert not wrong

    # Fused experts larger than a range are split between matrices: other units, the same bytes.
    monkeypatch.setattr(layout, "MIN_RANGE", 1)
    monkeypatch.setattr(layout, "MAX_RANGE", 2 * 9 * 12 * 8)
    split = merge.done("split", rules=rules)
    assert all(same_bits(split[name], written[name]) for name in written)
    few, many = (len(merge.report(output)["ranges"]) for output in ("out", "split"))
    assert few == 1
    assert many == len(written) + len(MATRIX_RULES), "two matrices of each fused tensor in one range, two in another"

    for output in ("out", "split"):
        assert all({"sigma", "matrix", "tensor"} <= entry.keys() for entry in merge.report(output)["matrices"])
        places = [(entry["tensor"], entry["matrix"]) for entry in merge.report(output)["matrices"]]
        fused = [(f"{name}.experts", index) for name in MATRIX_RULES for index in range(EXPERTS)]
        assert set(fused) <= set(places)
        assert len(places) == len(set(places)) == len(MATRIX_RULES) * (len(KINDS) - 1 + 2 * EXPERTS)


# --- What a spectral method does not take --------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["default", "ties", "model_stock", "sce"])
def test_what_is_no_matrix_takes_the_fallback(merge: Merge, fallback: str) -> None:
    shapes = {"embed_tokens.weight": (11, 7), "norm.weight": (33,), "scale": (), "empty": (0, 5), "mlp.weight": (8, 6)}
    made = models(shapes, 3)
    merge.save(*made)
    more = {} if fallback == "default" else {"fallback": {"method": fallback, "parameters": GIVEN.get(fallback, {})}}
    written = merge.done(method="iso_c", calibrate="svc", **more)
    for name in ("embed_tokens.weight", "norm.weight", "scale"):
        deltas = stacked(made, name)
        expected = deltas.mean(0) if fallback == "default" else elementwise(fallback, made[0][name], deltas)
        assert torch.allclose(written[name] - made[0][name], expected, rtol=0, atol=1e-13), name
    assert written["empty"].shape == (0, 5)
    matrix = svc_of_flat(stacked(made, "mlp.weight"))
    assert error(written["mlp.weight"] - made[0]["mlp.weight"], matrix) <= 1e-9
    assert [entry["tensor"] for entry in merge.report()["matrices"]] == ["mlp.weight"]


def svc_of_flat(deltas: Tensor) -> Tensor:
    return plain.svc(plain.iso_c(deltas), deltas, None, plain.iso_c_basis(deltas))


def elementwise(method: str, base: Tensor, deltas: Tensor) -> Tensor:
    """An element-wise method that draws nothing, with ``GIVEN`` and equal weights, on deltas ``(K, ...)``."""
    experts, given = len(deltas), GIVEN.get(method, {})
    if method in ("linear", "passthrough"):
        return deltas.mean(0)
    if method == "nearswap":
        return deltas[0].clamp(-1e-4, 1e-4)
    if method == "arcee_fusion":
        ours, theirs = (torch.softmax(model, -1) + 1e-8 for model in (base, base + deltas[0]))
        importance = deltas[0].abs() * (theirs * torch.log(theirs / ours)).sum(-1, keepdim=True)
        first, median, third = (
            importance.flatten().sort().values[int(at * (base.numel() - 1))] for at in (0.25, 0.5, 0.75)
        )
        return deltas[0] * (importance >= median + 1.5 * (third - first))
    if method == "karcher" and experts == 1:
        one, other = base / base.norm(), (base + deltas[0]) / (base + deltas[0]).norm()
        return (one + other) / (one + other).norm() * (base.norm() + (base + deltas[0]).norm()) / 2 - base
    if method in ("multislerp", "ram", "ramplus_tl") and experts == 1:
        return deltas[0]
    if method == "task_arithmetic":
        return deltas.sum(0)
    if method == "ties":
        return entries.ties(list(deltas), [1.0] * experts, [given["density"]] * experts)
    if method.startswith("breadcrumbs"):
        parts = [entries.breadcrumbs_part(delta, given["density"], given["gamma"]) for delta in deltas]
        return (
            entries.consensus(parts, [1.0] * experts, False) if method.endswith("ties") else torch.stack(parts).sum(0)
        )
    if method == "sce":
        return entries.sce(list(deltas), given["select_topk"])
    if method == "model_stock":
        flat = torch.nn.functional.normalize(deltas.reshape(experts, -1), dim=1)
        cosines = flat @ flat.T
        cosine = float(cosines.sum() - cosines.trace()) / max(1, experts * (experts - 1))
        return experts * cosine / (1 + (experts - 1) * cosine) * deltas.mean(0) if experts > 1 else deltas[0]
    assert method == "slerp"
    expert = base + deltas[0]
    angle = torch.acos((base * expert).sum() / base.norm() / expert.norm())
    share = given["t"]
    return ((torch.sin((1 - share) * angle) * base + torch.sin(share * angle) * expert) / torch.sin(angle)) - base


# --- One expert, no difference -------------------------------------------------------------------------------------


def test_one_expert_alone_goes_through_every_method(merge: Merge) -> None:
    shapes = {
        f"{method}.{kind}": shape
        for method in ALONE
        for kind, shape in {"weight": (9, 12), "calibrated": (12, 9), "bias": (13,)}.items()
    }
    made = models(shapes, 1)
    made[1] |= {
        name: tensor for name, tensor in models(shapes, 1, seed=1)[1].items() if name.startswith(("slerp", "karcher"))
    }
    merge.save(*made)
    rules = [
        rule(f"{method}.{kind}", method, "svc" if kind == "calibrated" else "none")
        for method in ALONE
        for kind in ("calibrated", "weight", "bias")
    ]
    written = merge.done(rules=rules)
    wrong = []
    for name in shapes:
        method, kind = name.split(".")
        base, deltas = made[0][name], stacked(made, name)
        found = written[name] - base
        if method.startswith(("dare", "della")):
            if kind != "calibrated" and not dropped_or_rescaled(found / deltas[0], method):
                wrong.append(name)
            continue
        if method in SPECTRAL and kind != "bias":
            expected = spectral(method, deltas)
            if kind == "calibrated" and method.startswith("iso"):
                expected = plain.svc(expected, deltas, None, plain.iso_c_basis(deltas))
            elif kind == "calibrated":
                expected = plain.svc(expected, deltas)
        else:
            expected = elementwise("linear" if method in SPECTRAL else method, base, deltas)
            if kind == "calibrated":
                expected = plain.svc(expected, deltas)
        if not torch.equal(found, expected) and not error(found, expected) <= 1e-8:  # both may be zero
            wrong.append(f"{name}: {error(found, expected):.0e}")
    assert not wrong
    for kind in ("weight", "bias"):
        assert same_bits(written[f"passthrough.{kind}"], made[1][f"passthrough.{kind}"])


def dropped_or_rescaled(factors: Tensor, method: str) -> bool:
    """Whether entries were dropped or divided by a probability of being kept; with DARE that is the density."""
    low, high = (0.5, 0.5) if method.startswith("dare") else (0.5 - 0.15, 0.5 + 0.15)
    kept = 1 / factors[factors.abs() > 1e-9]
    return 0 < len(kept) < factors.numel() and low - 1e-6 <= float(kept.min()) and float(kept.max()) <= high + 1e-6


TINY = (-0.0, 0.0, 1e-41, -1e-41, 3.0)  # subnormal in bfloat16 and float32
PARTS = {"weight": (12, 10), "bias": (120,), "calibrated": (10, 12), "experts": (2, 6, 10)}
TINIER = {torch.float16: 6e-8, torch.float64: 5e-324}


@pytest.mark.parametrize("experts", [1, 3])
def test_what_no_expert_changes_passes_through_bit_for_bit(merge: Merge, experts: int) -> None:
    methods = [name for name, method in METHODS.items() if experts == 1 or method.experts[1] is None]
    methods = [name for name in methods if experts > 1 or name in ALONE]
    base: Tensors = {}
    for method in methods:
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            values = torch.tensor([*TINY, TINIER.get(dtype, 1e-40)], dtype=torch.float64).repeat(20)
            kind = str(dtype).removeprefix("torch.")
            for part, shape in PARTS.items():
                base[f"{method}.{kind}.{part}"] = values.view(shape).to(dtype, copy=True)
    assert all((tensor[tensor != 0].abs().min() < 1e-7) and tensor.signbit().any() for tensor in base.values())
    equal = {name: torch.where(tensor == 0, 0, tensor) for name, tensor in base.items()}  # +0 where the base has -0
    for name in base:
        if name.endswith("experts"):  # of two matrices one is changed
            equal[name] = torch.cat([equal[name][:1], equal[name][1:] + 1])
    merge.save(base, *[equal] * experts)
    rules = [rule(f"{method}.*.calibrated", method, "svc") for method in methods]
    rules += [rule(f"{method}.*", method) for method in methods]
    written = merge.done(precision="mixed", rules=rules)
    for name, tensor in base.items():
        copied = name.startswith("passthrough") and not name.endswith("calibrated")  # the expert's own zeros
        expected = equal[name] if copied else tensor
        if not name.endswith("experts"):
            assert same_bits(written[name], expected), name
        elif name.split(".")[0] in SPECTRAL:
            assert same_bits(written[name][0], tensor[0]), name
            if name.split(".")[0] not in LEAVE_ONES_OUT:
                assert not torch.equal(written[name][1], tensor[1]), name


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e-12])
@pytest.mark.parametrize("calibrate", ["none", "svc"])
def test_differences_whose_squares_vanish_do_no_harm(merge: Merge, size: float, calibrate: str) -> None:
    methods = [method for method in METHODS if method not in OF_ONE]
    made = models({f"{method}.weight": (8, 6) for method in methods}, 2, torch.float32)
    base = {name: torch.zeros_like(tensor) for name, tensor in made[0].items()}
    experts = [{name: tensor * size for name, tensor in tensors.items()} for tensors in made[1:]]
    merge.save(base, *experts)
    written = merge.done(precision="mixed", rules=[rule(f"{method}.*", method, calibrate) for method in methods])
    largest = max(float(tensor.abs().max()) for tensor in experts[0].values())
    for name, tensor in written.items():
        moved = 1e-3 if name.startswith(("wudi", "optmerge")) else 0  # Adam's steps have a size of their own
        assert float(tensor.abs().max()) <= 20 * max(largest, moved), name


# --- Dtypes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32, torch.float16])
def test_experts_of_other_dtypes_than_the_base(merge: Merge, stored: torch.dtype) -> None:
    # Multiples of 1/64 below 2 are exact in every dtype, and so are their sums in float32.
    generator = torch.Generator().manual_seed(0)
    names = [
        f"{method}.{kind}" for method in ("task_arithmetic", "ties", "swudi", "tsv_m") for kind in ("weight", "svc")
    ]
    names += ["norm"]

    def drawn(scale: int) -> Tensors:
        shape = {name: (10,) if name == "norm" else (12, 10) for name in names}
        return {name: torch.randint(-scale, scale, shape[name], generator=generator) / 64 for name in names}

    base, deltas = drawn(64), [drawn(8) for _ in range(3)]
    exact = [base, *({name: base[name] + delta[name] for name in names} for delta in deltas)]
    dtypes = [stored, torch.float32, torch.float16, torch.bfloat16]
    made = [
        {name: tensor.to(dtype) for name, tensor in tensors.items()}
        for tensors, dtype in zip(exact, dtypes, strict=True)
    ]
    assert all(torch.equal(m[name].float(), e[name]) for m, e in zip(made, exact, strict=True) for name in names)
    merge.save(*made)
    rules = [rule(f"{n}.weight", n) for n in ("ties", "swudi", "tsv_m")]
    rules += [rule(f"{n}.svc", n, SVC) for n in ("task_arithmetic", "ties", "swudi", "tsv_m")]
    written = merge.done(precision="mixed", rules=rules)
    for name in names:
        own = stacked(exact, name)
        method, _, kind = name.partition(".")
        merged = (
            spectral(method, own) if method in SPECTRAL
            else elementwise("task_arithmetic" if name == "norm" else method, base[name], own)
        )  # fmt: skip
        if kind == "svc":
            merged = plain.svc(merged, own, SVC["alpha"])
        expected = base[name].double() + merged
        assert written[name].dtype == stored
        if name in ("norm", "task_arithmetic.weight"):
            assert torch.equal(written[name], expected.to(stored)), name
        step = torch.finfo(stored).eps
        assert float((written[name].double() - expected).abs().max()) <= max(step, 1e-5) * float(
            expected.abs().max()
        ), name


# --- Values that cannot be merged ----------------------------------------------------------------------------------

BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("method", "calibrate", "value"),
    [(method, "none", BAD[number % 3]) for number, method in enumerate(METHODS)]
    + [(method, "svc", value) for method in ("task_arithmetic", "tsv_m", "swudi") for value in BAD],
)
def test_a_value_that_is_not_finite_is_told_with_its_file_and_tensor(
    merge: Merge, method: str, calibrate: str, value: float
) -> None:
    experts = 1 if method in OF_ONE else 2
    merge.save(*models({"a.weight": (8, 6), "layer.experts": (3, 8, 6), "z.bias": (5,)}, experts, torch.bfloat16))
    file = merge.models[-1] / "model-00001-of-00002.safetensors"
    poke(file, "layer.experts", 50, value)
    ended = merge(method=method, parameters=GIVEN.get(method, {}), calibrate=calibrate, precision="mixed")
    assert ended.code == ExitCode.INPUT, ended.err
    for words in (str(file), "'layer.experts'", f"{value} at element 50 of shape [3, 8, 6]"):
        assert words in ended.err
    assert not (merge.folder / "out" / "model.safetensors.index.json").exists()


def test_a_nan_in_a_bias_under_a_spectral_method_is_told(merge: Merge) -> None:
    merge.save(*models({"a.weight": (8, 6), "z.bias": (5,)}, 2))
    file = merge.models[1] / "model-00002-of-00002.safetensors"
    poke(file, "z.bias", 3, math.nan)
    ended = merge(method="swudi")
    assert ended.code == ExitCode.INPUT
    assert f"{file}: tensor 'z.bias' holds nan at element 3" in ended.err


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv_m", "wudi", "swudi"])
@pytest.mark.parametrize("calibrate", ["none", {"method": "svc", "alpha": 0.25}])
def test_a_result_that_does_not_fit_is_told_with_its_tensor(merge: Merge, method: str, calibrate: Any) -> None:
    base = {"fits.weight": torch.zeros(8, 6), "large.weight": torch.zeros(8, 6)}
    base = {name: tensor.half() for name, tensor in base.items()}
    experts = models({"fits.weight": (8, 6), "large.weight": (8, 6)}, 1, torch.float32)
    expert = {"fits.weight": experts[1]["fits.weight"], "large.weight": experts[1]["large.weight"] * 1e4}
    merge.save(base, {name: t.half() for name, t in expert.items()}, {name: 1.01 * t for name, t in expert.items()})
    ended = merge(method=method, calibrate=calibrate, precision="mixed", parameters={"lambda": 4.0})
    assert ended.code == ExitCode.UNITS_FAILED, ended.err
    assert f"tensor 'large.weight' (by {method}): the result does not fit into float16" in ended.err
    assert ended.err.count(f"(by {method})") == 1


@pytest.mark.parametrize("method", [*(name for name in SPECTRAL if name not in LEAVE_ONES_OUT), "task_arithmetic"])
def test_differences_too_large_for_float32_are_told_with_their_tensor(merge: Merge, method: str) -> None:
    base, *experts = models({"fine.weight": (8, 6), "huge.weight": (8, 6)}, 2, torch.float32)
    for sign, tensors in zip((-1, 1, 1), (base, *experts), strict=True):
        tensors["huge.weight"] = torch.full((8, 6), sign * 3e38)
    merge.save(base, *experts)
    ended = merge(method=method, calibrate="svc", precision="mixed")
    assert ended.code == ExitCode.UNITS_FAILED, ended.err
    assert f"tensor 'huge.weight' (by {method})" in ended.err
    assert "not finite" in ended.err or "does not fit" in ended.err


@pytest.mark.parametrize(
    "method", ["tsv_m", "iso_c", "iso_cts", "star", "optmerge", "swudi", "swudi_a", "task_arithmetic"]
)
def test_a_decomposition_that_does_not_converge_is_told_with_its_tensor(
    merge: Merge, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives_up(self: object) -> Tensor:
        raise lapack.NotConvergedError("LAPACK info 7")

    monkeypatch.setattr(lapack.Tridiagonal, "values", gives_up)
    merge.save(*models({"layer.weight": (8, 6)}, 2, torch.float32))
    ended = merge(method=method, calibrate="svc" if method == "task_arithmetic" else "none", precision="mixed")
    assert ended.code == ExitCode.UNITS_FAILED, ended.err
    assert f"tensor 'layer.weight' (by {method})" in ended.err
    assert "did not converge: LAPACK info 7" in ended.err
