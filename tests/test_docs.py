"""README and docs are true: their code runs, their commands parse, the site builds and stays at home."""

import html
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import preloaded
from s2r2.cli import main
from s2r2.cli.commands import COMMANDS, parse

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
ROOMS = ("encoder", "evaluation", "images", "losses", "search", "study", "training", "views")


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


def commands(page: str) -> list[str]:
    """Every line of an indented block that calls s2r2."""
    return [line.strip() for line in text(page).splitlines() if re.match(r"    s2r2 \w", line)]


WITH_PYTHON = [
    page for page in PAGES if blocks(page, "python") and page != "docs/ranking_loss.md"
]  # tests/losses has it
WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_no_block_is_overlooked() -> None:
    for page in PAGES:
        languages = set(re.findall(r"^```(\w+)$", text(page), re.MULTILINE))
        assert languages <= {"python", "bash", "yaml"}, page  # tests/study reads the yaml
        assert all(block.strip() == "pip install s2r2" for block in blocks(page, "bash")), page
    assert {"README.md", "docs/index.md", "docs/own_photos.md", "docs/export.md"} <= set(WITH_PYTHON)


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p == "README.md")) for p in WITH_PYTHON])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def make_photos(folder: Path) -> None:
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.jpg", "query.jpg", *(f"photos/{i}.jpg" for i in range(64))):
        sides = (200, 240) if name == "query.jpg" else (40, 40)  # a page draws a box on it
        Image.fromarray(generator.integers(0, 255, (*sides, 3), dtype=np.uint8)).save(folder / name)


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_are_understood(page: str) -> None:
    """The real parser takes each command line as it stands."""
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        try:
            options = parse(words)
        except SystemExit as refused:
            pytest.fail(f"{page}: {line}: exit code {refused.code}")
        assert type(options).__name__ == COMMANDS[words[0]].options


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        main(["train", "photos", "--no-such-setting", "1"])


def test_error_lines_of_the_troubleshooting_page_are_real() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    said = re.findall(r"^\| `([^`]+)` \|", text("docs/troubleshooting.md"), re.MULTILINE)
    assert len(said) > 20
    missing = [line for line in said if line not in source]
    assert not missing


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text(page)):
            assert ((REPOSITORY / page).parent / target).exists(), f"{page}: {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it; any warning is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 's2r2[docs]'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_reference_has_every_command_and_every_public_name(site: Path) -> None:
    page = (site / "reference/commands.html").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"usage: s2r2 {command}" in page
    for room in ROOMS:
        content = (site / f"reference/{room}.html").read_text(encoding="utf-8")
        for name in importlib.import_module(f"s2r2.{room}").__all__:
            assert f'id="s2r2.{room}.{name}"' in content, f"s2r2.{room}.{name}"


@pytest.mark.slow
def test_the_method_on_one_page_is_the_example_itself(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "from_scratch.html").read_text(encoding="utf-8"))
    example = text("examples/s2r2_from_scratch.py")
    assert "".join(example.split()) in "".join(html.unescape(page).split())


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for path in (*pages, *site.rglob("*.css")):
        found = loads_from_elsewhere(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found}"


def loads_from_elsewhere(content: str) -> list[str]:
    """Scripts, styles, pictures, frames and fonts with an address on another host; plain links may lead away."""
    outside = r"""["']?(?:https?:)?//[^"'\s>)]+"""
    tags = r"<(?:script|img|iframe|link|source|video|audio|object|embed)\b[^>]*?(?:src|href|data|srcset)="
    return [
        found for found in re.findall(rf"(?:{tags}|url\(|@import\s+){outside}", content) if "canonical" not in found
    ]


@pytest.mark.parametrize(
    "content",
    [
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
        '<script src="//cdn.net/x.js"></script>',
        "@import 'https://cdn.net/x.css'",
        "src: url(https://cdn.net/font.woff2)",
        "<img alt='x' src=http://other.org/p.png>",
    ],
)
def test_loading_from_elsewhere_would_be_noticed(content: str) -> None:
    assert loads_from_elsewhere(content)
    assert not loads_from_elsewhere('<a href="https://arxiv.org/abs/2010.07258">')


@pytest.mark.slow
def test_pages_ask_no_other_host_in_a_browser(site: Path) -> None:
    """What scripts would load at run time shows only in a browser."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    asked: list[str] = []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "search.html", "reference/losses.html"):
            page.goto((site / name).as_uri())
            page.wait_for_timeout(300)
        browser.close()
    assert len(asked) > 6
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


# The page's own settings would take hours; the last of two equal settings counts.
QUICK = "--backbone test_resnet --image-size 32 --views 2 --batch-size 16 --epochs 1"
EXECUTED = {
    "README.md": ("views", "train", "evaluate", "index", "search", "duplicates", "embed", "export"),
    "docs/export.md": ("train", "export"),
    "docs/index.md": ("train", "index", "evaluate"),
    "docs/own_photos.md": ("views",),
    "docs/search.md": ("train", "index", "search", "duplicates"),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", EXECUTED)
def test_commands_run(page: str, tmp_path: Path, real_weights: str) -> None:
    """The commands of a page, one after another in one folder.

    Not among them: serve, which never ends, and refine, which wants marks made on the page. Their own tests have these.
    """
    make_photos(tmp_path)
    photos = sorted((tmp_path / "photos").iterdir())
    for i, folder in enumerate(("labeled/cats", "labeled/dogs", "heldout/cats", "heldout/dogs")):
        (tmp_path / folder).mkdir(parents=True)
        for photo in photos[i::4]:
            shutil.copy(photo, tmp_path / folder)
    lines = commands(page)
    if not any(line.startswith("s2r2 train") for line in lines):
        lines.insert(0, "s2r2 train photos/ --out runs/mine")
    # A whole study takes an hour: tests/study runs a short one.
    elsewhere = ("s2r2 serve", "s2r2 refine", "s2r2 compare", "s2r2 evaluate RUN", "s2r2 search photos.index --words")
    lines = [line for line in lines if not line.startswith(elsewhere)]
    for line in lines:
        arguments = shortened(shlex.split(line, comments=True)[1:], real_weights)
        done = preloaded.run("-m", "s2r2", *arguments, cwd=tmp_path, timeout=280)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert set(EXECUTED[page]) <= {line.split()[1] for line in lines}


def shortened(arguments: list[str], real_weights: str) -> list[str]:
    """A command of the docs with pretrained weights that are here, and training that takes seconds."""
    arguments = [real_weights if word == "timm:resnet18.a1_in1k" else word for word in arguments]
    if arguments[0] != "train":
        return arguments
    if "--minutes" in arguments:
        place = arguments.index("--minutes") + 1
        arguments[place] = str(float(arguments[place]) / 200)
        return arguments if "--resume" in arguments else [*arguments, "--batch-size", "16"]
    if "--start" in arguments:
        return [
            *arguments,
            *["--image-size", "64", "--views", "2", "--recipe", "photos", "--batch-size", "16", "--steps", "2"],
        ]
    return [*arguments, *QUICK.split()]
