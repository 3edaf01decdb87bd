"""Identities that batch norm satisfies exactly, and so npbn up to rounding; all in float64.

Each side of an identity is within its contract (:func:`npbn.testing.tolerances.contract`) of its
exact value, and the exact values are equal: the tolerance is the sum of the two, carried through
what the test itself does with them.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    along,
    assert_within,
    batch_shapes,
    channels_last,
    exact_statistics,
    rngs,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from identity_problems import EPS, Problem, problems, sums

import npbn
from npbn.functional import (
    batch_norm_forward,
    linear_backward,
    linear_forward,
)
from npbn.testing.tolerances import float64_unit

pytestmark = pytest.mark.usefixtures("engine")


# -- the scale of the weights before it -----------------------------------------------------------


@st.composite
def scalings(draw):
    """Draw W, u and a of so few digits that aW, Wu and (aW)u are exact in float64."""
    rng = draw(rngs())
    rows, fan_in, fan_out = (draw(st.integers(low, 6)) for low in (2, 1, 1))
    weight = rng.integers(-50, 51, (fan_out, fan_in)).astype(float)
    u = rng.integers(-1000, 1001, (rows, fan_in)) + draw(st.sampled_from([0.0, 1e3, -1e5]))
    sign, integer = draw(st.sampled_from([-1, 1])), draw(st.integers(1, 999))
    return rng, weight, u, sign * math.ldexp(integer, draw(st.integers(-60, 60)))


@given(scalings(), st.sampled_from([-17, -7, -1]))
def test_the_scale_of_the_weights_before_it_changes_nothing(scaling, exponent):
    """BN((aW)u) with a²·eps is BN(Wu) with eps (for a < 0 with the scale negated).

    The Jacobian with respect to u is the same, and the gradient with respect to aW is 1/a times
    the gradient with respect to W: Ioffe and Szegedy 2015, section 3.3, whose eps is 0.
    """
    rng, weight, u, a = scaling
    eps = 2.0**exponent  # a² · eps is exact too
    (x, cache), (scaled_x, scaled_cache) = (linear_forward(u, w) for w in (weight, a * weight))
    np.testing.assert_array_equal(scaled_x, a * x)
    assume((np.abs(x.mean(0)) <= 1e6 * x.std(0)).all())  # what the contract covers
    gamma, beta = rng.normal(size=(2, x.shape[1]))
    grad = rng.normal(size=x.shape)
    plain = Problem(x, grad, math.copysign(1, a) * gamma, beta, eps)
    scaled = replace(plain, x=scaled_x, weight=gamma, eps=a * a * eps)

    y, grad_x, grad_gamma, grad_beta, _ = plain.solve()
    tol_y, tol_x, tol_gamma, tol_beta, _ = plain.tolerances()
    scaled_y, scaled_grad_x, scaled_grad_gamma, scaled_grad_beta, _ = scaled.solve()
    scaled_tol_y, scaled_tol_x, scaled_tol_gamma, scaled_tol_beta, _ = scaled.tolerances()
    assert_within(scaled_y, y, tol_y + scaled_tol_y, "y")
    scaled_grad_gamma = math.copysign(1, a) * scaled_grad_gamma
    assert_within(scaled_grad_gamma, grad_gamma, tol_gamma + scaled_tol_gamma, "grad_gamma")
    assert_within(scaled_grad_beta, grad_beta, tol_beta + scaled_tol_beta, "grad_beta")

    grad_u, grad_weight, _ = linear_backward(grad_x, cache)
    scaled_grad_u, scaled_grad_weight, _ = linear_backward(scaled_grad_x, scaled_cache)
    # On either side a product of k terms loses (k + 1) eps / 2 of their magnitudes.
    tol_x = tol_x + abs(a) * scaled_tol_x
    magnitude = np.abs(grad_x) + tol_x
    tol_u = (tol_x + (len(weight) + 1) * EPS * magnitude) @ np.abs(weight)
    tol_weight = (tol_x + (len(u) + 1) * EPS * magnitude).T @ np.abs(u)
    assert_within(scaled_grad_u, grad_u, tol_u, "grad_u")
    assert_within(a * scaled_grad_weight, grad_weight, tol_weight, "grad_weight")


# -- the geometry of the gradient -----------------------------------------------------------------


@given(problems(batch_shapes((2, 3, 4, 5))))
def test_grad_input_is_orthogonal_to_1_and_but_for_eps_to_x_hat(p):
    """With m = Σ g·x̂ / n and a = weight / std, std² = var + eps, grad_input = a (g − ḡ − x̂·m).

    Since Σ x̂ = 0 and Σ x̂² = n·var / (var + eps)::

        Σ grad_input       = 0
        Σ grad_input · x̂   = a · Σ g·x̂ · (1 − Σ x̂² / n) = a · grad_weight · eps / (var + eps)
    """
    _, grad_input, grad_weight, _, cache = p.solve()
    _, tol_input, tol_weight, _, _ = p.tolerances()
    assert_within(sums(grad_input), np.zeros(p.x.shape[1]), sums(tol_input), "Σ grad_input")

    plain = replace(p, weight=None, bias=None)
    x_hat, tol_x_hat = plain.solve()[0], plain.tolerances()[0]
    share = p.eps / (cache.statistics.var + p.eps)
    a = cache.vectors[4]
    expected = a * grad_weight * share
    # Of var k may be lost: k / 2 of a, k of share, and below k / 2 by four roundings.
    k = float64_unit(cache.statistics.count)
    bound = np.abs(a * share) * tol_weight + 2 * k * np.abs(expected)
    of_products = tol_input * (np.abs(x_hat) + tol_x_hat) + np.abs(grad_input) * tol_x_hat
    bound += sums(of_products + EPS * np.abs(grad_input * x_hat))
    assert_within(sums(grad_input * x_hat), expected, bound, "Σ grad_input · x̂")


@given(problems(batch_shapes((2, 3, 4, 5))))
def test_the_norm_of_the_gradient_is_that_of_santurkar_et_al(p):
    """‖grad_input‖² = a² (‖g‖² − ⟨1, g⟩² / n − (1 + eps / (var + eps)) ⟨g, x̂⟩² / n).

    Santurkar, Tsipras, Ilyas and Mądry 2018, arXiv:1805.11604, theorem 4.1, whose eps is 0:
    grad_input = a (I − 1·1ᵀ/n − x̂·x̂ᵀ/n) g, and with q = ‖x̂‖²/n = var / (var + eps) the square
    of the last term and its product with g leave −2 + q = −(1 + eps / (var + eps)) of ⟨g, x̂⟩²/n.
    The theorem's own right side, where that factor is 1, is an upper bound.
    """
    _, grad_input, grad_weight, grad_bias, cache = p.solve()
    _, tol_input, tol_weight, tol_bias, _ = p.tolerances()
    n, var = cache.statistics.count, cache.statistics.var
    a, k = cache.vectors[4], float64_unit(n)
    norm, along_1, along_x_hat = sums(p.grad**2), grad_bias**2 / n, grad_weight**2 / n
    theorem = a**2 * (norm - along_1 - along_x_hat)
    exact = a**2 * (norm - along_1 - (1 + p.eps / (var + p.eps)) * along_x_hat)
    # a² loses k (that of var), the factor of the last term too, and below k by eight roundings.
    bound = 3 * k * a**2 * (norm + along_1 + 2 * along_x_hat)
    bound += a**2 * (2 * np.abs(grad_bias) * tol_bias + tol_bias**2) / n
    bound += 2 * a**2 * (2 * np.abs(grad_weight) * tol_weight + tol_weight**2) / n
    bound += sums((2 * np.abs(grad_input) + tol_input) * tol_input + EPS * grad_input**2)
    actual = sums(grad_input**2)
    assert_within(actual, exact, bound, "‖grad_input‖²")
    assert (actual <= theorem + bound).all()


# -- statistics -----------------------------------------------------------------------------------


@given(rngs(), batch_shapes((2, 3, 4)), st.integers(1, 5), st.sampled_from([0.0, 3.0, -1e6]))
def test_the_statistics_of_parts_merged_in_any_split_and_order_are_the_whole_batchs(
    rng, shape, parts, mean
):
    """What `batch_norm_forward` measures of the parts, merged, is what it measures of the whole.

    A mean is kept in two parts, and k = :func:`npbn.testing.tolerances.float64_unit` of the largest
    deviation is lost of it; of m2, k. In m2 the means' errors enter with Σ nᵢ |dᵢ| ≤ sqrt(n · m2),
    and merging loses below k once more.
    """

    def measured(x):
        return batch_norm_forward(x, None, None, training=True)[1].statistics

    x = rng.normal(mean, 1, shape)
    part_of = rng.integers(parts, size=len(x))  # some may be empty, or have one value
    waiting = [measured(x[part_of == part]) for part in range(parts)]
    while len(waiting) > 1:
        first, second = (waiting.pop(rng.integers(len(waiting))) for _ in range(2))
        waiting.append(first.merge(second))
    (merged,), whole = waiting, measured(x)
    count, exact_mean, m2 = exact_statistics(x)
    lost = 2 * parts * float64_unit(count)
    off = lost * np.abs(channels_last(x) - exact_mean).max(axis=0)
    assert merged.count == whole.count == count
    # x − mean is exact: so are the differences of means that are rounded to the same grid.
    difference = (merged.mean - whole.mean) + (merged.rest - whole.rest)
    assert_within(difference, np.zeros_like(m2), off, "mean")
    assert_within(merged.m2, whole.m2, 2 * lost * m2 + 2 * off * np.sqrt(count * m2), "m2")


@pytest.mark.parametrize("momentum", [1.0, None])
@given(problems(batch_shapes((2, 3, 4, 5))))
def test_eval_after_one_full_batch_step_is_train_but_for_the_unbiased_variance(momentum, p):
    """With momentum 1 (or None, at the first step) the running statistics are the batch's own.

    The running variance is the unbiased one, var · n / (n − 1), and so::

        y_eval − bias = ρ · (y_train − bias),    ρ² = (var + eps) / (var · n / (n − 1) + eps)

    between sqrt((n − 1) / n) and 1. The running mean, off by k · std and by a rounding, carries
    weight / std of that into y_eval; the running variance, off by 2 k, k of weight · x̂.
    """
    channels = p.x.shape[1]
    weight, bias = (
        v if given_v is None else given_v
        for v, given_v in ((np.ones(channels), p.weight), (np.zeros(channels), p.bias))
    )
    cls = {4: npbn.BatchNorm2d, 5: npbn.BatchNorm3d}.get(p.x.ndim, npbn.BatchNorm1d)
    layer = cls(channels, p.eps, momentum, dtype=np.float64)
    layer.weight.data[...], layer.bias.data[...] = weight, bias
    trained, evaluated = layer(p.x), layer.eval()(p.x)

    n, mean, m2 = exact_statistics(p.x)
    var, unbiased = m2 / n, m2 / (n - 1)
    k = float64_unit(n)
    mean_bound = k * np.sqrt(var) + EPS * np.abs(mean)
    assert_within(layer.running_mean, mean, mean_bound, "running_mean")
    assert_within(layer.running_var, unbiased, 2 * k * unbiased, "running_var")

    tol_y, _, _, _, x_hat = p.tolerances()
    rho = np.sqrt((var + p.eps) / (unbiased + p.eps))
    carried = along(np.abs(weight) / np.sqrt(unbiased + p.eps) * mean_bound, p.x)
    # k as said; 3 eps of rho, and a rounding in each of the two differences and the product.
    bound = 2 * tol_y + carried + 2 * k * along(np.abs(weight), p.x) * np.abs(x_hat)
    shift = along(bias, p.x)
    assert_within(evaluated - shift, along(rho, p.x) * (trained - shift), bound, "y_eval")
