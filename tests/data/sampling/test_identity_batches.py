"""P×K batches: the contract, counted by hand and by independent code, and the stream that follows them."""

import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.stream import TrainStream
from fusionjax.data.sampling import identity_batches, order
from fusionjax.errors import UserError
from tests.support import trees

# Images of each identity; P; K.
CASES = {
    "even": ([4] * 8, 4, 2),
    "few images": ([1, 2, 3, 9, 5], 2, 4),
    "all alone": ([1] * 10, 4, 2),
    "one dominates": ([100, 1, 1, 1, 2], 4, 2),
    "as many identities as P": ([7, 3, 5], 3, 2),
    "nearly as many, all large": ([40] * 7 + [33], 8, 4),
    "left over": ([5, 7, 9, 11, 13, 4, 6], 3, 4),
    "one image each batch": ([3, 1, 2], 2, 1),
    "one identity each batch": ([3, 1, 2], 1, 2),
    "16 by 4": (list(np.random.default_rng(1).geometric(0.06, 90)), 16, 4),
}


def make(counts, p, k, seed=0):
    """Shuffled labels that are not 0 … C − 1, and the order."""
    labels = np.repeat(10 + 3 * np.arange(len(counts)), counts)
    labels = np.random.default_rng(5).permutation(labels)
    return labels, identity_batches.IdentityOrder(labels, identities=p, per_identity=k, seed=seed)


def epoch(sampled, number: int) -> np.ndarray:
    pairs = [sampled.at(i) for i in range(number * sampled.size, (number + 1) * sampled.size)]
    assert {e for e, _ in pairs} == {number}
    return np.array([i for _, i in pairs])


@pytest.mark.parametrize("case", CASES)
def test_every_batch_is_p_identities_with_k_images(case):
    counts, p, k = CASES[case]
    labels, sampled = make(counts, p, k)
    assert sampled.size == sampled.batches * p * k
    for number in (0, 1, 5):
        rows = labels[epoch(sampled, number)].reshape(-1, p, k)
        assert (rows == rows[:, :, :1]).all()
        assert all(len(set(batch[:, 0])) == p for batch in rows)


@pytest.mark.parametrize("case", CASES)
def test_an_epoch(case):
    """Every identity is seen; groups are ⌊n / K⌋ or 1, fewer than P more in all, none beyond one a batch."""
    counts, p, k = CASES[case]
    labels, sampled = make(counts, p, k)
    size = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    batches = sampled.batches
    for number in (0, 1):
        groups = epoch(sampled, number).reshape(-1, k)
        seen = Counter(labels[groups[:, 0]])
        assert set(seen) == set(size)
        more = sum(seen.values()) - sum(min(max(1, n // k), batches) for n in size.values())
        assert 0 <= more < p
        for identity, n in size.items():
            own = groups[labels[groups[:, 0]] == identity]
            usual = min(max(1, n // k), batches)
            assert usual <= len(own) <= batches
            for group in own:
                assert len(set(group)) == min(n, k)  # all its images before one comes again
            if n >= k:  # usual groups share no image: drawn without replacement
                times = Counter(own.ravel().tolist())
                assert sum(times.values()) - len(times) <= max(0, len(own) * k - n)
    # No epoch of one more batch would lack fewer than P groups.
    longer = batches + 1
    assert longer * p - sum(min(max(1, n // k), longer) for n in size.values()) >= p


@pytest.mark.parametrize(
    ("counts", "p", "k", "batches"),
    [
        ([4] * 8, 4, 2, 4),  # 16 groups
        ([4] * 9, 4, 2, 5),  # 18 groups, 2 more
        ([1] * 10, 4, 2, 3),  # 10 groups, 2 more
        ([100, 1, 1, 1, 2], 4, 2, 2),  # 2 of the first one's 50 groups, 4 others, 2 more
        ([40] * 7 + [33], 8, 4, 10),  # 70 + 8 groups, 2 more of the last identity
        ([12, 12], 2, 4, 3),
    ],
)
def test_length_of_an_epoch(counts, p, k, batches):
    _, sampled = make(counts, p, k)
    assert sampled.batches == batches and sampled.size == batches * p * k
    assert order.steps_per_epoch(sampled.size, p * k) == batches


def test_further_groups_are_spread_evenly_and_drawn_anew():
    labels, sampled = make([2] * 10, 4, 2)  # 10 groups in 3 batches: two identities come twice
    twice = []
    for number in range(8):
        seen = Counter(labels[epoch(sampled, number)])
        assert sorted(seen.values()) == [2] * 8 + [4] * 2
        twice.append(tuple(sorted(i for i, n in seen.items() if n == 4)))
    assert len(set(twice)) > 1


def test_all_images_come_in_time_and_identities_mix():
    labels, sampled = make([7] * 12, 3, 4)  # one group of 4 of 7 images an epoch
    seen = set(np.concatenate([epoch(sampled, n) for n in range(12)]).tolist())
    assert seen == set(range(len(labels)))
    partners = {
        tuple(sorted(batch)) for n in range(6) for batch in labels[epoch(sampled, n)].reshape(-1, 3, 4)[:, :, 0]
    }  # fmt: skip
    assert len(partners) > 15  # of 24 batches and 220 possible sets


def test_leftover_images_fill_a_further_group_first():
    """An identity of 7 images that must give 2 groups of 4: the second has the 3 that are left, and one more."""
    labels, sampled = make([7, 4, 4, 8], 3, 4)  # 1 + 1 + 1 + 2 groups, one more
    checked = 0
    for number in range(30):
        own = [g for g in epoch(sampled, number).reshape(-1, 4) if labels[g[0]] == 10]
        if len(own) == 2:
            assert len(set(np.concatenate(own))) == 7
            checked += 1
    assert checked


def test_it_is_a_function_of_seed_epoch_and_position():
    a, b, c = (make([3, 9, 4, 6, 2], 2, 3, seed=s)[1] for s in (0, 0, 1))
    forward = [a.at(i) for i in range(5 * a.size)]
    backward = [b.at(i) for i in reversed(range(5 * b.size))][::-1]  # over more epochs than are kept
    assert forward == backward != [c.at(i) for i in range(5 * c.size)]
    assert a.at(10**12 + 7) == b.at(10**12 + 7)
    epochs = {tuple(epoch(a, n)) for n in range(4)}
    assert len(epochs) == 4


def test_threads_agree():
    sampled, alone = (make([3, 9, 4, 6, 2, 8], 3, 2)[1] for _ in range(2))
    positions = np.random.default_rng(0).permutation(8 * sampled.size).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(sampled.at, positions))
    assert found == [alone.at(i) for i in positions]


def test_repeat_counts_what_the_epoch_had_before():
    _, sampled = make([1, 2, 3, 9, 5], 2, 4)
    for number in (0, 1):
        seen: Counter = Counter()
        for position in range(number * sampled.size, (number + 1) * sampled.size):
            index = sampled.at(position)[1]
            assert sampled.repeat(position) == seen[index]
            seen[index] += 1
        assert max(seen.values()) > 1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"identities": 0}, "P must be an integer, at least 1"),
        ({"identities": True}, "P must be an integer"),
        ({"per_identity": 0}, "K must be an integer, at least 1"),
        ({"per_identity": 2.0}, "K must be an integer"),
        ({"identities": 4}, "needs P = 4 different identities, and the data set has 3; lower P"),
    ],
)
def test_impossible_batches(fields, match):
    with pytest.raises(UserError, match=match) as e:
        identity_batches.IdentityOrder(
            np.array([5, 5, 6, 7]), **{"identities": 2, "per_identity": 2, "seed": 0, **fields}
        )
    assert "\n" not in str(e.value)


# --- the stream


COUNTS = (4, 1, 6, 3, 5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("identities")
    for c, images in enumerate(COUNTS):
        trees.folder(root / "train", (f"id{c}",), images=images)
    return datasets.create(settings(root=str(root)), "train", seed=0)


def settings(**fields):
    data = config.default().data
    data.resize, data.image_size, data.threads, data.prefetch = 24, 16, 2, 8
    data.augment.jitter = 0.2
    data.update(fields)
    return data


def dataset(source, p=4, k=2, *, seed=0, data=None, batch_size=None, **share) -> TrainStream:
    sampled = identity_batches.IdentityOrder(source.labels, identities=p, per_identity=k, seed=seed)
    size = p * k if batch_size is None else batch_size
    return pipeline.train_dataset(
        source, data or settings(), seed=seed, batch_size=size, order=sampled, **share
    )


def take(stream, n: int) -> list[dict]:
    batches = list(itertools.islice(stream, n))
    stream.close()
    return batches


def same(a: list[dict], b: list[dict]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def test_batches_of_the_pipeline(source):
    stream = dataset(source)
    assert stream.epoch_size == 3 * 8  # 2 + 1 + 3 + 1 + 2 groups of 2 in batches of 4
    batches = take(stream, 7)
    for batch in batches:
        assert batch["image"].shape == (8, 16, 16, 3)
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
        rows = batch["label"].reshape(4, 2)
        assert (rows == rows[:, :1]).all() and len(set(rows[:, 0])) == 4
    first = np.concatenate([b["index"] for b in batches[:3]])
    sampled = identity_batches.IdentityOrder(source.labels, identities=4, per_identity=2, seed=0)
    assert first.tolist() == [sampled.at(i)[1] for i in range(24)]


def test_an_image_that_comes_again_is_augmented_anew(source):
    batches = take(dataset(source, 5, 4), 6)
    lone = int(np.flatnonzero(source.labels == 1)[0])
    for batch in batches:
        images = batch["image"][batch["index"] == lone]
        assert len(images) == 4
        assert len({image.tobytes() for image in images}) > 1


@pytest.mark.parametrize("at", [0, 2, 3, 7])
def test_resume_is_exact(source, at):
    whole = take(dataset(source), 10)
    stream = dataset(source)
    for _ in range(at):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    stream.close()
    resumed = dataset(source, data=settings(threads=5, prefetch=1))
    next(resumed)
    resumed.set_state(state)
    same(take(resumed, 10 - at), whole[at:])


def test_processes_share_a_batch_by_identities(source):
    whole = take(dataset(source), 7)
    parts = [take(dataset(source, process_index=i, process_count=2), 7) for i in (0, 1)]
    same(whole, [{k: np.concatenate([x[k], y[k]]) for k in x} for x, y in zip(*parts, strict=True)])
    for one, two in zip(*parts, strict=True):
        assert not set(one["label"]) & set(two["label"]) and len(set(one["label"])) == 2


@pytest.mark.parametrize(
    ("make_other", "match"),
    [
        (lambda s: dataset(s, 2, 4), "identities=4, this run has 2"),
        (lambda s: dataset(s, 4, 2, seed=1), "seed=0, this run has 1"),
        (
            lambda s: pipeline.train_dataset(s, settings(), seed=0, batch_size=8),
            "identities=4, this run has None",
        ),
    ],
)
def test_state_of_another_order_is_refused(source, make_other, match):
    state = dataset(source).get_state()
    with pytest.raises(UserError, match=match):
        make_other(source).set_state(state)
    back = make_other(source).get_state()
    with pytest.raises(UserError, match="the checkpoint's data order has"):
        dataset(source).set_state(back)


def test_state_of_other_labels_is_refused(source):
    state = dataset(source).get_state()
    labels = source.labels.copy()
    labels[[0, 4]] = labels[[4, 0]]
    sampled = identity_batches.IdentityOrder(labels, identities=4, per_identity=2, seed=0)
    other = pipeline.train_dataset(source, settings(), seed=0, batch_size=8, order=sampled)
    with pytest.raises(UserError, match="order_labels"):
        other.set_state(state)


def test_the_state_of_the_plain_order_is_what_it_was(source):
    stream = pipeline.train_dataset(source, settings(), seed=3, batch_size=4)
    assert stream.get_state() == {"batches": 0, "examples": 19, "seed": 3, "batch_size": 4}
    plain = order.Order(19, 3)
    indices = np.concatenate([b["index"] for b in take(stream, 6)])
    assert indices.tolist() == [plain.at(i)[1] for i in range(24)] and stream.epoch_size == 19


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"batch_size": 16}, r"batch size 16 is not P × K = 4 × 2 = 8; set it so"),
        ({"process_count": 8}, "1 rows per process is not a multiple of K = 2"),
        ({"process_count": 3}, "not a multiple of the 3 processes"),
    ],
)
def test_batches_that_do_not_fit(source, fields, match):
    with pytest.raises(UserError, match=match):
        dataset(source, **fields)
    sampled = identity_batches.IdentityOrder(source.labels[1:], identities=4, per_identity=2, seed=0)
    with pytest.raises(UserError, match="of 18 labels, and the data set has 19 examples"):
        pipeline.train_dataset(source, settings(), seed=0, batch_size=8, order=sampled)
