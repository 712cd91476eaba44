"""The linear probe of notebook 17, and the erasing in its exercise, against scikit-learn's classifiers."""

import ast
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch.nn import functional as F

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

from checks.n17_looking_inside import erase  # noqa: E402


@pytest.fixture(scope="module")
def fit_and_test():
    """The function as it stands on the page."""
    cells = nbformat.read(NOTEBOOKS / "17_looking_inside.ipynb", as_version=4).cells
    code = next(cell.source for cell in cells if cell.source.startswith("def fit_and_test"))
    space = {"torch": torch, "F": F}
    exec(ast.unparse(ast.parse(code).body[0]), space)
    return space["fit_and_test"]


def vectors(K, N, seed):
    """Vectors (N, 6) with correlated channels and one mean per label, and their labels 0 to K - 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % K
    x = rng.normal(size=(K, 6))[labels] + rng.normal(size=(N, 6)) @ rng.normal(size=(6, 6)) * 0.5
    return torch.tensor(x + 1, dtype=torch.float32), torch.tensor(labels)


def test_the_probe_is_scikit_learns(fit_and_test):
    x, z = vectors(2, 300, seed=1)
    z = z ^ (torch.arange(300) % 5 == 0)  # one label in five is wrong, so that the fit is not perfect
    weights, accuracy = fit_and_test(x[:200], z[:200] == 1, x[200:], z[200:] == 1)
    theirs = LinearRegression().fit(x[:200], z[:200])
    np.testing.assert_allclose(weights[:, 0], theirs.coef_, rtol=1e-3, atol=1e-4)
    assert accuracy == pytest.approx(((theirs.predict(x[200:]) > 0.5) == z[200:].numpy()).mean())
    direction = LinearDiscriminantAnalysis(solver="lsqr").fit(x[:200], z[:200]).coef_
    cosine = F.cosine_similarity(weights[:, 0], torch.tensor(direction[0]), dim=0)
    assert cosine > 0.9999, "least squares finds the direction of linear discriminant analysis (Fisher 1936)"


@pytest.mark.parametrize("K", [2, 4])
def test_no_classifier_finds_an_erased_label(K):
    x, labels = vectors(K, 400, seed=2)
    erased = erase.solution(x, labels, x)
    before = LogisticRegression(max_iter=1000).fit(x, labels).score(x, labels)
    model = LogisticRegression(C=1e6, max_iter=1000).fit(erased, labels)
    assert before > 1 / K + 0.2
    np.testing.assert_allclose(model.predict_proba(erased), 1 / K, atol=1e-3)
    means = torch.stack([x[labels == k].mean(dim=0) for k in range(K)])
    basis = torch.linalg.qr((means[1:] - means[0]).T).Q  # projecting them out makes the means equal too
    assert (erased - x).norm() < 0.9 * ((x - x.mean(dim=0)) @ basis).norm(), "no more is taken away than needed"
