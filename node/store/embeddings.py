"""Vectors of studies, and which are nearest to one. All are compared: a hundred thousand take well under a second."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, Select, insert, select

from node.errors import Permanent
from node.store.results import NewResult
from node.store.tables import ResultState, embedding, result

CHUNK = 4096
"""Rows compared at once."""


@dataclass(frozen=True)
class Similar:
    """An earlier study that looks alike; `similarity` is the cosine of the vectors, 1 for the same."""

    study_instance_uid: str
    model: str
    name: str
    similarity: float
    created_at: datetime


def keep_embeddings(connection: Connection, result_id: int, new: NewResult, vectors: Mapping[str, np.ndarray]) -> None:
    """Keep the vectors of a result; one of nothing but zeros says nothing and is not kept."""
    for name, vector in vectors.items():
        length = float(np.linalg.norm(vector))
        if length == 0:
            continue
        connection.execute(
            insert(embedding).values(
                result_id=result_id,
                name=name,
                study_instance_uid=new.study_instance_uid,
                model=new.model,
                model_digest=new.model_digest,
                vector=(vector / length).astype("<f4").tobytes(),
                created_at=new.created_at,
            )
        )


def nearest_studies(connection: Connection, study_instance_uid: str, limit: int = 10) -> list[Similar]:
    """The studies nearest to one by each vector of its current results, the nearest first; never itself.

    Raises
    ------
    Permanent
        When no vector of the study is kept.
    """
    own = connection.execute(
        _current().where(embedding.c.study_instance_uid == study_instance_uid).order_by(embedding.c.name)
    ).all()
    if not own:
        raise Permanent(
            f"study {study_instance_uid}: found no vector, expected a result of a model with task = embedding"
        )
    found = [each for row in own for each in _nearest(connection, row, limit)]
    return sorted(found, key=lambda each: -each.similarity)[:limit]


def _current() -> Select[Any]:
    """Vectors of results that hold now."""
    return (
        select(embedding)
        .join(result, result.c.id == embedding.c.result_id)
        .where(result.c.state == ResultState.CURRENT)
    )


def _nearest(connection: Connection, own: Row[Any], limit: int) -> list[Similar]:
    wanted = np.frombuffer(own.vector, "<f4")
    alike = _current().where(
        embedding.c.model_digest == own.model_digest,
        embedding.c.name == own.name,
        embedding.c.study_instance_uid != own.study_instance_uid,
    )
    best: list[Similar] = []
    for rows in connection.execution_options(yield_per=CHUNK).execute(alike).partitions(CHUNK):
        vectors = np.frombuffer(b"".join(row.vector for row in rows), "<f4").reshape(len(rows), -1)
        similarities = vectors @ wanted
        for place in np.argsort(-similarities)[:limit]:
            row = rows[int(place)]
            best.append(
                Similar(row.study_instance_uid, row.model, row.name, float(similarities[place]), row.created_at)
            )
        best = sorted(best, key=lambda each: -each.similarity)[:limit]
    return best
