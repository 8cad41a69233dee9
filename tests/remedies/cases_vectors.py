"""Remedies that are named where vectors are written in parts, and an index is made from vectors."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cases_search import ENCODER, embeds
from performing import State, case, command, named
from pyarrow import parquet

from s2r2.search import StoredVectors

KEYS = [f"{'ab'[number % 2]}/{number:02d}.png" for number in range(16)]


def from_vectors(state: State, vectors: object) -> str:
    return command("index", state.photos, "--vectors", vectors, "--index", state.tmp / "index")


def table(state: State, name: str = "x.parquet", **columns: Any) -> Path:
    """Vectors of all photos, but for the columns that are given."""
    vectors = np.random.default_rng(0).standard_normal((16, 4)).tolist()
    path = state.tmp / name
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.table({"key": KEYS, "vector": vectors} | columns), path)
    return path


def is_indexed(state: State, path: Path | None = None) -> None:
    assert "16 photos in" in from_vectors(state, path or table(state))


def wrong_then_right(piece: str, **columns: Any) -> None:
    """A table that is refused because of some columns, and one that is as the message wants it."""
    case(piece, lambda state: from_vectors(state, table(state, **columns)), lambda state, _: is_indexed(state))


# Writing parts

case(
    "`shard={}`: give `shards` too, the number of all parts",
    lambda state: embeds(state, "parts", "--shard", 0),
    lambda state, said: embeds(state, "parts", "--shard", 0, named("give (--shards) too", said), 2),
)
case(
    "share one file: with `shards`, start a command with its own `shard` for each GPU or machine",
    lambda state: embeds(state, "parts", "--shards", 2, "--devices", 2),
    lambda state, said: [embeds(state, "parts", "--shards", 2, named("own (--shard) for", said), n) for n in (0, 1)],
)
case(
    "`shards={}`: give a number from 1 to {}",
    lambda state: embeds(state, "parts", "--shards", 0),
    lambda state, said: embeds(state, "parts", "--shards", named(r"from (\d+)", said)),
)
case(
    "`shard={}`: with `shards={}` they are numbered from 0 to {}",
    lambda state: embeds(state, "parts", "--shards", 2, "--shard", 2),
    lambda state, said: embeds(state, "parts", "--shards", 2, "--shard", named(r"to (\d+)", said)),
)
case(
    "holds parts of {} shards: give `shards={}`, or choose another `out`",
    lambda state: [embeds(state, "parts", "--shards", 2), embeds(state, "parts", "--shards", 3)],
    lambda state, said: [
        embeds(state, "parts", *named("give (--shards 2)", said).split()),
        embeds(state, "others", "--shards", 3),
    ],
)
case(
    "`precision='auto'` may differ from part to part: give float32 or bfloat16 for all of them",
    lambda state: embeds(state, "parts", "--shards", 2, "--precision", "auto"),
    lambda state, said: [
        embeds(state, choice, "--shards", 2, "--precision", choice) for choice in re.findall(r"\w*float\w+", said)
    ],
)
case(
    "cannot write {}: {}choose another `out`",
    lambda state: embeds(state, state.write("file", ""), "--shards", 2),
    lambda state, _: embeds(state, "parts", "--shards", 2),
)


def damaged_part(state: State) -> object:
    embeds(state, "parts", "--shards", 2)
    (state.tmp / "parts" / "part-00001-of-00002.parquet").write_bytes(b"PAR1")
    return embeds(state, "parts", "--shards", 2)


def deleted(state: State, said: str) -> None:
    Path(named(r"(\S+) is damaged", said)).unlink()
    assert embeds(state, "parts", "--shards", 2).count("is there already") == 1


case("{} is damaged: delete it, and it is made again", damaged_part, deleted)
case(
    "{} {}: choose another `out`",
    lambda state: [
        embeds(state, "parts", "--shards", 2),
        command("embed", "untrained:test_vit", state.photos, "--out", "parts", "--device", "cpu", "--shards", 2),
    ],
    lambda state, _: command(
        "embed", "untrained:test_vit", state.photos, "--out", "other", "--device", "cpu", "--shards", 2
    ),
)

# An index from them

case(
    "index: missing {}; see s2r2 index --help",
    lambda state: command("index", ENCODER, "--index", "index"),
    lambda state, _: is_indexed(state),
)
case(
    "with `vectors` no encoder is needed, give DATA alone",
    lambda state: command("index", ENCODER, state.photos, "--vectors", table(state), "--index", "index"),
    lambda state, _: is_indexed(state),
)
case(
    "is not there: give `vectors` a Parquet file or a folder of parts",
    lambda state: from_vectors(state, "nowhere"),
    lambda state, _: is_indexed(state),
)
case(
    "holds no .parquet files: give `vectors` the folder that s2r2 embed wrote",
    lambda state: from_vectors(state, state.photos),
    lambda state, _: [embeds(state, "parts", "--shards", 2), is_indexed(state, state.tmp / "parts")],
)


def one_part(state: State) -> object:
    embeds(state, "parts", "--shards", 2, "--shard", 1)
    return from_vectors(state, "parts")


case(
    "lacks {} of {} parts, such as shard {}: run its s2r2 embed again",
    one_part,
    lambda state, said: [
        embeds(state, "parts", "--shards", 2, "--shard", named(r"shard (\d+)", said)),
        is_indexed(state, state.tmp / "parts"),
    ],
)
case(
    "{} cannot be read as Parquet: delete it and make it again",
    lambda state: from_vectors(state, state.write("x.parquet", "no table")),
    lambda state, said: [Path(named(r"(\S+) cannot be", said)).unlink(), is_indexed(state)],
)


def of_two_encoders(state: State) -> object:
    state.tmp.joinpath("parts").mkdir()
    embeds(state, "parts/a.parquet")
    command("embed", "untrained:test_vit", state.photos, "--out", "parts/b.parquet", "--device", "cpu")
    return from_vectors(state, "parts")


case(
    "{} and {} are of different encoders, precisions or photos: give the `vectors` of one call of s2r2 embed",
    of_two_encoders,
    lambda state, _: is_indexed(state, state.tmp / "parts" / "a.parquet"),
)
case(
    "and an index holds features: make the `vectors` with s2r2 embed without --output",
    lambda state: [embeds(state, "x.parquet", "--output", "embedding"), from_vectors(state, "x.parquet")],
    lambda state, _: [embeds(state, "x.parquet"), is_indexed(state, state.tmp / "x.parquet")],
)


def beside_another_encoder(state: State) -> object:
    state.shared.encoder.save(state.tmp / "run")
    path = table(state, "parts/x.parquet")
    (state.tmp / "run" / "encoder.safetensors").rename(path.parent / "_encoder.safetensors")
    return from_vectors(state, "parts")


case(
    "{} has vectors of {} numbers, {} makes them of {}: give the `vectors` of one encoder",
    beside_another_encoder,
    lambda state, _: is_indexed(state, state.tmp / "parts" / "x.parquet"),
)
wrong_then_right(
    "{} holds no vectors: give `vectors` of at least one photo", vector=pa.array([None] * 16, pa.list_(pa.float32()))
)
wrong_then_right("such as {}: give `vectors` with one row a photo", key=[KEYS[0]] * 16)
wrong_then_right(
    "{} has vectors of {} numbers, others have {}: give the `vectors` of one encoder",
    vector=[[1.0, 0.0]] * 15 + [[1.0]],
)
wrong_then_right("need the columns vector (lists of floats) and key or path", vector=["text"] * 16)
wrong_then_right("{}: a row has no {} that is text: give `vectors` with it", key=[*KEYS[1:], None])
wrong_then_right("give `vectors` of this DATA", key=[f"elsewhere/{key}" for key in KEYS])


def without_or_with_a_reason(state: State, _: str) -> None:
    vectors = [[1.0, 0.0]] * 15
    without = state.tmp / "without.parquet"
    parquet.write_table(pa.table({"key": KEYS[1:], "vector": vectors}), without)
    assert len(StoredVectors(without)) == 15
    with_reason = table(state, vector=[[float("nan")] * 2, *vectors], reason=["damaged", *[None] * 15])
    assert "15 photos in" in from_vectors(state, with_reason)


case(
    "is not finite or has length 0: give `vectors` without it, or with a reason in the column reason",
    lambda state: from_vectors(state, table(state, vector=[[float("nan"), 1.0], *[[1.0, 0.0]] * 15])),
    without_or_with_a_reason,
)
