"""What has to hold after a run, whatever went wrong in it."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from alignstack.core.usage import Admitted, Settled
from alignstack.gateway.person import person_of
from benchmarks.soak.clients import Got, person
from benchmarks.soak.gateway import Killed
from benchmarks.soak.script import GOOD, REFUSAL, STOPPED

LIMITED = ("limited", "capped")
"""Groups whose keys have limits that they meet."""
LATE_S = 3.0
"""After a client has gone, until the ledger must say so; chosen by hand, a busy machine takes its time."""
DYING_S = 1.0
"""That a killed process may hold its connections on: a request may still be sent on them. Chosen by hand."""
GROWTH = 1.10
"""Of memory, between the middle and the end of a run."""
LAG_S = 4.0
"""Between the moment that the ledger has of a request and its turn at the limit: a busy gateway waits for a connection
to Redis and for the answer, 2 s each."""
SHOWN = 4
"""Problems that are printed of each check."""

Ledger = Sequence[Admitted | Settled]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that has to hold."""

    name: str
    said: str
    """With numbers: what it was held against."""
    problems: Sequence[str]


def table(checks: Sequence[Check]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'FAIL' if check.problems else 'ok':4}  {check.name:{width}}  {check.said}")
        lines += [f"      {'':{width}}  {problem[:300]}" for problem in check.problems[:SHOWN]]
        if len(check.problems) > SHOWN:
            lines.append(f"      {'':{width}}  … {len(check.problems)} in all")
    return "\n".join(lines)


def of(got: Got) -> str:
    """One request, for a person who has to look for it."""
    how = f"{got.ask.kind}, {'stream' if got.ask.stream else 'whole'}, {got.how}, HTTP {got.status}"
    return f"{got.ask.script.tag} {got.ask.route} ({how}) id {got.id!r}: "


# ---------------------------------------------------------------- what clients received


def unchecked(all_got: Sequence[Got]) -> Check:
    """No client has a byte that the output layers did not let go."""
    problems = [of(got) + f"received {got.read.text!r}" for got in all_got if got.leaked or not _allowed(got)]
    held = sum(got.ask.script.name in STOPPED for got in all_got)
    texts = sum(bool(got.read.text) for got in all_got)
    return Check(name="no unchecked byte", said=f"{texts} texts, {held} answers with the marker", problems=problems)


def _allowed(got: Got) -> bool:
    text = got.read.text
    if got.ask.kind == "forbidden" or text == REFUSAL:
        return REFUSAL.startswith(text)
    return got.ask.script.allows(text)


def well_formed(all_got: Sequence[Got], killed: Sequence[Killed], stray: int, refused: int) -> Check:
    """Every answer ends as it should, once, unless its client or its worker went away. `stray`: bytes that nobody
    asked for; `refused`: connections that could not be made, not even a dead worker is a reason for that."""
    broken = [got for got in all_got if got.how == "broken"]
    problems = [of(got) + (got.problem or "was broken off") for got in all_got
                if got.how in ("malformed", "stuck") or (got.how == "broken" and not excused(got, killed))]  # fmt: skip
    problems += [f"{stray} bytes that nobody asked for"] if stray else []
    problems += [f"{refused} connections were refused"] if refused else []
    left = sum(got.how == "left" for got in all_got)
    said = f"{len(all_got)} requests, {left} left by their clients, {len(broken)} broken by {len(killed)} kills"
    return Check(name="well-formed, one terminator", said=said, problems=problems)


def excused(got: Got, killed: Sequence[Killed]) -> bool:
    """Its worker was killed while it ran, or before it could write down that the client had gone."""
    return any(
        (got.port in kill.ports and got.began - DYING_S <= kill.at <= got.ended)
        or (got.how == "left" and kill.at - LATE_S <= got.ended <= kill.at)
        for kill in killed
    )


def outcomes(all_got: Sequence[Got]) -> Check:
    """Whoever waited was told what happened."""
    whole = [got for got in all_got if got.how == "whole"]
    problems = [of(got) + f"ended with {got.read.ending!r}: {got.read.text!r}" for got in whole if not _expected(got)]
    errors = sum(got.read.is_error for got in whole)
    said = f"{len(whole)} whole answers, {errors} of them errors"
    return Check(name="answers say what happened", said=said, problems=problems)


def _expected(got: Got) -> bool:
    script, read = got.ask.script, got.read
    if got.ask.kind.startswith("wrong"):
        return got.status == (400 if got.ask.kind == "wrong json" else 401)
    if limited(got):
        return True
    if got.ask.kind == "forbidden":
        return (got.status, read.ending, read.text) == (200, "content_filter", REFUSAL)
    if script.name in GOOD:
        return (got.status, read.ending, read.text) == (200, "stop", script.whole)
    if script.name in STOPPED:
        return (got.status, read.ending) == (200, "content_filter")
    return read.is_error


def limited(got: Got) -> bool:
    """Refused by a limit of its key."""
    return got.status == 429 and got.ask.script.group in LIMITED


# ---------------------------------------------------------------- the ledger


def accounted(
    all_got: Sequence[Got], ledger: Ledger, killed: Sequence[Killed], seen: Mapping[str, int], ids: Mapping[str, str]
) -> Check:
    """Every request that was let in stands in the ledger once, and so does its end. `seen`: how often each number came
    to the model server; `ids`: those of the keys, by group and number."""
    rows: dict[str, list[Admitted]] = defaultdict(list)
    ends: dict[str, list[Settled]] = defaultdict(list)
    for entry in ledger:
        if isinstance(entry, Admitted):
            rows[entry.person].append(entry)
        else:
            ends[entry.id].append(entry)
    problems = []
    for got in all_got:
        admitted = rows.pop(person_of(person(got.ask.script.number)), [])
        settled = [end for one in admitted for end in ends.pop(one.id, [])]
        came = str(got.ask.script.number) in seen
        for problem in _account(got, admitted, settled, came, excused(got, killed), ids):
            problems.append(of(got) + problem)
    problems += [f"{entry} was asked for by nobody" for some in rows.values() for entry in some]
    problems += [f"{end} was never admitted" for some in ends.values() for end in some]
    count = sum(isinstance(entry, Admitted) for entry in ledger)
    if problems:
        problems.append(f"workers were killed at {', '.join(f'{kill.at:.2f}' for kill in killed)}")
    said = f"{count} admitted, {2 * count - len(ledger)} of them never settled, {len(seen)} came to the model server"
    return Check(name="in the ledger once", said=said, problems=problems)


def _account(
    got: Got, admitted: Sequence[Admitted], settled: Sequence[Settled], came: bool, excused: bool,
    ids: Mapping[str, str],
) -> Iterator[str]:  # fmt: skip
    rejected = got.how == "whole" and (got.ask.kind.startswith("wrong") or limited(got))
    if len(admitted) > 1 or len(settled) > 1:
        yield f"stands there {len(admitted)} times, ended {len(settled)} times"
    if rejected and admitted:
        yield "was turned away and stands there"
    if came and not admitted:
        yield "came to the model server and does not stand there"
    if came and got.ask.kind != "asks":
        yield "came to the model server"
    if admitted and admitted[0].key != ids[key_name(got)]:
        yield f"is charged to {admitted[0].key}"
    if got.how == "whole" and not rejected:
        if [one.id for one in admitted] != [got.id] or not settled:
            yield f"has {admitted} {settled}"
        elif not _status_fits(got, settled[0]):
            yield f"is {settled[0].status}, settled"
    elif admitted and not settled and not excused:
        yield f"let in at {admitted[0].at:.2f}, left at {got.ended:.2f}, never ended: {admitted[0].id}"


def key_name(got: Got) -> str:
    return f"{got.ask.script.group}-{got.ask.key}"


def _status_fits(got: Got, settled: Settled) -> bool:
    name = got.ask.script.name
    if got.ask.kind == "forbidden" or (name in STOPPED):
        return settled.status in ("blocked", "cut")
    if name in GOOD:
        return settled.status == "delivered"
    return settled.status == "unavailable"


# ---------------------------------------------------------------- limits


def rate(ledger: Ledger, key: str, a_minute: int, processes: int) -> Check:
    """In any span of time no more than the limit at once, and then one every so often. `processes`: how many counted
    for themselves."""
    moments = sorted(entry.at for entry in ledger if isinstance(entry, Admitted) and entry.key == key)
    problems = []
    for first, start in enumerate(moments):
        for last in range(first, len(moments)):
            span = moments[last] - start
            if last - first + 1 > processes * (a_minute + (span + LAG_S) * a_minute / 60):
                problems.append(f"{last - first + 1} in {span:.1f} s")
    most = max((bisect_right(moments, start + 60) - first for first, start in enumerate(moments)), default=0)
    said = f"{a_minute} a minute, {_counting(processes)}: {len(moments)} in all, at most {most} in a minute"
    return Check(name=f"rate of {key}", said=said, problems=problems)


def concurrency(peak: int, cap: int, processes: int) -> Check:
    problems = [f"{peak} at once"] if peak > cap * processes else []
    said = f"{cap} at once, {_counting(processes)}: the model server saw at most {peak}"
    return Check(name="concurrency cap", said=said, problems=problems)


def _counting(processes: int) -> str:
    return "counted together" if processes == 1 else f"each of {processes} processes counts for itself"


# ---------------------------------------------------------------- what stays


def flat(name: str, samples: Sequence[float]) -> Check:
    """`samples`: evenly spaced over the run, in MB."""
    size = max(len(samples) // 10, 1)
    middle, end = median(samples[len(samples) // 2 :][:size]), median(samples[-size:])
    said = f"{samples[0]:.1f} MB at first, {middle:.1f} in the middle, {end:.1f} at the end ({end / middle - 1:+.1%})"
    return Check(name=name, said=said, problems=[] if end <= GROWTH * middle else ["grows"])


def milliseconds(got: Sequence[Got]) -> str:
    """Time to the first byte of plain answers."""
    times = [1000 * one.first_s for one in got if one.ask.script.name == "plain" and one.how == "whole"]
    if len(times) < 2:
        return "too few"
    cuts = quantiles(times, n=100)
    return f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms"
