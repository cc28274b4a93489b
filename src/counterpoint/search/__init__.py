"""From a trained encoder to answers: embed what you have, find what is most like a query.

    path = embed("photos/", "runs/photos", "photos.parquet")   # a row per image: id, path, label, vector
    index = build_index(path, kind="hnsw")                     # FAISS; "exact" by default
    scores, rows = index.search(vectors, k=10)
    hits = search("runs/photos", "query.jpg", out="hits.html") # both at once, kept beside the run and reused

Embeddings are read and written a block of rows at a time, so a million images cost the memory of a few thousand.
Similarity is the cosine, which is what contrastive objectives train (Chen et al. 2020; Wang and Isola 2020).

Which index: ``exact`` compares with every vector and is right for up to some hundred thousand; ``ivf`` looks only into
the cells nearest to the query; ``hnsw`` walks a graph of neighbours. The last two give up a little recall for speed.
"""

from counterpoint.search.answers import Hit
from counterpoint.search.embedding import embed
from counterpoint.search.index import Index, build_index
from counterpoint.search.query import search
from counterpoint.search.store import Item, Store

__all__ = ["Hit", "Index", "Item", "Store", "build_index", "embed", "search"]
