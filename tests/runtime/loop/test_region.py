import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hsruntime.loop.region import (
    active_count,
    cache_index,
    center_scores,
    grown,
    marked_count,
    marked_scores,
    marked_tokens,
    merge_index,
    random_scores,
    region_from_scores,
    row_index,
)


@st.composite
def regions(draw):
    """A region of random tokens; every size from none to all occurs."""
    count, tokens, seed = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(0, 99))
    scores = random_scores((1, tokens), range(seed, seed + count), 0)
    return region_from_scores(scores, draw(st.integers(0, tokens)))


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10_000))
def test_active_count_lies_within_a_64th_of_the_ratio(ratio, tokens):
    multiple = max(1, tokens // 64)
    count = active_count(ratio, tokens)
    assert 1 <= count <= tokens
    assert count % multiple == 0 or count == tokens
    assert abs(count - ratio * tokens) <= multiple


@pytest.mark.parametrize(
    ("ratio", "tokens", "count"),
    [(0.3, 4096, 1216), (0.3, 64, 19), (0.001, 4096, 64), (1e-9, 16, 1), (1.0, 16, 16), (0.5, 1, 1)],
)
def test_active_count_of_known_sizes(ratio, tokens, count):
    assert active_count(ratio, tokens) == count


@given(st.integers(1, 10_000))
def test_ratio_one_is_the_whole_picture(tokens):
    assert active_count(1.0, tokens) == tokens


SCORES = arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=st.integers(-2, 2).map(float))


@given(SCORES, st.data())
def test_region_holds_the_highest_scores_and_earlier_tokens_of_a_tie(scores, data):
    tokens = scores.shape[1]
    count = data.draw(st.integers(0, tokens))
    region = region_from_scores(scores, count)
    for picture in range(len(scores)):
        best = sorted(range(tokens), key=lambda token: (-scores[picture, token], token))[:count]
        assert region.active[picture].tolist() == sorted(best)


@given(regions())
def test_active_and_cached_tokens_are_the_picture(region):
    both = np.concatenate([region.active, region.cached], axis=1)
    assert region.active.dtype == region.cached.dtype == np.int32
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(both.shape[1]), (len(both), 1)))


@given(regions())
def test_mask_is_true_on_active_tokens_alone(region):
    assert region.mask.sum() == region.active.size
    for picture, active in enumerate(region.active):
        assert np.flatnonzero(region.mask[picture]).tolist() == active.tolist()


def test_random_scores_of_a_batch_are_those_of_single_pictures():
    batch = random_scores((4, 5), (5, 9, 7), 0)
    for row, seed in zip(batch, (5, 9, 7), strict=True):
        np.testing.assert_array_equal(row, random_scores((4, 5), [seed], 0)[0])
    assert not np.array_equal(batch[0], batch[1])


def test_random_scores_of_another_draw_are_others():
    assert not np.array_equal(random_scores((4, 5), [5], 0), random_scores((4, 5), [5], 1))


def test_random_scores_do_not_repeat_the_noise_of_the_picture():
    noise = np.random.Generator(np.random.PCG64(5)).random(20, np.float32)
    assert not np.array_equal(random_scores((4, 5), [5], 0)[0], noise)


def test_center_is_a_box_in_the_middle():
    mask = region_from_scores(center_scores((6, 4), [0, 1], 0), 8).mask
    box = np.zeros((6, 4), bool)
    box[1:5, 1:3] = True
    np.testing.assert_array_equal(mask, [box.ravel(), box.ravel()])


@given(regions(), st.integers(1, 3))
def test_row_index_picks_each_rows_own_columns(region, width):
    tokens = region.mask.shape[1]
    rows = np.random.default_rng(0).random((len(region.active), tokens, width))
    picked = rows.reshape(-1, width)[row_index(tokens, region.active)]
    np.testing.assert_array_equal(picked, [rows[b][region.active[b]] for b in range(len(rows))])


@given(regions(), st.sampled_from([1, 2]))
def test_cache_index_picks_cached_tokens_of_every_row(region, guidance_rows):
    pictures, tokens = region.mask.shape
    rows = pictures * guidance_rows
    everything = np.random.default_rng(0).random((rows, tokens, 2))
    index = cache_index(region.cached, rows, tokens)
    assert index.dtype == np.int32
    expected = [everything[g][region.cached[g % pictures]] for g in range(rows)]
    np.testing.assert_array_equal(everything.reshape(-1, 2)[index], np.reshape(expected, (*index.shape, 2)))


@given(regions())
def test_blend_takes_large_on_the_region_and_the_other_velocity_elsewhere(region):
    pictures, tokens = region.mask.shape
    rng = np.random.default_rng(0)
    large, other = rng.random((pictures, region.active.shape[1], 2)), rng.random((pictures, tokens, 2))
    expected = other.copy()
    for picture, active in enumerate(region.active):
        expected[picture, active] = large[picture]
    index = merge_index(region, pictures)
    blended = np.concatenate([large.reshape(-1, 2), other.reshape(-1, 2)])[index]
    np.testing.assert_array_equal(blended, expected)


@given(regions(), st.sampled_from([1, 2]))
def test_merge_index_renews_active_tokens_and_keeps_the_others(region, guidance_rows):
    pictures, tokens = region.mask.shape
    rows, rng = pictures * guidance_rows, np.random.default_rng(0)
    fresh, kept = rng.random((rows, region.active.shape[1], 2)), rng.random((rows, tokens, 2))
    expected = kept.copy()
    for row in range(rows):
        expected[row][region.active[row % pictures]] = fresh[row]
    numbers = np.concatenate([fresh.reshape(-1, 2), kept.reshape(-1, 2)])
    index = merge_index(region, rows)
    assert index.dtype == np.int32
    np.testing.assert_array_equal(numbers[index], expected)


def test_a_cache_index_may_start_behind_the_first_rows():
    everything = np.random.default_rng(0).random((4, 5, 2))
    index = cache_index(np.array([[1, 4]], np.int32), 1, 5, first=2)
    np.testing.assert_array_equal(everything.reshape(-1, 2)[index], everything[2:3][:, [1, 4]])


masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any)


@given(masks, st.integers(1, 3))
def test_a_token_is_marked_by_any_of_its_pixels(tokens, side):
    pixels = tokens.repeat(side, 0).repeat(side, 1)
    assert np.array_equal(marked_tokens(pixels, tokens.shape), tokens)
    corner = np.zeros_like(pixels)
    corner[::side, ::side] = tokens
    assert np.array_equal(marked_tokens(corner, tokens.shape), tokens)


@given(masks)
def test_a_marked_region_holds_what_is_marked_and_what_lies_next_to_it(tokens):
    scores, count = marked_scores(tokens), marked_count(tokens)
    region = region_from_scores(scores[None], count).mask.reshape(tokens.shape)
    assert region[tokens].all()
    assert tokens.sum() <= count <= tokens.size
    assert count - tokens.sum() < max(1, tokens.size // 64)
    near, far = scores.reshape(tokens.shape)[region], scores.reshape(tokens.shape)[~region]
    assert not far.size or near.min() >= far.max()


@given(masks)
def test_grown_marks_reach_every_neighbour(tokens):
    found = grown(tokens)
    for i, j in np.ndindex(tokens.shape):
        around = tokens[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        assert found[i, j] == around.any()
