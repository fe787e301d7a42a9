"""The file of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import results
from bench.results import ResultsError
from tests.support.bench import new_run


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = new_run(start={"pyproxy": [{"answer_p50_ms": 11.0}, None]})
    results.write(run, tmp_path / "run.json")
    assert results.read(tmp_path / "run.json") == run


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 0}', '{"schema": 1, "started": "x"}'])
def test_a_file_that_is_no_run_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultsError, match=r"run\.json"):
        results.read(tmp_path / "run.json")
