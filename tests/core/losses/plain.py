"""Plain double-loop formulas that the fast losses are held to."""

import math


def unit(row: list[float]) -> list[float]:
    norm = math.sqrt(sum(v * v for v in row))
    return [v / max(norm, 1e-12) for v in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def supcon(rows, labels, n_views, temperature, keep=None, weights=None) -> float:
    """SupCon L_out over view-major rows, in Python floats."""
    batch = len(labels)
    keep = [True] * batch if keep is None else keep
    weights = [1.0] * batch if weights is None else weights
    z = [unit(row) for row in rows]
    kept = [i for i in range(n_views * batch) if keep[i % batch] and labels[i % batch] >= 0]
    total = norm = 0.0
    for i in kept:
        positives = [p for p in kept if p != i and labels[p % batch] == labels[i % batch]]
        if not positives:
            continue
        denominator = sum(math.exp(dot(z[i], z[a]) / temperature) for a in kept if a != i)
        loss = -sum(dot(z[i], z[p]) / temperature - math.log(denominator) for p in positives) / len(positives)
        total += weights[i % batch] * loss
        norm += weights[i % batch]
    return total / norm if norm else 0.0


def info_nce(rows, n_views, temperature, keep=None) -> float:
    """Two-view InfoNCE, and the mean over positives for more views."""
    batch = len(rows) // n_views
    keep = [True] * batch if keep is None else keep
    z = [unit(row) for row in rows]
    kept = [i for i in range(n_views * batch) if keep[i % batch]]
    losses = []
    for i in kept:
        denominator = sum(math.exp(dot(z[i], z[a]) / temperature) for a in kept if a != i)
        for p in kept:
            if p != i and p % batch == i % batch:
                losses.append(-math.log(math.exp(dot(z[i], z[p]) / temperature) / denominator))
    return sum(losses) / len(losses) if losses else 0.0


def prototypical(rows, labels, prototypes, temperature, keep=None, weights=None, n_views=2) -> float:
    """Cross-entropy against cosines to the non-zero prototypes."""
    batch = len(labels)
    filled = [k for k, row in enumerate(prototypes) if any(row)]
    total = norm = 0.0
    for i, row in enumerate(rows):
        y = labels[i % batch]
        if y not in filled or (keep is not None and not keep[i % batch]):
            continue
        logits = {k: dot(unit(row), unit(prototypes[k])) / temperature for k in filled}
        w = 1.0 if weights is None else weights[i % batch]
        total += w * (math.log(sum(math.exp(v) for v in logits.values())) - logits[y])
        norm += w
    return total / norm if norm else 0.0
