"""What a client is told when the model could not answer. Which server it was, and what exactly happened, is the
operator's to know, by the trace id."""

from alignstack.core.events import ModelEvent
from alignstack.gateway.call import Refused

CLIENTS = frozenset({400, 404, 405, 409, 413, 415, 422})
"""Statuses by which a model server says that the request is wrong."""


def refusal_of(event: ModelEvent) -> Refused:
    """`event.finish` is `unavailable`."""
    if event.status in CLIENTS:
        said = event.message.partition(f"HTTP {event.status}")[2].lstrip(": ")
        what = "the model server does not accept this request" + (f": {said}" if said else "")
        return Refused(400, what, kind="invalid_request_error")
    if event.status == 429:
        wait = str(max(1, round(event.retry_after or 1)))
        what = "the model server is busy; try again later"
        return Refused(429, what, kind="rate_limit_error", code="upstream_rate_limit", headers={"retry-after": wait})
    if event.status == 504:
        return Refused(504, "the model server did not answer in time", kind="server_error", code="upstream_timeout")
    if event.status in (503, 529):
        return Refused(503, "the model server is overloaded; try again later", kind="server_error")
    return Refused(502, "the model server did not answer", kind="server_error", code="upstream_error")
