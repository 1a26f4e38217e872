import pytest

from alignstack.attribution.attribute import attribute
from alignstack.attribution.result import Attribution
from alignstack.core.grid import Manifest, Record
from alignstack.report.document import build
from alignstack.report.schema import Report
from tests.report.sample import manifest, records


@pytest.fixture(scope="session")
def run() -> list[Record]:
    return records()


@pytest.fixture(scope="session")
def made(run: list[Record]) -> Manifest:
    return manifest(len(run))


@pytest.fixture(scope="session")
def attribution(run: list[Record], made: Manifest) -> Attribution:
    return attribute(run, made, resamples=50)


@pytest.fixture(scope="session")
def report(attribution: Attribution, made: Manifest, run: list[Record]) -> Report:
    return build(attribution, made, run)
