"""The baselines by Python's sort over explicit row scores."""

from __future__ import annotations


def best_rows(row_scores, budget):
    """Row indices by score descending, ties to the lowest row."""
    return sorted(range(len(row_scores)), key=lambda row: (-row_scores[row], row))[:budget]


def task_mean(row, tasks, task):
    values = [float(value) for value, label in zip(row, tasks, strict=True) if label == task]
    return sum(values) / len(values)


def less_scores(A, tasks):
    return [max(task_mean(row, tasks, task) for task in set(tasks)) for row in A]


def sum_scores(A):
    return [sum(float(value) for value in row) for row in A]


def max_scores(A):
    return [max(float(value) for value in row) for row in A]


def equal_quota_order(A, tasks, budget):
    names = list(dict.fromkeys(tasks))
    order = []
    while len(order) < budget:
        task = names[len(order) % len(names)]
        scores = {row: task_mean(A[row], tasks, task) for row in range(len(A)) if row not in order}
        order.append(min(scores, key=lambda row: (-scores[row], row)))
    return order
