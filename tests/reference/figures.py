"""Slow, obvious figures of quality, diversity and complexity."""

import math

import numpy as np
import torch


def distinct(rows, n, size):
    """Distinct n-grams per n-gram, counted one by one until `size` of them were seen."""
    grams = []
    for row in rows:
        for start in range(len(row) - n + 1):
            if len(grams) < size:
                grams.append(" ".join(row[start : start + n]))
    return len(set(grams)) / len(grams)


def overlap(rows, n):
    """Every run of every row is looked for in every other row."""
    shares = []
    for i, row in enumerate(rows):
        mine = {tuple(row[k : k + n]) for k in range(len(row) - n + 1)}
        found = 0
        for gram in mine:
            elsewhere = False
            for j, other in enumerate(rows):
                if j != i:
                    elsewhere |= any(tuple(other[k : k + n]) == gram for k in range(len(other) - n + 1))
            found += elsewhere
        if mine:
            shares.append(found / len(mine))
    return sum(shares) / len(shares)


def mean_distance(vectors):
    pairs = [1 - float(np.dot(vectors[i], vectors[j])) for i in range(len(vectors)) for j in range(i)]
    return sum(pairs) / len(pairs)


def vendi_score(vectors):
    """From the (N, N) cosine matrix and its eigenvalues, as the paper writes it."""
    kernel = np.array([[float(np.dot(a, b)) for b in vectors] for a in vectors]) / len(vectors)
    values = np.linalg.eigvals(kernel).real
    return math.exp(-sum(value * math.log(value) for value in values if value > 1e-12))


def ifd(model, prompt, answer, begin):
    """Loss of the answer behind its prompt over the loss behind `begin`, token by token."""

    def loss(context):
        total, ids = 0.0, list(context)
        for token in answer:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            total -= float(torch.log_softmax(logits, dim=-1)[token])
            ids.append(token)
        return total / len(answer)

    return loss(prompt) / loss([begin])
