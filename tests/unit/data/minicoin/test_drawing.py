"""What is drawn is what is said to be drawn; the oracle is the pixels."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from lcia.data.minicoin import drawing


@pytest.mark.parametrize("seed", range(20))
def test_the_box_of_a_thing_is_the_extent_of_its_colour(seed: int) -> None:
    drawn = drawing.scene(Random(seed), count=1 + seed % 4)
    pixels = np.asarray(drawn.image)
    for thing in drawn.things:
        rows, columns = np.nonzero((pixels == drawing.COLOURS[thing.colour]).all(axis=2))
        left, top, right, bottom = (round(32 * value) for value in thing.box)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)


@pytest.mark.parametrize("seed", range(20))
def test_a_thing_lies_in_the_quarter_that_its_cell_names(seed: int) -> None:
    for thing in drawing.scene(Random(seed), count=4).things:
        middle_x, middle_y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
        across, down = "right" if middle_x > 0.5 else "left", "bottom" if middle_y > 0.5 else "top"
        assert drawing.CELLS[thing.cell] == f"{down} {across}"


def test_the_things_of_a_scene_differ_in_shape_and_in_colour() -> None:
    things = drawing.scene(Random(0), count=4).things
    assert len({thing.shape for thing in things}) == len({thing.colour for thing in things}) == 4


@pytest.mark.parametrize("seed", range(20))
def test_a_plain_scene_holds_one_colour_on_a_light_ground(seed: int) -> None:
    drawn = drawing.plain_scene(Random(seed))
    colours = drawn.image.getcolors()
    assert colours is not None
    assert {colour for _, colour in colours} - {drawing.PLAIN_COLOURS[drawn.things[0].colour]} == {
        max(colours, key=lambda entry: min(entry[1]))[1]
    }


def test_the_parts_of_the_digits_share_no_picture_and_leave_none_out() -> None:
    parts = [drawing._digits(part) for part in ("alignment", "train", "validation", "test")]
    pictures = [pixels.tobytes() for part in parts for pixels, _ in part]
    assert len(pictures) == 1797
    assert len(set(pictures)) == 1797


def test_every_part_of_the_digits_has_all_ten_values() -> None:
    for part in ("train", "validation", "test"):
        assert {value for _, value in drawing._digits(part)} == set(range(10))


def test_a_hopeless_picture_has_lost_its_colour_and_a_bad_one_has_not() -> None:
    drawn = drawing.scene(Random(0), 1)
    colour = drawing.COLOURS[drawn.things[0].colour]
    where = (np.asarray(drawn.image) == colour).all(axis=2)
    mild, hopeless = (np.asarray(drawing.degrade(Random(1), drawn.image, bad), float)[where] for bad in (False, True))
    assert np.abs(mild.mean(axis=0) - colour).max() * 2 < np.abs(hopeless.mean(axis=0) - colour).max()


def test_a_seed_gives_the_same_pixels_again() -> None:
    first, second = (drawing.degrade(Random(3), drawing.sign(Random(3), "taxi"), False) for _ in range(2))
    assert drawing.encode_png(first) == drawing.encode_png(second)
