"""Labels of the plot: inside the frame, beside their points, over one another only where there is no room."""

from pathlib import Path

import numpy as np
import pytest

from hsexport.measure.bench import plot
from hsexport.measure.bench.labels import Ground, covered, placed
from hsexport.measure.bench.report import panels_of, report_from_json

DOCS = Path(__file__).parents[4] / "docs"
NOTHING = np.zeros((0, 4))


@pytest.fixture
def labelled(monkeypatch, tmp_path):
    """Draws a report that docs holds, and gives axes and labels of each panel as they lie in the picture."""

    def draw(name):
        from matplotlib import pyplot

        figures = []
        monkeypatch.setattr(pyplot, "close", figures.append)
        panels = panels_of(report_from_json((DOCS / f"{name}.json").read_bytes()))
        plot.draw(panels, "large alone", [tmp_path / "plot.png"])
        monkeypatch.undo()
        figures[0].canvas.draw()  # the picture has other pixels than the figure
        panels = [(axis.get_window_extent(), [t.get_window_extent() for t in axis.texts]) for axis in figures[0].axes]
        pyplot.close(figures[0])
        return panels

    return draw


@pytest.mark.parametrize(("name", "panels"), [("schedules", 2), ("sweep", 1), ("grids", 1)])
def test_every_label_lies_inside_the_frame_and_over_no_other(labelled, name, panels):
    found = labelled(name)
    assert len(found) == panels
    for frame, labels in found:
        assert labels
        assert all(frame.x0 < b.x0 and b.x1 < frame.x1 and frame.y0 < b.y0 and b.y1 < frame.y1 for b in labels)
        boxes = np.array([label.extents for label in labels])
        assert np.triu(covered(boxes, boxes), 1).max() < 30  # square pixels: less than a letter


def test_points_at_the_frames_corners_have_their_labels_inside():
    frame = np.array([0.0, 0.0, 300.0, 200.0])
    points = np.array([[0, 0], [300, 0], [0, 200], [300, 200.0]])
    boxes = placed(points, np.tile([80.0, 10.0], (4, 1)), Ground(frame, NOTHING, NOTHING))
    assert (boxes[:, :2] >= frame[:2]).all() and (boxes[:, 2:] <= frame[2:]).all()


def test_labels_of_points_close_together_make_way_for_one_another():
    points = np.array([[200, 150], [204, 152], [208, 149], [200, 156], [206, 158.0]])
    marks = np.concatenate([points - 4, points + 4], axis=1)
    boxes = placed(points, np.tile([90.0, 10.0], (5, 1)), Ground(np.array([0, 0, 400.0, 300.0]), marks, NOTHING))
    assert np.triu(covered(boxes, boxes), 1).max() < 1 and covered(boxes, marks).max() < 1  # a square pixel


def test_a_label_crosses_a_line_rather_than_a_mark():
    point, frame = np.array([[50, 20.0]]), np.array([0, 10.0, 100, 34.0])
    marks, strokes = np.array([[45, 10, 55, 23.0]]), np.array([[0, 29, 100, 31.0]])
    box = placed(point, np.array([[90.0, 10.0]]), Ground(frame, marks, strokes))
    assert not covered(box, marks).any() and covered(box, strokes).any()
