"""Tables and pictures of predicted beside true properties."""

import numpy as np

from torchslots.data.objects import encode_objects
from torchslots.evaluation.plot_objects import match_objects, plot_properties, properties_table


def scene() -> np.ndarray:
    """A large red metal cube in the middle and a small blue rubber sphere beside it."""
    labels = {
        "size": np.array([1, 0]),
        "material": np.array([1, 0]),
        "shape": np.array([0, 1]),
        "color": np.array([4, 1]),
    }
    return encode_objects(np.array([[0.0, 0, 0], [1.5, -1.5, 0.5]]), labels, 4)


def test_pairs_are_matched_whatever_their_order():
    true = scene()
    predicted = true[[1, 3, 0]]
    first, second = match_objects(predicted, true)
    assert first.right and second.right and first.distance == second.distance == 0
    assert first.true.words() == "large red metal cube"


def test_the_table_tells_right_from_wrong_missed_and_extra():
    true = scene()
    predicted = true[[0]].copy()
    predicted[0, 10:18] = np.eye(8)[2]
    predicted[0, :3] += 0.1
    (row, missed) = properties_table(predicted, true)
    assert row[1] == "large red metal cube" and row[3] == "large brown metal cube"
    assert row[5] == "1.04" and row[-1] == "wrong"
    assert missed[3] == "missed" and missed[-1] == "wrong"
    more = properties_table(np.concatenate([true[:2], true[:1]]), true)
    assert len(more) == 3 and more[2][1] == "" and more[2][-1] == ""
    unsure = np.concatenate([true[:2], true[:1] * 0.4])
    assert len(properties_table(unsure, true)) == 2


def test_the_picture_holds_the_image_and_shows_agreement_in_green():
    true, image = scene(), np.full((60, 80, 3), 200, np.uint8)
    right, wrong = plot_properties(image, true, true), plot_properties(image, true[:, ::-1].copy(), true)
    assert right.dtype == np.uint8 and right.shape[2] == 3
    assert (right[10:250, 10:330] == 200).all()
    green, red = np.array((110, 205, 130)), np.array((240, 115, 95))
    assert (right == green).all(-1).any() and not (right == red).all(-1).any()
    assert (wrong == red).all(-1).any()


def test_predictions_alone():
    picture = plot_properties(np.zeros((16, 16, 3), np.uint8), scene())
    assert picture.any()
