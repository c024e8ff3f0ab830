"""The seven steps of SSDDBC, cell by cell, in plain Python: slow, and read beside the specification.

Shares only the definition of a distance with the fast code (so that rounding and ties agree), nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from types import SimpleNamespace

import numpy as np

from core.clustering.neighbours import distance_matrix


def exact_mean(values):
    """Mean of values added in ascending order."""
    return sum(sorted(values)) / len(values)


def order_of_neighbours(distances):
    """For each point, all others by (distance, index)."""
    return [[int(j) for j in np.argsort(row, kind="stable") if j != i] for i, row in enumerate(distances)]


def step_1_density(distances, order, k):
    near = np.array([[distances[i][j] for j in order[i][:k]] for i in range(len(order))])
    return 1.0 / (np.median(near, axis=1) + 1e-8), near.mean()


def step_2_core(density, order, k, percentile):
    mean = density.mean()
    relative = [(k + mean) / (k + exact_mean([density[j] for j in order[i][:k]])) * density[i] for i in range(len(order))]
    return np.array(relative) >= np.percentile(relative, percentile)


def step_3_edges(distances, order, core_mask, k, cutoff):
    edges = {}
    for i in np.flatnonzero(core_mask).tolist():
        nearest_core = [j for j in order[i] if core_mask[j]][:k]
        edges[i] = [j for j in nearest_core if distances[i][j] <= cutoff]
    return edges


def carried_label(members, label):
    """The label a cluster carries, or None."""
    labelled = [label[i] for i in members if i in label]
    if len(members) < 5 or not len(labelled) * 4 > len(members):
        return None
    name, count = Counter(labelled).most_common(1)[0]
    return name if count * 5 >= 4 * len(labelled) else None


def step_4_grow(edges, density, label):
    """Clusters as sets of core points, in order of creation."""
    clusters, home = [], {}
    for start in sorted(edges, key=lambda i: (-density[i], i)):
        if start in home:
            continue
        p = len(clusters)
        clusters.append({start})
        home[start] = p
        queue = deque([start])
        while queue:
            i = queue.popleft()
            for j in edges[i]:
                if i in label and j in label and label[i] != label[j]:
                    continue
                if j not in home:
                    moved = [j]
                elif home[j] == p:
                    continue
                else:
                    q = home[j]
                    ours, theirs = carried_label(clusters[p], label), carried_label(clusters[q], label)
                    if ours is None or theirs is None or ours == theirs:
                        moved = sorted(clusters[q])
                    else:
                        moved = [j] if density[i] > density[j] else []
                    clusters[q] -= set(moved)
                clusters[p] |= set(moved)
                home.update(dict.fromkeys(moved, p))
                queue.extend(moved)
    return [members for members in clusters if members]


def three_nearest(distances_to_members):
    return exact_mean(sorted(distances_to_members)[:3])


def distances_from_mean(distances, members, others):
    """Distances from the mean of `members`: mean of the squares less half their mean square spread (Leibniz)."""
    members = sorted(members)
    spread = sum(float(distances[a][b]) ** 2 for n, a in enumerate(members) for b in members[n + 1 :])
    squares = [sum(float(distances[a][x]) ** 2 for a in members) for x in others]
    return [max(square / len(members) - spread / len(members) ** 2, 0.0) ** 0.5 for square in squares]


def step_5_small(clusters, distances, label):
    others = [c for c, members in enumerate(clusters) if len(members) > 3]
    if not others:
        return clusters
    merged = {c: set(clusters[c]) for c in others}
    for small in clusters:
        if len(small) > 3:
            continue
        shared, target = {label[i] for i in small if i in label}, None
        if len(shared) == 1:
            name = shared.pop()
            fits = [
                c for c in others if carried_label(clusters[c], label) == name or {label[i] for i in clusters[c] if i in label} == {name}
            ]
            target = fits[0] if fits else None
        if target is None:
            target = min(others, key=lambda c: (three_nearest(distances_from_mean(distances, small, sorted(clusters[c]))), c))
        merged[target] |= small
    return [merged[c] for c in others]


def step_6_sparse(clusters, distances, n):
    assigned = np.full(n, -1)
    for c, members in enumerate(clusters):
        assigned[list(members)] = c
    columns = [np.array(sorted(members)) for members in clusters]
    for i in np.flatnonzero(assigned < 0):
        means = [three_nearest(np.partition(row, min(2, len(row) - 1))[:3].tolist()) for row in (distances[i][c] for c in columns)]
        assigned[i] = means.index(min(means))
    return assigned


def step_7_score(assigned, distances, label):
    groups = {}
    for i, name in label.items():
        groups.setdefault(assigned[i], []).append(name)
    losses = [-np.log(groups[assigned[i]].count(name) / len(groups[assigned[i]])) for i, name in label.items()]
    values, one_hot = [], np.eye(assigned.max() + 1)[assigned]
    sizes = one_hot.sum(0)
    for i in [i for i in range(len(assigned)) if i not in label]:
        own = assigned[i]
        if len(sizes) == 1 or sizes[own] == 1:
            values.append(0.0)
            continue
        totals = distances[i] @ one_hot
        inside = totals[own] / (sizes[own] - 1)
        outside = min(totals[c] / sizes[c] for c in range(len(sizes)) if c != own)
        values.append((outside - inside) / max(inside, outside) if max(inside, outside) > 0 else 0.0)
    return float(np.mean(losses)) if losses else 0.0, float(np.mean(values)) if values else 0.0


def cluster(features, labels, labelled_mask, k, density_percentile):
    """One cell from scratch; the same fields as `core.clustering.ssddbc.cluster` returns."""
    distances = distance_matrix(features).astype(np.float64)
    label = {int(i): int(labels[i]) for i in np.flatnonzero(labelled_mask)}
    order = order_of_neighbours(distances)
    density, cutoff = step_1_density(distances, order, k)
    core_mask = step_2_core(density, order, k, density_percentile)
    clusters = step_4_grow(step_3_edges(distances, order, core_mask, k, cutoff), density, label)
    assigned = step_6_sparse(step_5_small(clusters, distances, label), distances, len(distances))
    cross_entropy, silhouette = step_7_score(assigned, distances, label)
    return SimpleNamespace(
        labels=assigned,
        core_mask=core_mask,
        densities=density,
        cross_entropy=cross_entropy,
        silhouette=silhouette,
        score=-cross_entropy + 3 * silhouette,
    )
