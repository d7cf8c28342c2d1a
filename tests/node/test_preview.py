"""The legend below the picture of a result."""

import pytest
from PIL import ImageFont

from node.preview import MOST_LINES, legend_columns

FONT = ImageFont.load_default(15)


@pytest.mark.parametrize(
    ("count", "width", "sides"),
    [
        (0, 420, [0]),
        (5, 420, [5]),
        (MOST_LINES, 420, [MOST_LINES]),
        (103, 970, [35, 35, 33]),
        (103, 300, [MOST_LINES]),
    ],
)
def test_a_legend_has_as_many_columns_as_it_needs_and_there_is_room_for(
    count: int, width: int, sides: list[int]
) -> None:
    lines = [((number, 0, 0), f"label {number}: Volume 1.0 mL") for number in range(count)]
    columns = legend_columns(lines, width, FONT)
    assert [len(column) for column in columns] == sides
    shown = [line for column in columns for line in column]
    left_out = count - len([line for line in shown if line in lines])
    assert left_out == 0 or shown[-1][1] == f"and {left_out} more, in the report"
