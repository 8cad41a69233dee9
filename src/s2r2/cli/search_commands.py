"""``s2r2 index``, ``search``, ``refine``, ``duplicates`` and ``serve``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from s2r2.cli.options import DeviceOptions, FilterOptions, Folder, SomeData, SomeFile
from s2r2.distributed.launching import is_follower, launch_if_wanted
from s2r2.errors import ArgumentError
from s2r2.system.terminal import say
from s2r2.system.wording import worded

SomeEncoder = Annotated[str | None, arg(metavar="ENCODER")]
SomeNumber = Annotated[int | None, arg(metavar="N")]
SomeModel = Annotated[str | None, arg(metavar="MODEL")]
SomeBackend = Annotated[str | None, arg(metavar="NAME")]
_ANYWHERE = vars(DeviceOptions())


@dataclass(frozen=True)
class Index:
    """Options of ``s2r2 index``."""

    index: Folder
    """Folder of the index."""
    encoder: Positional[SomeEncoder] = None
    """Run folder, encoder.safetensors, a safetensors export, timm:NAME or untrained:NAME; left out with --vectors."""
    data: Positional[SomeData] = None
    """The photos."""
    vectors: Annotated[Path | None, arg(metavar="VECTORS")] = None
    """Take the vectors from FILE.parquet or from the folder of parts that s2r2 embed wrote: nothing is embedded."""
    rebuild: bool = False
    """Build it anew, for another encoder or after damage; the old one is used until the new one is complete."""
    drop_missing: bool = False
    """Drop missing photos even if their disk may only be unmounted; see docs/search.md."""
    backend: SomeBackend = None
    """Search backend: exact, faiss or lancedb (approximate, with measured recall), another registered one, or auto.
    auto decides by the number of photos and by what is installed. By default the one chosen before, else auto."""
    approximate_from: int = 500_000
    """Number of photos from which auto chooses faiss, or lancedb where faiss is not installed."""
    text: SomeModel = None
    """Also encode the photos with a CLIP-like model, so that words find them: open_clip:MODEL/TAG,
    open_clip:hf-hub:OWNER/NAME or open_clip:local-dir:PATH (see docs/words.md); none removes its vectors. By default
    the one chosen before."""
    precision: Annotated[Literal["float32", "bfloat16", "auto"] | None, arg(metavar="float32|bfloat16|auto")] = None
    """In which the encoder computes. auto tries bfloat16 on some of the photos, and takes it where that is faster and
    the ranking stays; docs/search.md has the figures. By default that of the index, for a new one float32."""
    device: DeviceOptions = field(default_factory=DeviceOptions)

    def execute(self, words: Sequence[str]) -> None:
        """Make the index, or bring it up to date."""
        encoder, data = self.encoder or "", self.data or ""
        needed = {"DATA": encoder} if self.vectors else {"ENCODER": encoder, "DATA": data}
        if missing := ", ".join(name for name, given in needed.items() if not given):
            raise ArgumentError(f"index: missing {missing}; see s2r2 index --help")
        if self.vectors is not None:
            self._from_vectors(self.vectors, encoder)  # the only word is DATA then
            return
        launch_if_wanted(words, self.device.devices, self.device.nodes)
        from s2r2.images import open_source

        source = None
        if self._may_be_unchanged():
            from s2r2.search.unchanged import nothing_new

            source = open_source(data)
            chosen = (self.backend, self.approximate_from, self.text, self.precision)
            same = nothing_new(encoder, source, self.index, *chosen)
            if same is not None:
                _say_lines(same)
                return
        from s2r2.distributed.devices import choose_device
        from s2r2.distributed.processes import Processes
        from s2r2.encoder import load
        from s2r2.search import update_index

        with Processes.joined() as processes:
            done = update_index(
                load(encoder, device=choose_device(self.device.device, processes)),
                source or processes.leader_first(lambda: open_source(data)),
                self.index,
                rebuild=self.rebuild,
                drop_missing=self.drop_missing,
                backend=self.backend,
                approximate_from=self.approximate_from,
                text=self.text,
                precision=self.precision,
                progress=processes.leader,
                processes=processes,
            )
        if not is_follower():
            _say_lines(done)

    def _from_vectors(self, vectors: Path, data: str) -> None:
        from s2r2.images import open_source
        from s2r2.search import StoredVectors, update_index

        if self.data is not None:
            raise ArgumentError(f"{data} {self.data}: with `vectors` no encoder is needed, give DATA alone")
        given = vars(self.device) | {"precision": self.precision}
        chosen = [f"`{name}={value}`" for name, value in given.items() if value != _ANYWHERE.get(name)]
        if chosen:
            raise ArgumentError(f"{', '.join(chosen)}: with `vectors` nothing is embedded, leave this out")
        done = update_index(
            StoredVectors(vectors),
            open_source(data),
            self.index,
            rebuild=self.rebuild,
            drop_missing=self.drop_missing,
            backend=self.backend,
            approximate_from=self.approximate_from,
            text=self.text,
        )
        _say_lines(done)

    def _may_be_unchanged(self) -> bool:
        """Whether the index may be as it should be already, which is seen without torch; a GPU asked for is checked."""
        alone = "WORLD_SIZE" not in os.environ
        return alone and self.device.device in ("auto", "cpu") and not (self.rebuild or self.drop_missing)


@dataclass(frozen=True)
class Search:
    """Options of ``s2r2 search``."""

    index: Positional[Annotated[Path, arg(metavar="INDEX")]]
    """Folder of the index."""
    query: Positional[Annotated[tuple[str, ...], arg(metavar="QUERY ...", help_behavior_hint="(or words)")]] = ()
    """Image files, or keys of photos in the index; several: more like all of them."""
    words: Annotated[UseAppendAction[list[str]], arg(metavar="TEXT")] = field(default_factory=list)
    """Like the photos that fit this text best, such as "a red car"; needs an index made with --text. May be
    repeated."""
    less_words: Annotated[UseAppendAction[list[str]], arg(metavar="TEXT")] = field(default_factory=list)
    """Less like the photos that fit this text best; may be repeated."""
    less: Annotated[UseAppendAction[list[str]], arg(metavar="QUERY")] = field(default_factory=list)
    """Less like this image file or key; may be repeated."""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """How many photos to find."""
    box: Annotated[str | None, arg(metavar="X,Y,W,H")] = None
    """Search only for this part of the query: left, top, width, height in pixels."""
    json: bool = False
    """Print a JSON object a line, with full paths."""
    csv: bool = False
    """Print CSV, with full paths."""
    out: SomeFile = None
    """Also write the ranking into FILE.csv, or FILE.json with an object a line."""
    picture: SomeFile = None
    """Also save the query and its ranking as a contact sheet (.png, .jpg)."""
    backend: SomeBackend = None
    """exact, or by default the search backend that the index was made for."""
    filter: FilterOptions = field(default_factory=FilterOptions)

    def execute(self, words: Sequence[str]) -> None:
        """Print the ranking."""
        from s2r2.search import Filter, search_and_show
        from s2r2.system.console import PlainConsole

        if self.json and self.csv:
            raise ArgumentError("--json and --csv: choose one of them; --out writes another form into a file")
        if not self.query and not self.words:
            raise ArgumentError("search: missing QUERY or --words; see s2r2 search --help")
        search_and_show(
            self.index,
            self.query,
            self.k,
            PlainConsole(),
            less=self.less,
            words=self.words,
            less_words=self.less_words,
            box=self.box,
            picture=self.picture,
            form="json" if self.json else "csv" if self.csv else "table",
            out=self.out,
            backend=self.backend,
            where=Filter(**vars(self.filter)),
        )


@dataclass(frozen=True)
class Refine:
    """Options of ``s2r2 refine``."""

    index: Positional[Annotated[Path, arg(metavar="INDEX")]]
    """Folder of the index; it stays as it is."""
    labels: Annotated[str | None, arg(metavar="FILE")] = None
    """Learn from labels instead of marks: a CSV with the columns photo and label, or index for the labels that the
    index has."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the second index; by default INDEX.refined."""

    def execute(self, words: Sequence[str]) -> None:
        """Learn, write the second index, and print what changed."""
        from s2r2.refining import refine_index

        for line in str(refine_index(self.index, self.out, labels=self.labels)).splitlines():
            say(line)


@dataclass(frozen=True)
class Duplicates:
    """Options of ``s2r2 duplicates``."""

    index: Positional[Annotated[Path, arg(metavar="INDEX")]]
    """Folder of the index."""
    threshold: float | None = None
    """Similarity (0 to 1) from which photos are compared pixel by pixel, beside those that look alike when reduced;
    by default chosen from the index."""
    out: SomeFile = None
    """Also write all groups into FILE.csv."""
    keep: Annotated[str | None, arg(metavar="largest|oldest|newest|path=GLOB")] = None
    """Which photo of each group stays; nothing is changed unless one of the next three options is given."""
    move_to: Annotated[Path | None, arg(metavar="DIR")] = None
    """Move the other copies into DIR; nothing there is overwritten."""
    trash: bool = False
    """Put the other copies into the trash."""
    script: SomeFile = None
    """Write a shell script that removes the other copies into FILE."""

    def execute(self, words: Sequence[str]) -> None:
        """Print the groups, and put copies away if that is asked for."""
        from s2r2.search import PutAway, duplicates_and_show
        from s2r2.system.console import PlainConsole

        put_away = PutAway(self.move_to, self.trash, self.script)
        duplicates_and_show(self.index, self.threshold, self.out, PlainConsole(), self.keep, put_away)


@dataclass(frozen=True)
class Serve:
    """Options of ``s2r2 serve``."""

    index: Positional[Annotated[Path, arg(metavar="INDEX")]]
    """Folder of the index; what is marked on the page is kept there, in marks.csv."""
    compare: Annotated[Path | None, arg(metavar="INDEX")] = None
    """A second index of the same photos, shown beside it."""
    host: str = "127.0.0.1"
    """Address to listen on; any but the loopback address lets others on the network see the photos."""
    port: int = 8765
    """Port to listen on; 0: any free one."""
    allow_host: Annotated[UseAppendAction[list[str]], arg(metavar="NAME")] = field(default_factory=list)
    """Another host name under which the page may be opened, such as a reverse proxy's; may be repeated."""
    proxy: Annotated[UseAppendAction[list[str]], arg(metavar="ADDRESS")] = field(default_factory=list)
    """A reverse proxy whose X-Forwarded-Host, -Proto and -For are believed, or its network; may be repeated."""
    root_path: Annotated[str, arg(metavar="/PATH")] = ""
    """Path under which a reverse proxy serves the page, such as /photos."""
    open_browser: bool = False
    """Open the page in the browser."""
    read_only: bool = False
    """Write nothing: marks last as long as the page."""
    no_originals: bool = False
    """Offer no zip of the photos' files: only re-encoded photos, without metadata, leave the server."""
    docs: bool = False
    """Serve the reference of the JSON API, too: /docs, and /openapi.json for programs."""
    backend: SomeBackend = None
    """exact, or by default the search backend that the index was made for."""

    def execute(self, words: Sequence[str]) -> None:
        """Serve the page."""
        from s2r2.search import serve

        serve(
            self.index,
            compare=self.compare,
            host=self.host,
            port=self.port,
            allow_hosts=self.allow_host,
            proxies=self.proxy,
            root_path=self.root_path,
            open_browser=self.open_browser,
            backend=self.backend,
            read_only=self.read_only,
            originals=not self.no_originals,
            docs=self.docs,
        )


def _say_lines(text: object) -> None:
    for line in str(text).splitlines():
        say(worded(line))
