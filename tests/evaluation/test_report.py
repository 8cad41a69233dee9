"""The report: complete, self-contained, harmless, and the same in a browser."""

import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest

from browser import barriers, until, watch
from s2r2.errors import S2R2Error
from s2r2.evaluation import evaluate, write_report
from s2r2.evaluation.charts import Series, line_chart
from s2r2.views import get_recipe


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, stores, encoder):
    """What an evaluation leaves in a run folder; made once."""
    folder = tmp_path_factory.mktemp("evaluated")
    encoders = {"untrained encoder": encoder, "trained encoder": encoder}
    evaluate(encoders, *stores, recipe=get_recipe("mild"), folder=folder, draws=50)
    return folder


@pytest.fixture
def full_run(run_folder, evaluated):
    """A run with everything."""
    shutil.copytree(evaluated, run_folder, dirs_exist_ok=True)
    return run_folder


def test_a_report_has_every_part(full_run):
    page = write_report(full_run).read_text()
    for part in ("result", "rankings", "map", "training", "views", "health", "settings", "skipped"):
        assert f'id="{part}"' in page, part
    for text in ("1,234 photos", "resnet18", "8 random views of each of 64 photos", "truncated", "raw pixels"):
        assert text in page, text
    assert page.count("<svg") == 6  # loss, checks, speed, waiting, gradient, learning rate


def test_the_page_is_one_file_without_scripts_or_addresses_outside(full_run):
    page = write_report(full_run).read_text()
    assert "<script" not in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:", "#")), address[:60]
    assert "url(" not in page
    assert "@import" not in page


def test_names_of_files_and_runs_cannot_put_anything_into_the_page(full_run):
    page = write_report(full_run).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.jpg" in page
    assert "my &lt;run&gt; &amp; co" in page
    assert "<b>of mine</b>" not in page


def test_figures_in_the_page_are_those_of_the_evaluation(full_run):
    page = write_report(full_run).read_text()
    content = json.loads((full_run / "evaluation.json").read_text())
    for row in content["rows"]:
        assert f">{100 * row['figures']['map'][0]:.1f}<" in page


def test_ticks_and_crosses_follow_the_labels(full_run):
    page = write_report(full_run).read_text()
    content = json.loads((full_run / "evaluation.json").read_text())["pictures"]
    marks = [n["right"] for kind in ("rankings", "worst") for q in content[kind]["queries"] for n in q["neighbours"]]
    assert page.count('<li class="right"') == sum(marks)
    assert page.count('<li class="wrong"') == len(marks) - sum(marks)


def test_the_first_sentences_name_the_encoders_and_no_figure_is_minus_zero(full_run):
    path = full_run / "evaluation.json"
    content = json.loads(path.read_text())
    for row in content["rows"][1:3]:
        row["kind"] = "untrained"
    content["rows"][-2]["health"]["mean_cosine"] = -0.0001
    path.write_text(json.dumps(content))
    page = write_report(full_run).read_text()
    assert "the trained encoder ranks with a mean average precision of" in page
    assert "for raw pixels and" in page
    assert "An encoder (resnet18) learned from 1,234 photos" in page
    assert "-0.00" not in page


def test_a_run_without_evaluation_says_how_to_get_one(run_folder):
    run_folder = run_folder.rename(run_folder.with_name("a run; of <mine>"))
    page = write_report(run_folder).read_text()
    assert "has not been evaluated yet" in page
    [command] = re.findall(r"<code>s2r2 evaluate (.*) --train DATA --test DATA</code>", page)
    assert shlex.split(html.unescape(command)) == [str(run_folder.resolve())]
    assert 'id="rankings"' not in page


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "views.png", "skipped.csv", "pictures"])
def test_a_report_can_do_without_any_single_part(full_run, missing):
    path = full_run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = write_report(full_run).read_text()
    assert "</html>" in page
    assert ">None<" not in page
    assert "nan" not in re.sub(r"<style>.*?</style>|base64,[^\"]*", "", page, flags=re.S).split()


def test_damaged_parts_are_left_out(run_folder):
    (run_folder / "views.png").write_bytes(b"no picture")
    (run_folder / "metrics.jsonl").write_text("[]\n{\n" + '{"step": 1, "loss": NaN}\n{"step": 2, "loss": "x"}\n')
    for config in ("config: [1]\nrun: 3\n", "config: [", "config: {epochs: 3}\nrun: {images: 5}\n"):
        (run_folder / "config.yaml").write_text(config)
        page = write_report(run_folder).read_text()
    assert 'id="views"' not in page
    assert 'id="training"' not in page


def test_unlabeled_data_get_a_report_too(run_folder, unlabeled, encoder):
    evaluate({"trained encoder": encoder}, None, unlabeled, recipe=get_recipe("mild"), folder=run_folder, draws=20)
    page = write_report(run_folder).read_text()
    assert "view AP" in page
    assert '<li class="unmarked"' in page
    assert '<li class="right"' not in page
    assert "A tick marks" not in page


def test_a_collapsed_encoder_is_warned_of_at_the_top_of_the_page(run_folder, stores):
    generator = np.random.default_rng(0)

    def point(store):
        return 1 + 1e-4 * generator.standard_normal((len(store), 8))

    evaluate({"trained": point}, *stores, folder=run_folder, draws=20)
    page = write_report(run_folder).read_text()
    assert page.index("the embeddings have collapsed") < page.index('id="result"')
    assert page.count('class="warning"') == 1


def test_pictures_outside_the_run_folder_are_not_read(full_run, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    path = full_run / "evaluation.json"
    content = json.loads(path.read_text())
    content["pictures"]["map"]["picture"] = "../secret.jpg"
    path.write_text(json.dumps(content))
    assert "c2VjcmV0" not in write_report(full_run).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(S2R2Error, match="no run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(S2R2Error, match="holds no run"):
        write_report(tmp_path)


# Charts.


def test_lines_stay_inside_the_frame_whatever_the_values():
    generator = np.random.default_rng(0)
    y = generator.standard_normal(5000).cumsum()
    y[::7] = np.nan
    svg = line_chart([Series("y", np.arange(5000), y)], label="y <&>", x_label="step", y_format=lambda v: f"{v:.2g}")
    width, height = (float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    paths = [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", d), float) for d in re.findall(r'<path d="([^"]*)"', svg)]
    assert 24 < max(map(len, paths)) <= 500  # the band goes there and back
    for points in paths:
        assert (points >= -2).all()
        assert (points <= [width + 2, height + 2]).all()
    assert "y &lt;&amp;&gt;" in svg


def test_a_chart_of_nothing_is_nothing():
    nan = np.array([np.nan])
    assert line_chart([Series("y", nan, nan)], label="y", x_label="step", y_format=str) == ""


# A real browser, without network.


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (1280, "dark"), (390, "light")])
@pytest.mark.slow
def test_in_a_browser_nothing_is_missing_overflows_or_keeps_people_out(full_run, browser, width, scheme):
    path = write_report(full_run)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    problems = watch(page, path.as_uri())
    page.on("requestfailed", lambda request: problems.append(request.url[:80]))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    until(page, "[...document.images].every(image => image.complete)")
    broken = page.evaluate("[...document.images].filter(image => image.naturalWidth == 0).length")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, td, th, figcaption, dd, li, small, span')]"
        ".filter(e => e.innerText?.trim()).map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    pictures = page.evaluate("document.images.length")
    kept_out = barriers(page)
    context.close()
    assert problems == []
    assert kept_out == []
    assert broken == 0
    assert overflow <= 0
    assert smallest >= 12
    assert pictures > 80
