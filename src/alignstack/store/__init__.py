"""What outlives a command or a gateway: traces, the folders of audits, API keys and the ledger of what was used."""

from alignstack.store.entries import Recent
from alignstack.store.home import home
from alignstack.store.index import RunIndex, trace_id
from alignstack.store.keys import KeyRing, SqliteKeys
from alignstack.store.ledger import SqliteLedger
from alignstack.store.runs import Run
from alignstack.store.traces import SqliteTraces
from alignstack.store.writer import Writer

__all__ = [
    "KeyRing",
    "Recent",
    "Run",
    "RunIndex",
    "SqliteKeys",
    "SqliteLedger",
    "SqliteTraces",
    "Writer",
    "home",
    "trace_id",
]
