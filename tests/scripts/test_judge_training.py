import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnxruntime import InferenceSession

from demo_training import checkpoint
from demo_training.corpus import PICTURE_SIZE
from demo_training.progress import progress_bar
from demo_training.schedule import generator_at
from hsengines.ort.session import session_options
from judge_training.augmentation import Strengths, augmented, blurred, cut, placed, softened
from judge_training.network import CELL, FEATURES, Judge, PictureJudge, ink_from_pictures
from judge_training.training import Lessons, train_judge
from judge_training.write import judged, write_graph, write_reference

SIDE = 72
STILL = Strengths(0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An untrained judge of five names, and its graph's path."""
    torch.manual_seed(0)
    judge = Judge(5)
    judge(torch.rand(8, 3, 64, 64))  # moves the running statistics away from 0 and 1
    path = tmp_path_factory.mktemp("judge") / "judge.onnx"
    write_graph(path, judge, PICTURE_SIZE)
    return judge, path


def pictures_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)


def session_of(path):
    return InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 3])
def test_the_graph_answers_as_the_network_does_for_any_number_of_pictures(exported, count):
    judge, path = exported
    pictures = pictures_of(count)
    features, logits = judged(session_of(path), pictures)
    with torch.inference_mode():
        expected = PictureJudge(judge)(torch.from_numpy(pictures))
    assert features.shape == (count, FEATURES) and features.dtype == np.float32
    # The exporter folds normalisations into convolutions; sums of a thousand float32 terms differ in the last digits.
    np.testing.assert_allclose(features, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, expected[1], rtol=1e-4, atol=1e-4)


def test_the_graph_is_one_file_that_takes_pictures_as_bytes(exported):
    _, path = exported
    session = session_of(path)
    assert [file.name for file in path.parent.iterdir()] == ["judge.onnx"]
    assert [(i.name, i.type) for i in session.get_inputs()] == [("pictures", "tensor(uint8)")]
    assert [(o.name, o.shape[1]) for o in session.get_outputs()] == [("features", FEATURES), ("logits", 5)]


def test_the_network_of_all_names_is_small():
    assert sum(p.numel() for p in Judge(250).parameters()) < 0.6e6


def test_the_reference_is_the_mean_and_the_covariance_of_features(tmp_path):
    features = np.random.default_rng(0).normal(2, 3, (50, 4)).astype(np.float32)
    write_reference(tmp_path / "reference.npz", features)
    with np.load(tmp_path / "reference.npz") as kept:
        centred = features - kept["mean"]
        np.testing.assert_allclose(kept["covariance"], centred.T @ centred / 49, rtol=1e-5)
        assert kept["mean"].dtype == kept["covariance"].dtype == np.float64


def test_white_paper_has_no_ink():
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert not ink_from_pictures(white).any()


def test_placed_pictures_keep_their_ink_wherever_they_stand():
    ink = torch.rand(6, 3, SIDE, SIDE, generator=generator_at(0, 0))
    canvas = placed(ink, generator_at(0, 1), STILL)
    assert canvas.shape == (6, 3, PICTURE_SIZE, PICTURE_SIZE)
    # A place between pixels spreads a pixel over its neighbours; nothing is lost.
    torch.testing.assert_close(canvas.sum(dim=(2, 3)), ink.sum(dim=(2, 3)), rtol=1e-2, atol=0)
    assert len(canvas.sum(dim=1).flatten(1).argmax(dim=1).unique()) == 6


def test_without_strength_an_augmented_scene_is_the_placed_picture():
    ink = torch.rand(4, 3, SIDE, SIDE, generator=generator_at(0, 0))
    cells = augmented(ink, generator_at(0, 1), Strengths(0, 0, 0, 0, 0, 0, 0, cutout_share=0))
    torch.testing.assert_close(cells, F.avg_pool2d(placed(ink, generator_at(0, 1), STILL), CELL))


def test_augmented_scenes_follow_the_seed_alone():
    ink = torch.rand(4, 3, SIDE, SIDE)
    once, again, other = (augmented(ink, generator_at(0, step), Strengths()) for step in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_blur_keeps_the_ink_and_spreads_it_more_for_a_larger_deviation():
    point = torch.zeros(2, 3, 16, 16)
    point[:, :, 8, 8] = 1
    spread = blurred(point, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(spread.sum(dim=(2, 3)), torch.ones(2, 3))
    assert spread[0, 0, 8, 8] == pytest.approx(1)
    assert spread[1, 0, 8, 8] < 0.2
    torch.testing.assert_close(spread[1, 0], spread[1, 0].T)


def test_softness_removes_detail_in_proportion():
    cells = torch.zeros(2, 3, 8, 8)
    cells[:, :, ::2] = 1
    soft = softened(cells, torch.tensor([0.0, 1.0]))
    assert torch.equal(soft[0], cells[0])
    torch.testing.assert_close(soft[1], torch.full((3, 8, 8), 0.5))


def test_cutouts_leave_paper_in_some_pictures():
    cells = torch.ones(40, 3, 16, 16)
    left = cut(cells, generator_at(0, 0), Strengths(cutout_share=0.5))
    touched = (left == 0).flatten(1).any(dim=1)
    assert 10 < touched.sum() < 30
    assert torch.equal(left[~touched], cells[~touched])


def test_a_killed_training_goes_on_to_the_weights_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr("judge_training.training.SAVE_EVERY", 2)
    monkeypatch.setattr("judge_training.training.BATCH", 4)
    lessons = Lessons(torch.rand(5, 3, SIDE, SIDE, generator=generator_at(0, 0)), 4, 0, Strengths())
    with progress_bar() as progress:
        whole = train_judge(lessons, tmp_path / "whole", progress)

        def killed(path, state):
            checkpoint_save(path, state)
            raise KeyboardInterrupt

        checkpoint_save = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_judge(lessons, tmp_path / "killed", progress)
        monkeypatch.setattr(checkpoint, "save", checkpoint_save)
        assert checkpoint.load(tmp_path / "killed" / "judge.pt")["step"] == 2
        resumed = train_judge(lessons, tmp_path / "killed", progress)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_training_learns_to_tell_colours_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("judge_training.training.BATCH", 8)
    ink = torch.zeros(3, 3, SIDE, SIDE)
    for colour in range(3):
        ink[colour, colour] = 1
    with progress_bar() as progress:
        judge = train_judge(Lessons(ink, 30, 0, Strengths()), tmp_path, progress)
    with torch.inference_mode():
        logits = judge(augmented(ink, generator_at(1, 0), Strengths()))[1]
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]
