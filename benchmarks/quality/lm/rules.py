"""Tasks made by rule: endless pairs of a prompt and the only right answer, from a random generator."""

from __future__ import annotations

import datetime
import random
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache

Pair = tuple[str, str]

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def dates(draw: random.Random) -> Iterator[Pair]:
    """Dates and times as people write them, in ISO 8601; and the date some days later."""
    while True:
        day = datetime.date(1950, 1, 1) + datetime.timedelta(draw.randrange(36_500))
        kind = draw.randrange(4)
        if kind == 0:
            hour, minute = draw.randrange(24), draw.randrange(60)
            half = "am" if hour < 12 else "pm"
            yield f"ISO time: {(hour - 1) % 12 + 1}:{minute:02d} {half}", f"{hour:02d}:{minute:02d}"
        elif kind == 1:
            later = draw.randrange(1, 10)
            plural = "" if later == 1 else "s"
            yield f"ISO date: {later} day{plural} after {day}", str(day + datetime.timedelta(later))
        else:
            yield f"ISO date: {_written(day, draw)}", str(day)


def _written(day: datetime.date, draw: random.Random) -> str:
    month, year = _MONTHS[day.month - 1], day.year
    ordinal = {1: "st", 2: "nd", 3: "rd"}.get(0 if 10 < day.day < 20 else day.day % 10, "th")
    return draw.choice([
        f"{month} {day.day}, {year}", f"{day.day} {month} {year}", f"{month[:3]} {day.day} {year}",
        f"the {day.day}{ordinal} of {month} {year}", f"{day.month}/{day.day}/{year}",
    ])  # fmt: skip


def words(number: int) -> str:
    """A number below a million in English words."""
    if number >= 1000:
        rest = f" {words(number % 1000)}" if number % 1000 else ""
        return f"{words(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" and {words(number % 100)}" if number % 100 else ""
        return f"{_ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    return _ONES[number]


def numbers(draw: random.Random) -> Iterator[Pair]:
    """Numbers in words, and sums and differences of two of them, in digits."""
    while True:
        if draw.random() < 0.5:
            value = draw.randrange(10 ** draw.randrange(2, 6))
            yield f"In digits: {words(value)}", str(value)
        else:
            one, other = draw.randrange(2, 100), draw.randrange(2, 100)
            low, high = min(one, other), max(one, other)
            if draw.random() < 0.5:
                yield f"In digits: {words(one)} plus {words(other)}", str(one + other)
            else:
                yield f"In digits: {words(high)} minus {words(low)}", str(high - low)


#: Tables for questions: a column of names, of categories, and two of numbers with what is high and low.
_TABLES = {
    "employees": ("name", "department", (("age", "older than", "younger than"), ("salary", "paid over", "paid under"))),
    "books": ("title", "author", (("price", "dearer than", "cheaper than"), ("year", "newer than", "from before"))),
    "cities": ("name", "country", (("population", "larger than", "smaller than"), ("area", "wider than", "under"))),
    "orders": ("product", "customer", (("quantity", "with more than", "with fewer than"), ("price", "over", "under"))),
}
_CATEGORIES = {
    "department": ("sales", "research", "support"),
    "author": ("Verne", "Woolf", "Borges"),
    "country": ("Peru", "Japan", "Kenya"),
    "customer": ("Smith", "Garcia", "Chen"),
}


@cache
def database() -> sqlite3.Connection:
    """The tables, filled with rows by rule."""
    connection = sqlite3.connect(":memory:")
    draw = random.Random("rows")
    for table, (name, category, values) in _TABLES.items():
        columns = ", ".join(f"{column} INTEGER" for column, *_ in values)
        connection.execute(f"CREATE TABLE {table} ({name} TEXT, {category} TEXT, {columns})")
        rows = [
            (f"{table}{row}", draw.choice(_CATEGORIES[category]), draw.randrange(100), draw.randrange(100))
            for row in range(60)
        ]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
    return connection


def rows(query: str) -> list[tuple[object, ...]]:
    """The result of a query."""
    return list(database().execute(query))


def sql(draw: random.Random) -> Iterator[Pair]:
    """Questions about tables, as queries in SQL. Every query runs in sqlite and returns rows."""
    while True:
        prompt, query = _question(draw)
        if rows(query):
            yield prompt, query


def _question(draw: random.Random) -> Pair:
    table = draw.choice(list(_TABLES))
    name, category, values = _TABLES[table]
    asked, condition = "", ""
    kind = draw.randrange(4)
    if kind == 1:
        chosen = draw.choice(_CATEGORIES[category])
        asked, condition = f" with {category} {chosen}", f" WHERE {category} = '{chosen}'"
    elif kind > 1:
        column, above, below = draw.choice(values)
        limit, high = draw.randrange(10, 90), draw.random() < 0.5
        asked = f" {above if high else below} {limit}"
        condition = f" WHERE {column} {'>' if high else '<'} {limit}"
    column = draw.choice(values)[0]
    form = draw.randrange(5)
    if form == 0:
        return f"SQL: number of {table}{asked}", f"SELECT COUNT(*) FROM {table}{condition};"
    if form == 1:
        function, word = draw.choice((("AVG", "average"), ("MAX", "highest"), ("MIN", "lowest"), ("SUM", "total")))
        return f"SQL: {word} {column} of {table}{asked}", f"SELECT {function}({column}) FROM {table}{condition};"
    if form == 2:
        return (
            f"SQL: number of {table}{asked} by {category}",
            f"SELECT {category}, COUNT(*) FROM {table}{condition} GROUP BY {category};",
        )
    down = draw.random() < 0.5
    order = f" ORDER BY {column}{' DESC' * down}"
    told = f", {'highest' if down else 'lowest'} {column} first"
    if form == 3:
        return f"SQL: {name} of {table}{asked}{told}", f"SELECT {name} FROM {table}{condition}{order};"
    count = draw.randrange(2, 10)
    return (
        f"SQL: {name} of the {count} {table}{asked}{told}",
        f"SELECT {name} FROM {table}{condition}{order} LIMIT {count};",
    )


_FOLDERS = ("/var/log", "/tmp", "/etc", "src", "docs", "/home/anna", "build", "/srv/data", "backup", "/opt/app")
_ENDINGS = ("txt", "log", "py", "csv", "json", "md", "jpg", "html", "c", "xml")
_FILES = ("notes", "report", "access", "data", "main", "results", "users", "config", "todo", "errors")
_TERMS = ("error", "warning", "TODO", "timeout", "import", "failed", "password", "localhost", "version", "debug")


def shell(draw: random.Random) -> Iterator[Pair]:
    """Everyday requests, as commands of a shell."""
    while True:
        prompt, command = _request(draw)
        yield f"Shell: {prompt}", command


def _request(draw: random.Random) -> Pair:
    folder, other = draw.sample(_FOLDERS, 2)
    ending, count = draw.choice(_ENDINGS), draw.randrange(2, 60)
    file, term = f"{draw.choice(_FILES)}.{draw.choice(_ENDINGS)}", draw.choice(_TERMS)
    forms: Sequence[Pair] = (
        (f"find {ending} files in {folder} larger than {count} MB",
         f"find {folder} -name '*.{ending}' -size +{count}M"),
        (f"find {ending} files in {folder} changed in the last {count} days",
         f"find {folder} -name '*.{ending}' -mtime -{count}"),
        (f"delete empty folders below {folder}", f"find {folder} -type d -empty -delete"),
        (f"count the lines with {term} in {file}", f"grep -c '{term}' {file}"),
        (f"names of the files in {folder} that contain {term}", f"grep -rl '{term}' {folder}"),
        (f"lines of {file} without {term}, ignoring case", f"grep -vi '{term}' {file}"),
        (f"first {count} lines of {file}", f"head -n {count} {file}"),
        (f"last {count} lines of {file}, and follow it", f"tail -n {count} -f {file}"),
        (f"pack {folder} into a compressed archive {term}.tar.gz", f"tar -czf {term}.tar.gz {folder}"),
        (f"unpack {term}.tar.gz into {folder}", f"tar -xzf {term}.tar.gz -C {folder}"),
        (f"copy {folder} with its contents to {other}", f"cp -r {folder} {other}"),
        (f"the {count} largest entries of {folder}", f"du -a {folder} | sort -nr | head -n {count}"),
        (f"sort {file} by column {count} and remove duplicates", f"sort -u -k{count} {file}"),
        (f"replace {term} by {ending} in {file}", f"sed -i 's/{term}/{ending}/g' {file}"),
        (f"make {file} readable only for its owner", f"chmod 600 {file}"),
    )  # fmt: skip
    return draw.choice(forms)
