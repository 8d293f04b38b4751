"""The models that answer: an embedder that remembers, what weighs labels, a trained head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.evaluation.classification.classifiers import Classifier
from tandem.evaluation.classification.heads import Head
from tandem.specs.compare import EngineSpec
from tandem.specs.index import EmbedderSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.embedding import Embedder
    from tandem.retrieval.embedding_cache import EmbeddingCache


class RememberingEncoder:
    """An embedder, and the vectors that any job computed with it before.

    Args:
        embedder: Computes.
        cache: Of this embedder, in the cluster's storage.
    """

    def __init__(self, embedder: Embedder, cache: EmbeddingCache) -> None:
        self._embedder = embedder
        self._cache = cache

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Encoder`."""
        return self._embedder.encode(texts)

    def remembered(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Encoder`."""
        import numpy as np

        known = self._cache.get(texts)
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            vectors = self._embedder.encode(missing)
            self._cache.put(missing, vectors)
            known |= dict(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts])


def open_encoder(spec: EmbedderSpec, storage: Path) -> RememberingEncoder:
    """Load an embedder. With `dtype: auto` it computes in float32: a few thousand texts are no long work.

    Raises:
        ModelError: It can't be used.
        NotFoundError, InputError, UnreachableError: From resolving its URI.
    """
    from tandem.artifacts.uris import resolve
    from tandem.config.machine import cores
    from tandem.retrieval.embedder_files import fingerprint
    from tandem.retrieval.embedding import Embedder
    from tandem.retrieval.embedding_cache import EmbeddingCache
    from tandem.retrieval.prompts import find_prompts

    path = resolve(spec.model, storage=storage)
    prompts = find_prompts(path, spec.query_prompt, spec.passage_prompt)
    dtype = "float32" if spec.dtype == "auto" else spec.dtype
    embedder = Embedder(path, spec.batch_size, dtype, passes=cores(), prompts=prompts)
    cache = EmbeddingCache(storage, fingerprint(path), embedder.dtype, prompt=prompts.passage)
    return RememberingEncoder(embedder, cache)


def open_head(spec: EngineSpec, classifier: Classifier, storage: Path) -> Head:
    """Load a trained classifier, its base model too where it is an adapter.

    Raises:
        ModelError: It can't be loaded.
        NotFoundError, InputError, UnreachableError: From resolving its base.
    """
    from tandem.models.classifier import TextClassifier
    from tandem.models.loading import model_path

    base = None if classifier.base is None else model_path(classifier.base, storage=storage)
    return TextClassifier(spec, classifier.artifact.path, base, classifier.labels, classifier.max_length)
