"""What outlives a command: traces, and the folders of audits."""

from alignstack.store.home import home
from alignstack.store.index import RunIndex, trace_id
from alignstack.store.runs import Run
from alignstack.store.traces import SqliteTraces

__all__ = ["Run", "RunIndex", "SqliteTraces", "home", "trace_id"]
