"""The HTTP session towards a collector: it reads the answers in bounded memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from requests import Response, Session
from urllib3.exceptions import HTTPError

MAX_ANSWER_BYTES = 64 * 1024


class AnswerSession(Session):
    """Reads what has come of an answer, up to MAX_ANSWER_BYTES, and ends it: no one asks for it.

    ``requests`` reads all that a server sends, at its pace: a faulty collector could fill the
    memory, or end all exports.
    """

    def request(self, *given: Any, **more: Any) -> Response:
        """Returns the answer; its body is spent. Raises RequestException if none came."""
        more["stream"] = True
        response = super().request(*given, **more)
        with suppress(HTTPError):  # the status has come: the collector has decided
            response.raw.read1(MAX_ANSWER_BYTES, decode_content=False)
        response.close()  # does nothing to a connection whose answer was read to its end
        return response
