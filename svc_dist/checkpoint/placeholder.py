"""Small files in place of others: Git LFS pointers, web pages, and what else a download leaves under a file's name."""

from __future__ import annotations

import re

from svc_dist.errors import DamagedInputError

#: Bytes at the start of a file that tell a placeholder.
HEAD = 1024
_AGAIN = "download the file again (hf download OWNER/NAME)"
_LOGIN = f"{_AGAIN}; a private or gated model needs `hf auth login` or HF_TOKEN"
#: What a file begins with, what it is then, and what to do.
_KINDS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), what, hint)
    for pattern, what, hint in (
        (
            rb"version https?://(git-lfs|hawser)\.github\.com/spec/",
            "a Git LFS pointer, not the file itself",
            "run `git lfs install && git lfs pull` in that clone, or download the model again (hf download OWNER/NAME)",
        ),
        (
            rb"# xet version |version https?://\S*xet\S*/spec/",
            "a pointer to Xet storage, not the file itself",
            f"run `git xet install && git lfs pull` in that clone, or {_AGAIN}",
        ),
        (
            rb"(\.\./)*(\.git/annex/objects|/annex/objects)/",
            "a git-annex pointer, not the file itself",
            "run `git annex get .` in that clone",
        ),
        (
            rb"(\.\./)+blobs/[0-9a-f]{40,64}\s*$",
            "the text of a symbolic link of the Hugging Face cache, not the file itself",
            f"copy the cache with its links resolved (cp -rL), or {_AGAIN}",
        ),
        (
            rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype\s+html|<html[\s>])",
            "an HTML page, not the file itself",
            _LOGIN,
        ),
        (
            rb"(<\?xml[^>]*>\s*)?<Error>",
            "an error message of an object storage, not the file itself",
            "download the file again, with credentials that may read it",
        ),
        (
            rb"(Entry not found|Invalid username or password\.?|Repository not found|"
            rb"Access to model .{1,200} is restricted[^\n]*|Invalid credentials in Authorization header|"
            rb"(404: )?Not Found)\s*$",
            "an error message of a web server, not the file itself",
            _LOGIN,
        ),
    )
)


def placeholder(head: bytes) -> tuple[str, str] | None:
    """What a file really is that begins with these bytes, and what to do; None for the file itself."""
    text = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next(((what, hint) for pattern, what, hint in _KINDS if pattern.match(text)), None)


def refuse_placeholder(head: bytes, where: str) -> None:
    """Raise DamagedInputError when the file ``where``, which begins with these bytes, is a placeholder."""
    found = placeholder(head)
    if found is not None:
        raise DamagedInputError(f"{where}: {found[0]}", copied(found[1], where))


def copied(hint: str, where: str) -> str:
    """What to do about a file: in a bucket, it is a copy of the one to download again."""
    is_copy = "://" in where and not where.startswith("hf://")
    return f"{hint}, then copy it to {where.partition('://')[0]}:// again" if is_copy else hint
