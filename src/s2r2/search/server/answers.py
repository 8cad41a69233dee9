"""What the server answers as JSON: names that programs may rely on."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer; a later version may have more fields."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class Problem(Answer):
    """Why there is no answer."""

    error: str
    """One sentence for people."""


class Photo(Answer):
    """A photo of an index."""

    id: str
    """16 hexadecimal digits, the same as long as the key is: for all addresses that name a photo."""
    version: str
    """Changes with the photo's content; add it to a thumbnail's address so that no old one is shown."""
    key: str
    """Folders and name inside DATA."""
    labels: list[str]
    """All of its labels."""
    taken: str | None
    """When it was taken by the camera's clock (ISO 8601); null, here and below, where its file does not say."""


class PhotoDetails(Photo):
    """All that is told of one photo."""

    location: str
    """Path, or archive and member."""
    bytes: int
    """Size of its file."""
    modified: float | None
    """When the file was changed, in seconds since 1970."""
    camera: str | None
    """Make and model."""
    width: int | None
    """Columns of the upright picture."""
    height: int | None
    """Rows of it."""


class PhotoList(Answer):
    """Some photos in the order of their keys."""

    total: int
    """How many there are for the filters."""
    photos: list[Photo]
    """Those from offset on, at most limit."""


class Hit(Photo):
    """A photo in a ranking."""

    rank: int
    """1 for the most similar."""
    score: float
    """Cosine with the query, -1 to 1; for several photos as stated in docs/search.md."""


class Ranking(Answer):
    """The most similar photos first."""

    hits: list[Hit]
    """At most k; the photos of the query are not among them."""
    milliseconds: dict[str, float]
    """Time of each step."""


class PhotosForWords(Answer):
    """The photos that fit words best."""

    photos: list[Photo]
    """Best first: give them to ``/api/search`` as photos to be like, with ``keep``."""
    milliseconds: dict[str, float]
    """Time of each step."""


class Vector(Answer):
    """An image's vector, for a query of several photos."""

    vector: list[float]
    """Of length 1."""
    milliseconds: dict[str, float]
    """Time of each step."""


class Choice(Answer):
    """What a filter can be set to."""

    name: str
    """Of the folder, label or camera."""
    photos: int
    """How many photos have it."""


class IndexAbout(Answer):
    """One of the indexes that are served."""

    name: str
    """Of its folder."""
    encoder: str
    """What made its vectors."""
    fingerprint: str
    """Of the encoder."""
    data: str
    """Name of what was indexed."""
    photos: int
    """How many."""
    dimensions: int
    """Of a vector."""
    skipped: int
    """Photos that could not be read."""
    ready: bool
    """Whether the encoder is loaded; until then images that are sent, and parts of photos, wait."""
    updated: str
    """When (ISO 8601)."""
    backend: str
    """What finds the nearest vectors."""
    no_words: str
    """Why the index cannot be searched by words, and what to do; empty if it can."""


class About(Answer):
    """What is served."""

    indexes: list[IndexAbout]
    """One, or two side by side."""
    folders: list[Choice]
    """Of the first index; each with what is below it."""
    labels: list[Choice]
    """Of the first index."""
    cameras: list[Choice]
    """Of the first index."""
    taken: list[str] | None
    """First and last day of its photos; null if none is known."""
    megapixels: list[float] | None
    """Of its smallest and its largest photo."""
    upload_bytes: int
    """Largest image that may be sent."""
    upload_pixels: int
    """Most pixels that it may have."""
    keeps_marks: bool
    """Whether marks are kept."""
    originals: bool
    """Whether selections can be had as a zip of the files."""


class Selected(Answer):
    """A selection that is remembered for a while."""

    selection: str
    """Its name, part of the addresses below /api/selections."""
    photos: int
    """How many are in it."""


class Marks(Answer):
    """Results of a query that people have marked."""

    marks: dict[str, Literal["right", "wrong"]]
    """By the photos' ids."""


class Marked(Answer):
    """The mark that is kept now."""

    mark: Literal["right", "wrong", "none"]
    """As it was sent."""


class Copy(Photo):
    """A photo in a group of copies."""

    kinds: list[str]
    """What it is beside the original: same file, same pixels, resized ...; empty: joined through a third photo."""


class CopyGroup(Answer):
    """Photos that are copies of each other."""

    photos: list[Copy]
    """The original among them."""


class Copies(Answer):
    """Groups of copies."""

    threshold: float | None
    """Similarity of vectors from which pixels were compared."""
    total: int
    """How many groups."""
    photos: int
    """How many photos are in them."""
    groups: list[CopyGroup]
    """Those from offset on, at most limit."""
