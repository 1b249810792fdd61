"""Ranges of objects at a fifth of the usual cost of a request: one signature serves many ranges of an object.

botocore takes some 3 ms of processor time to make, sign and read one request, under Python's lock, which a merge beside
it needs too. A signature of S3 covers the object and the minute but neither the range nor the condition (``If-Match``),
so that the next ranges of the same object are asked for with the same one, over the same connections.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_KEPT = 60.0  # seconds for which a signature is used: S3 takes one for 15 minutes
_MOST = 1000  # signatures that are kept
_ERROR = 1 << 16  # bytes of a refusal that are read
_CODE, _MESSAGE = (re.compile(rb"<%b>([^<]*)</%b>" % (name, name)) for name in (b"Code", b"Message"))
#: The parameters of a request that may share a signature with others.
_PARAMETERS = {"Bucket", "Key", "Range", "IfMatch"}


@dataclass(frozen=True)
class _Signed:
    """A request for an object, good until a time of the monotonic clock. Without ``url``: botocore's way is better."""

    url: str
    headers: Mapping[str, Any]
    until: float


class RangedReads:
    """The ranged reads of one client."""

    def __init__(self, client: Any) -> None:
        #: botocore has no public name for it; where it is not, everything is asked in botocore's own way
        self._session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._signed: dict[tuple[str, str], _Signed] = {}
        self._caught = threading.local()
        client.meta.events.register("before-send.s3.GetObject", self._catch)

    def get(self, parameters: Mapping[str, Any], call: Callable[..., Any]) -> dict[str, Any] | None:
        """The answer to ``get_object`` with these parameters; None when botocore's own ``call`` has to be made.

        Raises botocore's ClientError for a file that has changed and for a store that fails or asks to slow down, and
        whatever botocore raises where no answer comes.
        """
        from botocore.awsrequest import AWSPreparedRequest
        from botocore.exceptions import ClientError

        if parameters.keys() != _PARAMETERS or self._session is None:
            return None
        item = (parameters["Bucket"], parameters["Key"])
        signed = self._signed.get(item)
        if signed is None or signed.until < time.monotonic():
            signed = self._keep(item, self._sign(item, call))
        if not signed.url:
            return None
        headers = {**signed.headers, "Range": parameters["Range"], "If-Match": parameters["IfMatch"]}
        answer = self._session.send(AWSPreparedRequest("GET", signed.url, headers, None, True))
        status, found = answer.status_code, answer.headers
        if status in (200, 206) and "ETag" in found:
            length = int(found.get("Content-Length", 0))
            return {"ETag": found["ETag"], "ContentLength": length, "Body": answer.raw}
        with answer.raw as body:
            text = body.read(_ERROR)
        if status not in (412, 429) and status < 500:  # botocore knows what to do, or what to say
            self._keep(item, _Signed("", {}, signed.until))
            return None
        code, message = (
            match[1].decode(errors="replace") if match else "" for match in (_CODE.search(text), _MESSAGE.search(text))
        )
        error = {"Code": code or str(status), "Message": message}
        raise ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    def _sign(self, item: tuple[str, str], call: Callable[..., Any]) -> _Signed:
        """The address and the headers of a request for an object, as botocore makes and signs them."""
        until = time.monotonic() + _KEPT
        self._caught.request, self._caught.wanted = None, True
        try:
            call(Bucket=item[0], Key=item[1])
        finally:
            self._caught.wanted = False
        request = self._caught.request
        headers = {name: value for name, value in request.headers.items() if not name.lower().startswith("amz-sdk-")}
        return _Signed(request.url, headers, until)

    def _keep(self, item: tuple[str, str], signed: _Signed) -> _Signed:
        if len(self._signed) >= _MOST:
            self._signed.clear()
        self._signed[item] = signed
        return signed

    def _catch(self, request: Any, **_: Any) -> Any:
        """Keep a request that is only to be signed, and answer in the store's place: nothing is sent."""
        if not getattr(self._caught, "wanted", False):
            return None
        from botocore.awsrequest import AWSResponse

        self._caught.request = request
        return AWSResponse(request.url, 200, {}, None)
