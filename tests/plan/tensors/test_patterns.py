"""Many patterns match what each of them matches alone, and thousands of rules are planned in no time."""

from __future__ import annotations

import random
import time

import pytest

from svc_dist.plan.tensors.patterns import Patterns, first_matches
from svc_dist.recipe.rules.keys import RuleEntry
from svc_dist.tensor_names import matches

NAMES = [
    f"model.layers.{layer}.{kind}"
    for layer in range(12)
    for kind in ("mlp.up_proj.weight", "mlp.experts.3.w1.weight", "self_attn.q_proj.weight", "self_attn.q_proj.bias")
] + ["lm_head.weight", "", "x[0]", "a*b", "model.norm.weight"]
PATTERNS = [
    "*", "lm_head.weight", "model.layers.1.*", "*.bias", "*experts*", "model.*.weight", "model.layers.?.mlp.*",
    "x[[]0]", "a[*]b", "*[qk]_proj*", "?", "", "**.weight", "nothing", "*nothing*", "model.layers.[1-3].*", "x[0]",
    "[", "*]",
    "[]]*", "x[[]0[]]", "*[!s]", "[!]a]*",
]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES[:6], *NAMES[-5:], "]x", "model.layers.3.weight"])
def test_what_matches_is_what_each_pattern_matches(name: str) -> None:
    expected = {number for number, pattern in enumerate(PATTERNS) if matches(name, [pattern])}
    found = [*Patterns(PATTERNS).matching(name)]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_first_rule_counts_and_every_pattern_that_matches_is_used() -> None:
    rng = random.Random(0)
    rules = [rng.sample(PATTERNS, rng.randrange(1, 4)) for _ in range(30)]
    first, used = first_matches(NAMES, [RuleEntry(match=patterns, keep="base") for patterns in rules])
    for name in NAMES:
        expected = next((number for number, rule in enumerate(rules) if matches(name, rule)), None)
        assert first.get(name) == expected
    every = [(rule, number) for rule, patterns in enumerate(rules) for number in range(len(patterns))]
    assert used == {(r, n) for r, n in every if any(matches(name, [rules[r][n]]) for name in NAMES)}


@pytest.mark.parametrize(
    "pattern", ["model.layers.{}.mlp.up_proj.weight", "model.layers.{}.*", "*.{}.mlp.up_proj.weight", "*layers.{}.*"]
)
def test_thousands_of_rules_take_no_time(pattern: str) -> None:
    names = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(5_000)]
    rules = [RuleEntry(match=[pattern.format(number)], keep="base") for number in range(5_000)]
    began = time.process_time()
    first, _ = first_matches(names, rules)
    assert time.process_time() - began < 2.5
    assert first == {name: number for number, name in enumerate(names)}
