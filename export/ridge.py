"""Linear regression from sums over batches, so that the rows are not kept in memory."""

import numpy as np
from scipy import linalg


class NormalEquations:
    """The sums that a linear regression of targets on features needs.

    Attributes:
        gram: sum of x x^T, float64 [n, n].
        cross: sum of x t^T, float64 [n, c].
        power: sum of t^2, a number.
    """

    def __init__(self, features, targets):
        self.gram = np.zeros((features, features))
        self.cross = np.zeros((features, targets))
        self.power = 0.0

    def add(self, x, t):
        """Add rows: features [rows, n] and targets [rows, c]."""
        self.gram += x.T @ x
        self.cross += x.T @ t
        self.power += float(np.sum(np.square(t, dtype="float64")))

    def error(self, kernel):
        """Share of the targets' power that `x @ kernel` does not explain; 0 without any power."""
        if self.power == 0:
            return 0.0
        left = self.power - 2 * np.sum(kernel * self.cross) + np.sum(kernel * (self.gram @ kernel))
        return float(max(left, 0) / self.power)  # rounding errors could make it negative


def fit_ridge(equations, held_out, penalties=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2)):
    """Fit a ridge regression, with the penalty chosen on rows that it was not fitted to.

    Args:
        equations: `NormalEquations` to fit.
        held_out: `NormalEquations` of other rows.
        penalties: Penalties to choose from, relative to the mean diagonal of the Gram matrix.

    Returns:
        `(kernel [n, c], error)`: `error` is the share of the power of the held-out targets that the
        kernel does not explain.
    """
    values, vectors = linalg.eigh(equations.gram)
    rotated = vectors.T @ equations.cross
    scale = np.trace(equations.gram) / len(values)
    kernels = (vectors @ (rotated / (values + penalty * scale)[:, None]) for penalty in penalties)
    return min(((kernel, held_out.error(kernel)) for kernel in kernels), key=lambda fit: fit[1])


def select_features(equations, count):
    """Select features one after the other, each the one that explains most of the remainder.

    Orthogonal least squares (Chen, Cowan and Grant 1991) from the sums only, with a Cholesky
    factorization that grows by one column for each selected feature.

    Args:
        equations: `NormalEquations` of the candidates.
        count: Number of features to select, from 1 to all of them.

    Returns:
        Their indices in the order of selection, int64 [count].
    """
    size = len(equations.gram)
    power = np.diag(equations.gram)
    left, cross = power.copy(), equations.cross.copy()
    # A feature with less left is constant 0 or a combination of selected ones, up to round-off.
    smallest = np.maximum(1e-8 * power, 1e-12 * power.max() + np.finfo("float64").tiny)
    factor = np.zeros((size, count))
    chosen = []
    for step in range(count):
        gains = np.sum(np.square(cross), axis=1) / np.maximum(left, smallest)
        gains[left <= smallest] = -1
        best = int(np.argmax(gains))
        if gains[best] < 0:
            others = [index for index in np.argsort(-power, kind="stable") if index not in chosen]
            return np.array(chosen + others[: count - step])
        root = np.sqrt(left[best])
        column = (equations.gram[:, best] - factor[:, :step] @ factor[best, :step]) / root
        factor[:, step] = column
        cross -= np.outer(column, cross[best] / root)
        left -= np.square(column)
        chosen.append(best)
    return np.array(chosen)
