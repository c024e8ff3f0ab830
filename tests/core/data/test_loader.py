import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.images import ArrayImages
from core.data.loader import ViewLoader, evaluation_batches, prefetched, sampling_weights
from core.data.splits import make_split
from core.data.views import ViewSpec, augment, evaluation_view, resize_all
from core.errors import UserError

SPEC = ViewSpec(image_size=6, resize=8)
IMAGES = resize_all(ArrayImages(np.random.default_rng(0).integers(0, 256, (26, 8, 8, 3), np.uint8)), SPEC)


def batches(loader: ViewLoader, epoch: int = 0):
    return [(batch.indices, batch.views) for batch in loader.epoch(epoch)]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True))


@pytest.fixture
def worker_threads():
    """Return the worker threads that the test has started: one of another test may live as long as its traceback is kept."""

    def running() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("views")]

    before = running()
    return lambda: [thread for thread in running() if thread not in before]


def test_an_epoch_is_a_function_of_seed_and_epoch():
    weights = np.arange(26.0)
    once = batches(ViewLoader(IMAGES, SPEC, 5, weights=weights, seed=3), 7)
    loader = ViewLoader(IMAGES, SPEC, 5, weights=weights, seed=3, num_workers=0)
    batches(loader, 6)
    assert same(once, batches(loader, 7)), "neither earlier epochs nor the number of workers matter"
    assert not same(once, batches(loader, 8))
    assert not same(once, batches(ViewLoader(IMAGES, SPEC, 5, weights=weights, seed=4), 7))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_the_ranks_together_see_what_one_rank_sees(world, share, n_views, epoch):
    def loader(rank: int, size: int) -> ViewLoader:
        return ViewLoader(IMAGES, SPEC, world * share, n_views, np.ones(26), seed=1, rank=rank, world_size=size, num_workers=0)

    whole = batches(loader(0, 1), epoch)
    parts = [batches(loader(rank, world), epoch) for rank in range(world)]
    for step, (indices, views) in enumerate(whole):
        assert torch.equal(indices, torch.cat([part[step][0] for part in parts]))
        by_view = [part[step][1].unflatten(0, (n_views, share)) for part in parts]
        assert torch.equal(views, torch.cat(by_view, dim=1).flatten(0, 1))


def test_views_come_view_by_view():
    loader = ViewLoader(IMAGES, SPEC, 4, n_views=3, seed=2)
    positions, parameters = loader._draw(0)
    batch = next(iter(loader.epoch(0)))
    assert batch.views.shape == (12, 3, 6, 6) and batch.views.dtype == torch.float32 and batch.indices.dtype == torch.int64
    for view in range(3):
        expected = augment(IMAGES.batch(positions[:4]), parameters[:4, view], SPEC)
        assert torch.equal(batch.views[4 * view : 4 * view + 4], expected)


def test_without_weights_every_image_comes_once():
    loader = ViewLoader(IMAGES, SPEC, 13)
    seen = torch.cat([indices for indices, _ in batches(loader)])
    assert loader.steps == 2 and sorted(seen.tolist()) == list(range(26))
    assert seen.tolist() != list(range(26))


@pytest.mark.parametrize(("batch_size", "steps", "used"), [(4, 6, 4), (26, 1, 26), (27, 1, 26), (1000, 1, 26), (25, 1, 25)])
def test_the_number_of_steps(batch_size, steps, used):
    loader = ViewLoader(IMAGES, SPEC, batch_size)
    assert (loader.steps, loader.batch_size) == (steps, used)
    assert [len(indices) for indices, _ in batches(loader)] == [used] * steps


def test_images_that_cannot_be_drawn_do_not_count():
    weights = np.zeros(26)
    weights[[3, 5, 8]] = 1
    loader = ViewLoader(IMAGES, SPEC, 128, weights=weights)
    assert loader.batch_size == 3
    seen = set(torch.cat([indices for epoch in range(20) for indices, _ in batches(loader, epoch)]).tolist())
    assert seen == {3, 5, 8}


def test_weights_balance_labelled_and_unlabelled_and_leave_validation_out():
    labels = np.repeat(np.arange(5), 100)
    split = make_split(labels, {0, 1, 2, 3}, 0.8, 0.1, 0)
    weights = sampling_weights(split.labelled, split.unlabelled, 500)
    assert weights[split.labelled].sum() == pytest.approx(weights[split.unlabelled].sum()) == len(split.labelled)
    assert not weights[split.validation].any()
    images = resize_all(ArrayImages(np.zeros((500, 8, 8, 3), np.uint8)), SPEC)
    drawn = np.concatenate([ViewLoader(images, SPEC, 32, weights=weights)._draw(epoch)[0] for epoch in range(20)])
    assert not np.isin(drawn, split.validation).any()
    assert abs(np.isin(drawn, split.labelled).mean() - 0.5) < 0.02


def test_weights_exist_without_labelled_or_without_unlabelled_images():
    none = np.zeros(0, np.int64)
    assert sampling_weights(np.arange(3), none, 4).tolist() == [1, 1, 1, 0]
    assert sampling_weights(none, np.arange(3), 4).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"n_views": 0}, "n_views"),
        ({"num_workers": -1}, "num_workers"),
        ({"batch_size": 7, "world_size": 2}, "cannot be shared by 2"),
        ({"weights": np.zeros(26)}, "no image to train on"),
    ],
)
def test_bad_options_are_user_errors(change, message):
    with pytest.raises(UserError, match=message):
        ViewLoader(IMAGES, SPEC, **({"batch_size": 4} | change))


def test_no_thread_is_left_when_the_iterator_ends_or_is_closed(worker_threads):
    loader = ViewLoader(IMAGES, SPEC, 2)
    batches(loader)
    assert not worker_threads()
    epoch = loader.epoch(1)
    next(epoch)
    assert worker_threads()
    epoch.close()
    assert not worker_threads()
    loader.epoch(2).close()
    assert not worker_threads()


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_exception_in_a_worker_reaches_the_consumer(worker_threads, num_workers):
    def build(step: int) -> int:
        if step == 2:
            raise UserError("photo.jpg is damaged")
        return step

    seen = []
    with pytest.raises(UserError, match="photo"):
        for item in prefetched(build, 9, num_workers):
            seen.append(item)
    assert seen == [0, 1] and not worker_threads()


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_prefetching_keeps_the_order(steps, num_workers):
    assert list(prefetched(lambda step: step * step, steps, num_workers)) == [step * step for step in range(steps)]


def test_the_next_batches_are_built_while_one_is_used_and_no_more():
    built, second = [], threading.Event()

    def build(step: int) -> int:
        built.append(step)
        if step == 2:
            second.set()
        return step

    items = prefetched(build, 50, 1)
    next(items)
    assert second.wait(10), "two more batches are built without being asked for"
    assert max(built) <= 2
    items.close()


def test_workers_leave_the_callers_thread_setting_alone():
    threads = torch.get_num_threads()
    assert list(prefetched(lambda _: torch.get_num_threads(), 3, 1)) == [1, 1, 1]
    assert torch.get_num_threads() == threads
    from_new_thread = []
    thread = threading.Thread(target=lambda: from_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert from_new_thread == [threads]


def test_waiting_is_recorded():
    loader = ViewLoader(IMAGES, SPEC, 4)
    batches(loader)
    assert loader.wait_seconds > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_goes_through_all_images_in_order(num_workers):
    parts = list(evaluation_batches(IMAGES, SPEC, 10, num_workers=num_workers))
    assert [len(indices) for indices, _ in parts] == [10, 10, 6]
    assert torch.cat([indices for indices, _ in parts]).tolist() == list(range(26))
    expected = evaluation_view(IMAGES.batch(np.arange(26)), SPEC)
    torch.testing.assert_close(torch.cat([views for _, views in parts]), expected)


def test_evaluation_can_be_limited_to_some_images():
    ((indices, views),) = evaluation_batches(IMAGES, SPEC, 10, indices=np.array([5, 2]))
    assert indices.tolist() == [5, 2]
    torch.testing.assert_close(views, evaluation_view(IMAGES.batch(np.array([5, 2])), SPEC))


def test_an_empty_set_has_no_evaluation_batches():
    assert list(evaluation_batches(IMAGES, SPEC, 10, indices=np.zeros(0, np.int64))) == []
