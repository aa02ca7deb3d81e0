"""The grid's table is made of answers: who is better on validation, by how much, and what test says."""

from pathlib import Path

import pytest

from bench.preparation import datasets, grid, table
from bench.preparation.datasets import Prepared
from bench.preparation.records import Run, keep, kept
from compression.schema.job_spec import Columns, Data
from compression.schema.recipe.recipe import Evaluate
from tests.compression.conftest import encoder  # noqa: F401 (a fixture)


def prepared(folder: Path) -> Prepared:
    """Forty rows of two labels a split, every second one positive."""
    for split in datasets.SPLITS:
        rows = [f'{{"text": "row {n}", "label": "{"yes" if n % 2 else "no"}"}}\n' for n in range(40)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    splits = {split: (str(folder / f"{split}.jsonl"),) for split in datasets.SPLITS}
    return Prepared("toy", "text-classification", Evaluate(), Data(format="jsonl", columns=Columns(), splits=splits), "abc")


def answering(wrong: int, *, rate: float = 1e-4, labels: tuple[str, ...] = ("no", "yes")) -> Run:
    """A run that is wrong about the first rows; its ids are of `labels`."""
    right = [labels.index("yes" if n % 2 else "no") for n in range(40)]
    said = tuple(float(1 - one if n < wrong else one) for n, one in enumerate(right))
    return Run("toy", "abc", rate, 0, 3, (0.5, (40 - wrong) / 40, 0.4), 2, said, said, 60.0, labels, converged=True)


def test_the_best_cell_is_the_best_on_validation_and_ids_are_read_by_their_names(tmp_path: Path) -> None:
    one = prepared(tmp_path)
    cells = {1e-4: [answering(10)], 3e-4: [answering(4, rate=3e-4)], 1e-3: [answering(20, rate=1e-3)]}
    found = table.compared(one, cells, [answering(5, labels=("yes", "no"))])
    assert found.rate == 3e-4
    assert (found.best, found.job) == pytest.approx((0.9, 0.875))
    assert found.error == pytest.approx((0.9 * 0.1 / 40) ** 0.5, rel=0.1)
    assert found.holds, "half a standard error is within one"
    assert found.low <= found.test_job - found.test_best <= found.high
    assert not table.compared(one, cells, [answering(8)]).holds
    assert "no, 10.00% below" in table.lines(one, cells, [answering(8)])


def test_the_metric_is_the_set_s(tmp_path: Path) -> None:
    one = prepared(tmp_path)
    wanted = grid.wanted_of(one, one.rows("test"))
    assert wanted.tolist() == [0, 1] * 20
    assert grid.score(one, wanted, wanted) == 1.0


def test_a_record_is_of_its_rows(tmp_path: Path) -> None:
    run = answering(4)
    keep(run, tmp_path / "deep" / "one.json")
    assert kept(tmp_path / "deep" / "one.json", "abc") == run
    assert kept(tmp_path / "deep" / "one.json", "other") is None
    assert kept(tmp_path / "none.json", "abc") is None


def test_the_grid_trains_a_stock_model(
    tmp_path: Path,
    encoder: Path,  # noqa: F811
) -> None:
    one = prepared(tmp_path)
    found = grid.run(one, encoder, tmp_path / "records", 1e-3, 0, 2)
    assert len(found.curve) == 2
    assert found.curve[found.best_epoch - 1] == max(found.curve)
    assert len(found.validation) == len(found.test) == 40
    again = grid.run(one, tmp_path / "nowhere", tmp_path / "records", 1e-3, 0, 2)
    assert again == found, "it is not trained twice"
