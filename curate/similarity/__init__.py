"""Scores that need no gradients: text and representation similarity of pool rows to targets, one file per score.

    bm25.bm25_scores(pool_texts, target_texts)                     (N, M)      shared rare words
    embeddings.embedding_scores(model, pool, targets, pad_id)      (N, M)      cosine of last-layer vectors
    dsir.log_importance_weights(pool_texts, target_texts, tasks)   (N, T + 1)  n-gram importance weights

Each is a pure function whose NaNs mark what has no score; `similarity_matrix` names those and `write_similarity`
leaves a score folder (`curate.scores`) that every selection method reads. The three modules import what they need
(`bm25s`, torch, scikit-learn), so this package alone stays light.
"""

from curate.similarity.matrix import Kind, SimilarityError, SimilarityMatrix, similarity_matrix, write_similarity
from curate.similarity.words import conversation_text, words, words_and_signs

__all__ = [
    "Kind",
    "SimilarityError",
    "SimilarityMatrix",
    "conversation_text",
    "similarity_matrix",
    "words",
    "words_and_signs",
    "write_similarity",
]
