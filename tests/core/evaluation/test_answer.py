"""An answer has as many rows as images."""

from core.evaluation.answer import POSITIONS
from tests.core.evaluation.answers import made


def test_every_column_has_a_row_for_each_image():
    answer = made().answer
    columns = (answer.ids, answer.paths, answer.contents, answer.labels, answer.parts, answer.clusters, answer.halves, answer.confidences)
    assert {len(column) for column in (*columns, answer.margins, answer.positions, answer.duplicates, answer.places)} == {len(answer)}
    assert set(answer.positions.tolist()) <= set(range(len(POSITIONS)))
