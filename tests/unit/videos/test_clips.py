"""Which frames make a clip, against the official arithmetic written down frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swin_dense.errors import ConfigError
from swin_dense.videos.clips import ClipSampling, Views


@pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 100, 155, 299, 300, 310])
@pytest.mark.parametrize("clips", [1, 4, 10])
def test_clips_of_evaluation_are_the_official_ones(count: int, clips: int) -> None:
    """Each begins in the middle of its share of the possible first frames; a short video begins again."""
    found = ClipSampling(32, 2).centred(count, clips)
    for clip, indices in enumerate(found.tolist()):
        share = (count - 64 + 1) / clips
        first = int(clip * share + share / 2) if count > 63 else 0
        assert indices == [(first + 2 * place) % count for place in range(32)]


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 77, 300])
def test_segments_of_evaluation_are_the_official_ones(count: int) -> None:
    size = (count - 1) / 32
    bounds = [int(np.round(size * place)) for place in range(33)]
    expected = [(bounds[place] + bounds[place + 1]) // 2 for place in range(32)]
    assert ClipSampling(32, segments=True).centred(count).tolist() == [expected]


def test_training_clips_begin_anywhere_that_they_fit_and_come_of_the_seed() -> None:
    sampling, torch_seed = ClipSampling(4, 3), torch.manual_seed
    torch_seed(0)
    drawn = [sampling.draw(20) for _ in range(300)]
    assert {int(clip[0]) for clip in drawn} == set(range(20 - 12 + 1))
    assert all((np.diff(clip) == 3).all() and clip.max() < 20 for clip in drawn)
    torch_seed(0)
    assert all(np.array_equal(sampling.draw(20), clip) for clip in drawn)
    assert sampling.draw(5).tolist() == [0, 3, 1, 4]  # too short: it begins again


def test_training_segments_give_a_frame_of_each_segment() -> None:
    sampling = ClipSampling(8, segments=True)
    torch.manual_seed(0)
    drawn = np.stack([sampling.draw(80) for _ in range(400)])
    bounds = np.round(np.arange(9) * 79 / 8).astype(int)
    for place in range(8):
        assert set(drawn[:, place]) == set(range(bounds[place], bounds[place + 1] + 1))


def test_covering_clips_hold_every_frame_once_in_turn() -> None:
    assert ClipSampling(4, 2).covering(20).tolist() == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 19, 19]]
    assert ClipSampling(4, 1).covering(3).tolist() == [[0, 1, 2, 2]]


def test_three_crops_lie_along_the_longer_side() -> None:
    views = Views(clips=1, crops=3, size=224, short_side=224)
    assert [box[:2] for box in views.boxes((224, 401))] == [(0, 0), (0, 88), (0, 176)]  # official: twice the step
    assert [box[:2] for box in views.boxes((400, 224))] == [(0, 0), (88, 0), (176, 0)]
    assert Views(clips=1, crops=1, size=224, short_side=256).boxes((256, 300)) == ((16, 38, 224, 224),)


def test_views_are_cut_out_clip_by_clip() -> None:
    views = Views(clips=2, crops=3, size=8, short_side=8)
    video = torch.arange(2 * 4 * 8 * 16).reshape(8, 1, 8, 16).expand(8, 3, 8, 16)
    cut = list(views.of(video))
    assert len(cut) == len(views) == 6 and {tuple(one.shape) for one in cut} == {(4, 3, 8, 8)}
    assert torch.equal(cut[4], video[4:, :, :, 4:12])


def test_wrong_numbers_are_refused() -> None:
    for wrong in (lambda: ClipSampling(0), lambda: Views(crops=0), lambda: Views(size=224, short_side=200)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError, match="clips must be 1"):
        ClipSampling(segments=True).centred(50, clips=4)
