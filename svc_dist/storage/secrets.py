"""Credentials have no place in plans, reports, logs and messages: refused in locations, taken out of texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit

from svc_dist.errors import RecipeError

#: The lookaheads leave out other words: tokenizer, secretary, passwordless, access keyboard, api keyword.
_SECRET_KEY = re.compile(
    r"sig(nature)?$|token(?!i[sz])|secret(?!ar)|passw(?!ordless)|pwd|credential|access_?key(?!b)|api_?key(?!w)"
    r"|^key$|^auth(oriz\w+)?$|^sas$",
    re.IGNORECASE,
)
_SHORTEST = 8  # a shorter value of a secret variable is a number or a switch
_FOLDERS = ("PWD", "OLDPWD")  # of the shell: the working folder and the one before
_ABOUT_A_FILE = re.compile(r"_(files?|paths?|dirs?|directory|folder|home|sock|socket)$", re.IGNORECASE)
_ABOUT_A_URL = re.compile(r"_(url|uri|endpoint|issuer)$", re.IGNORECASE)
_SWITCHES = ("disabled", "required", "optional", "preferred", "automatic")
_learnt: set[str] = set()
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"@]*@")
_ASSIGNED = re.compile(r"(?P<name>[A-Za-z_][\w-]*)(?P<sign>=|\s+)(?P<value>\"[^\"]*\"|'[^']*'|[^\s'\"&|;,]+)")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?<>]*)\?[^\s'\"<>)\]]*")


def learn(values: Iterable[str]) -> None:
    """Have ``redact`` know credentials that a client has found elsewhere than in the environment."""
    _learnt.update(value for value in values if len(value) >= _SHORTEST)


def redact(text: str) -> str:
    """The text without what may be secret: users, passwords and queries of URLs, and credentials that are known."""
    known = {value for name, value in os.environ.items() if _holds_secret(name, value)}
    for value in known | _learnt:
        for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value), quote(value, safe="")):
            text = text.replace(form, "...")
    return _QUERY.sub(r"\1?...", _USER.sub(r"\1...@", text))


def redact_command(command: str) -> str:
    """A shell command without what may be secret, also as ``NAME=value`` or ``--name value``. ``$NAME`` stays."""

    def shown(match: re.Match[str]) -> str:
        flag = command[: match.start()].endswith("-")
        value = match["value"].strip("'\"")
        given = (match["sign"] == "=" or flag) and is_secret(match["name"].replace("-", "_"))
        harmless = value[:1] in ("$", "-", "{") or value.isdecimal() or value == "..."
        return f"{match['name']}{match['sign']}..." if given and not harmless else match[0]

    return _ASSIGNED.sub(shown, redact(command))


def _holds_secret(name: str, value: str) -> bool:
    """Whether the value of an environment variable is a credential, and not where one is or whether one is needed.

    A secret key may begin with a slash, and a password may be a word: a value alone says little.
    """
    if len(value) < _SHORTEST or name in _FOLDERS or not is_secret(name):
        return False
    if _ABOUT_A_FILE.search(name) and value.startswith(("/", "~", "./", "../")):
        return False
    if _ABOUT_A_URL.search(name) and "://" in value:  # a user, password or query in it is removed anyway
        return False
    if name.upper().endswith("TOKENS") and value.isdecimal():  # how many
        return False
    return value.lower() not in _SWITCHES and not (value.startswith("/") and os.path.exists(value))  # noqa: PTH110  (it takes any text)


def is_secret(key: str) -> bool:
    """Whether what goes by this name (of a setting, an environment variable, a query parameter) is a credential."""
    return _SECRET_KEY.search(key) is not None


def refuse_credentials(location: str, where: str = "") -> None:
    """Raise RecipeError, which does not repeat them, when a URL carries credentials: it would end up in files and logs.

    ``where`` says where the URL stands.
    """
    if "://" not in location:
        return
    scheme, *parts = location.split("://")
    try:
        url = urlsplit(location)
        user, at, _ = url.netloc.rpartition("@")
        query = [*parse_qsl(url.query, keep_blank_values=True), *parse_qsl(url.fragment, keep_blank_values=True)]
    except ValueError:
        user, at, query = "", "", []
    # A password may hold a slash, so that the host seems to end inside it; digits there are a port.
    word = any(re.match(r"[^/?#:@]+:(?![0-9]*([/?#]|$))[^:@]*@", part) for part in parts)
    found = next((f"the query parameter '{key}'" for key, _ in query if is_secret(key)), None)
    if ((at and (":" in user or scheme.startswith(("http", "s3")))) or word) and scheme != "github":
        found = "a user name or password before the @"
    if found is not None:
        raise RecipeError(
            f"{where}{': ' if where else ''}the {scheme} URL carries a credential ({found}), which would end up in "
            "plans, reports and logs",
            "take it out of the URL; credentials come from the environment or the usual places of the storage's "
            "client (AWS_PROFILE, HF_TOKEN, ~/.netrc, ...)",
        )
