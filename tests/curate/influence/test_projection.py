"""curate.influence.projection: equal to matrices written out, the same for any batch, order and device, unbiased."""

import hashlib
import math

import numpy as np
import pytest
import torch

from curate.influence.counters import random_words, stream_number
from curate.influence.projection import ProjectionError, make_projection
from tests.reference import projection as reference

KINDS = ["sketch", "rademacher"]
CPU = torch.device("cpu")
SIZES = {"layers.0.A": 7, "layers.0.B": 16, "layers.1.A": 45, "bias": 1}  # below, equal to and above d = 16


def blocks(rows: int, sizes: dict[str, int] = SIZES, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, size, generator=generator) for name, size in sizes.items()}


def project(projection, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    first = next(iter(parts.values()))
    out = torch.zeros(first.shape[0], projection.dimension, device=first.device)
    for name, u in parts.items():
        projection.add(out, name, u)
    return out


def matrix(projection, name: str, size: int, device: torch.device = CPU) -> torch.Tensor:
    """S_name (d, size) as the projection of the unit vectors."""
    return project(projection, {name: torch.eye(size, device=device)}).T


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def test_words_equal_the_reference():
    stream = stream_number(-3, "a", "b")
    assert stream == reference.stream(-3, "a", "b") != stream_number(-3, "ab") != stream_number(4, "a", "b")
    words = random_words(stream, 5, 1000, CPU).tolist()
    assert words == [reference.as_signed(reference.word(stream, i)) for i in range(5, 1005)]


def test_words_of_the_published_generator():
    """First outputs of splitmix64 from seed 1234567 (Rosetta Code, Pseudo-random numbers/Splitmix64)."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [w & reference.MASK for w in random_words(1234567, 0, 4, CPU).tolist()] == published


@pytest.mark.parametrize("d", [1, 16, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_matrix_written_out(kind, d):
    projection = make_projection(kind, d, seed=6)  # windows of this seed go round the end
    assert (projection.kind, projection.dimension, projection.seed) == (kind, d, 6)
    parts = blocks(3)
    expected = np.zeros((3, d))
    for name, u in parts.items():
        S = reference.MATRICES[kind](6, name, u.shape[1], d)
        np.testing.assert_array_equal(matrix(projection, name, u.shape[1]).numpy(), S.astype(np.float32))
        expected += u.double().numpy() @ S.T
    # float32 sums of up to 69 normal values against float64
    np.testing.assert_allclose(project(projection, parts).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_many_runs_and_blocks_of_a_large_parameter(kind):
    """Larger than one slab of the sketch and one block of the dense matrix, with a rest."""
    d, size = (4096, (1 << 19) + 5000) if kind == "sketch" else (1 << 16, 70)
    projection, u = make_projection(kind, d, seed=1), torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((2, d))
    if kind == "sketch":
        words = random_words(stream_number(1, "sketch", "w"), 0, size, CPU).numpy()
        window = reference.stream(1, "sketch window", "w") % d
        for start in range(0, size, d):
            run = np.arange(start, min(start + d, size))
            buckets = (np.argsort(words[run]).argsort() + (window if len(run) < d else 0)) % d
            expected[:, buckets] += u[:, run].double().numpy() * (1.0 - 2 * (words[run] & 1))
    else:
        stream, per_coordinate = reference.stream(1, "rademacher", "w"), d // 64
        for i in range(size):
            words = [reference.word(stream, i * per_coordinate + w) for w in range(per_coordinate)]
            bits = np.unpackbits(np.array(words, dtype="<u8").view(np.uint8), bitorder="little").astype(float)
            expected += np.outer(u[:, i].double().numpy(), (2 * bits - 1) / math.sqrt(d))
    # up to 130 float32 additions of normal values in a bucket
    np.testing.assert_allclose(project(projection, {"w": u}).numpy(), expected, rtol=1e-5, atol=2e-5)


GOLDEN = {"sketch": "94aba12eee79ddf1", "rademacher": "8d1625d2a293c138"}


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_table(kind):
    """A change of torch, of the platform or of this code that alters S makes stored features worthless."""
    projection = make_projection(kind, 64, seed=0)
    assert digest(torch.cat([matrix(projection, f"layers.{k}", 150) for k in range(3)], dim=1)) == GOLDEN[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_be_split_in_any_way(kind):
    projection, parts = make_projection(kind, 16, seed=2), blocks(9)
    whole = project(projection, parts)
    for cuts in ([1] * 9, [4, 5], [2, 7]):
        pieces = {name: u.split(cuts) for name, u in parts.items()}
        joined = torch.cat(
            [project(make_projection(kind, 16, 2), {n: p[i] for n, p in pieces.items()}) for i in range(len(cuts))]
        )
        if kind == "sketch":
            assert torch.equal(joined, whole)
        else:  # the matrix product may add in another order for another number of rows
            torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_parameters_does_not_matter(kind):
    parts = blocks(4)
    backwards = dict(reversed(parts.items()))
    # S is the same; the accumulator adds in another order
    torch.testing.assert_close(
        project(make_projection(kind, 16, 2), backwards),
        project(make_projection(kind, 16, 2), parts),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_names_give_other_matrices(kind):
    first = matrix(make_projection(kind, 16, 0), "a", 40)
    assert torch.equal(first, matrix(make_projection(kind, 16, 0), "a", 40))
    assert not torch.equal(first, matrix(make_projection(kind, 16, 1), "a", 40))
    assert not torch.equal(first, matrix(make_projection(kind, 16, 0), "b", 40))


def test_sketch_gives_the_coordinates_of_a_run_distinct_buckets():
    """So a parameter of at most d values keeps its inner products exactly."""
    S = matrix(make_projection("sketch", 16, 3), "a", 45)
    assert torch.equal(S.abs().sum(dim=0), torch.ones(45))
    for run in S.split(16, dim=1):
        assert torch.equal(run.T @ run, torch.eye(run.shape[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_expectation_of_the_gram_matrix_is_the_identity(kind):
    d, sizes, draws = 8, {"a": 3, "b": 8, "c": 19}, 2000
    gram = torch.zeros(30, 30, dtype=torch.float64)
    squares = torch.zeros(d, 30, dtype=torch.float64)
    for seed in range(draws):
        projection = make_projection(kind, d, seed)
        S = torch.cat([matrix(projection, name, size) for name, size in sizes.items()], dim=1).double()
        gram += S.T @ S / draws
        squares += S.square() / draws
    # an entry off the diagonal has variance 1/d (sketch: at most), so its mean has deviation 1/sqrt(16000) = 0.0079;
    # 4.5 of them bound 870 entries
    torch.testing.assert_close(gram, torch.eye(30, dtype=torch.float64), rtol=0, atol=4.5 / math.sqrt(d * draws))
    # every bucket is hit with probability 1/d: deviation sqrt(1/8 * 7/8 / 2000) = 0.0074
    torch.testing.assert_close(squares, torch.full_like(squares, 1 / d), rtol=0, atol=4.5 * 0.0074)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_cosines(kind):
    """Influence spec, section 13, test 4: mean 0 and deviation 1/sqrt(d), with heavy columns shared by the layers."""
    d, rows, layers = 512, 60, 40
    heavy = torch.ones(16)
    heavy[3] = 4
    parts = {n: u * heavy.repeat(15) for n, u in blocks(2 * rows, {f"layer {k}": 240 for k in range(layers)}).items()}

    def cosines(x: torch.Tensor) -> torch.Tensor:
        unit = x / x.norm(dim=1, keepdim=True)
        return unit[:rows] @ unit[rows:].T

    exact = cosines(torch.cat(list(parts.values()), dim=1))
    errors = torch.stack([cosines(project(make_projection(kind, d, seed), parts)) - exact for seed in range(4)])
    noise = 1 / math.sqrt(d)
    # 14,400 errors, not quite independent within a seed: their mean is off by far less than a tenth of the noise,
    # their deviation by a few per cent; distinct buckets within a layer take 1 % off the sketch's
    assert abs(errors.mean().item()) < 0.1 * noise
    assert errors.std().item() == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_gradients_do_not_reach_it(kind):
    projection, parts = make_projection(kind, 16, seed=2), blocks(3)
    expected = project(projection, parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(project(projection, parts), expected)
    with torch.enable_grad():
        out = project(projection, {name: u.clone().requires_grad_() for name, u in parts.items()})
    assert not out.requires_grad and torch.equal(out, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_finite_stays_by_itself(kind):
    projection, parts = make_projection(kind, 16, seed=2), blocks(3)
    expected = project(projection, parts)
    parts["layers.0.B"][1, 4] = torch.nan
    out = project(projection, parts)
    assert out[1].isnan().any() and torch.equal(out[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_do_not_fit_are_refused(kind):
    projection, out = make_projection(kind, 16, seed=0), torch.zeros(3, 16)
    with pytest.raises(ProjectionError, match=r"w: gradients are torch\.bfloat16 .* must be float32"):
        projection.add(out, "w", torch.zeros(3, 5, dtype=torch.bfloat16))
    with pytest.raises(ProjectionError, match=r"the projection torch\.float64"):
        projection.add(out.double(), "w", torch.zeros(3, 5))
    for u, wrong in [(torch.zeros(3, 5, 2), out), (torch.zeros(2, 5), out), (torch.zeros(3, 5), torch.zeros(3, 8))]:
        with pytest.raises(ProjectionError, match=r"w: blocks of shape .* must be \(B, size\) and \(B, 16\)"):
            projection.add(wrong, "w", u)
    with pytest.raises(ProjectionError, match="w: gradients are on meta, the projection on cpu"):
        projection.add(out, "w", torch.zeros(3, 5, device="meta"))


def test_kinds_and_dimensions_that_do_not_exist():
    with pytest.raises(ProjectionError, match=r"'gaussian' is unknown: use `sketch` or `rademacher`"):
        make_projection("gaussian", 16, 0)
    for dimension in (0, -8):
        with pytest.raises(ProjectionError, match=f"dimension {dimension} is below 1"):
            make_projection("sketch", dimension, 0)


def test_dense_products_at_reduced_precision_are_refused():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        project(make_projection("sketch", 16, 0), blocks(2))  # no matrix product in it
        with pytest.raises(ProjectionError, match="set_float32_matmul_precision"):
            project(make_projection("rademacher", 16, 0), blocks(2))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_same_on_a_gpu(kind):
    projection, device = make_projection(kind, 1024, seed=3), torch.device("cuda:0")
    for size in (500, 1024, 2500):
        assert torch.equal(matrix(projection, "w", size, device).cpu(), matrix(projection, "w", size))
    parts = blocks(5, {"a": 3000, "b": 5000, "c": (1 << 19) + 9000})
    there = project(projection, {name: u.to(device) for name, u in parts.items()}).cpu()
    if kind == "sketch":
        assert torch.equal(there, project(projection, parts))
    else:  # sums of 541,000 products, in another order
        torch.testing.assert_close(there, project(projection, parts), rtol=1e-4, atol=1e-3)
