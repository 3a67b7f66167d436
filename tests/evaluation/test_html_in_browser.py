import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from relaxrl.evaluation import evaluate
from relaxrl.evaluation.html import write_html

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).parents[1] / "browser.py")
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

pytestmark = pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def comparison():
    cells = [bulk("Cu", cubic=True), bulk("Al", cubic=True) * (2, 1, 1), bulk("Au", cubic=True)]
    cells[0].symbols[0] = "Ag"
    made = evaluate(None, cells, "emt", methods=["BFGS", "FIRE", "untrained"], rattle=0.1)
    # One more that failed and has an awkward name, without geometries.
    awkward = [
        dataclasses.replace(
            run, structure="</script><b>x#0", collection="</script><b>x", film=None, converged=False, reason="<i>steps"
        )
        for run in made.records[:3]
    ]
    return dataclasses.replace(made, records=[*made.records, *awkward])


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    path = write_html(comparison, tmp_path_factory.mktemp("page"))
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(path)
        opened.path = path
        yield opened


def test_the_page_opens_without_errors_and_asks_for_nothing(page):
    assert page.errors == []
    assert page.requests == [page.path.resolve().as_uri()]
    assert page.run("document.querySelectorAll('figure svg.drawn').length") == 5
    assert page.run("document.querySelectorAll('b, i').length") == 0  # names are text


def test_all_structures_are_in_the_table_which_sorts_and_searches(page):
    rows = "[...document.querySelectorAll('#structures tbody tr')]"
    assert page.run(f"{rows}.length") == 4
    assert page.run(f"{rows}[0].cells[0].innerText") == "</script><b>x#0"  # the failure is the worst
    atoms = "document.querySelectorAll('#structures thead button')[2]"
    sizes = f"{rows}.map((row) => Number(row.cells[2].innerText))"
    page.run(f"{atoms}.click()")
    assert page.run(sizes) == [8, 4, 4, 4]
    page.run(f"{atoms}.click()")
    assert page.run(sizes) == [4, 4, 4, 8]
    type_in = "((text) => { search.value = text; search.dispatchEvent(new Event('input')); })"
    page.run(f"{type_in}('al8')")
    assert page.run(f"{rows}.filter((row) => !row.hidden).map((row) => row.cells[1].innerText)") == ["Al8"]
    assert page.run("found.innerText") == "1 of 4 rows"
    page.run(f"{type_in}('')")


def test_a_relaxation_is_drawn_and_plays(page, comparison):
    number = page.run("relaxrlReport.data.structures.findIndex((each) => each.id === 'atoms#0')")
    page.run(f"relaxrlReport.choose({number}, false)")
    page.run(
        "(() => { const m = relaxrlReport.data.methods.findIndex((each) => each.name === 'BFGS');"
        "method.value = m; method.dispatchEvent(new Event('change')); })()"
    )
    colours = """(async () => {
      const image = new Image();
      image.src = relaxrlReport.viewer.picture();
      await image.decode();
      const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
      const paper = canvas.getContext('2d');
      paper.drawImage(image, 0, 0);
      const pixels = paper.getImageData(0, 0, image.width, image.height).data, seen = new Set();
      for (let k = 0; k < pixels.length; k += 4) seen.add(pixels[k] + ',' + pixels[k + 1] + ',' + pixels[k + 2]);
      return seen.size;
    })()"""
    assert page.run(colours) > 50  # shaded spheres, not an empty stage
    run = next(r for r in comparison.records if r.structure == "atoms#0" and r.method == "BFGS")
    first = page.run("relaxrlReport.viewer.state.shown")
    page.run("play.click()")
    page.wait(f"Number(frame.value) === {len(run.film.moves) - 1} && play.innerText.includes('Play')")
    last = page.run("relaxrlReport.viewer.state.shown")
    moved = np.reshape(last, (-1, 3)) - np.reshape(first, (-1, 3))
    expected = run.film.positions(len(run.film.moves) - 1) - run.film.positions(0)
    np.testing.assert_allclose(moved, expected, atol=2e-3)
    assert np.abs(moved).max() > 0.05
    assert f"evaluation {run.force_evaluations} of {run.force_evaluations}" in page.run("moment.innerText")
    page.run("before.click()")
    assert page.run("relaxrlReport.viewer.state.shown") == first
    page.run("(() => { magnify.value = '10'; magnify.dispatchEvent(new Event('change')); })()")
    enlarged = np.reshape(page.run("relaxrlReport.viewer.state.shown"), (-1, 3)) - np.reshape(last, (-1, 3))
    np.testing.assert_allclose(enlarged, -10 * moved, atol=1e-6)
    page.run("(() => { magnify.value = '1'; magnify.dispatchEvent(new Event('change')); ghosts.click(); })()")
    assert page.errors == []


def test_a_structure_without_geometries_says_so(page):
    number = page.run("relaxrlReport.data.structures.findIndex((each) => each.id.includes('script'))")
    page.run(f"relaxrlReport.choose({number}, false)")
    assert "No view of this structure: 3 of 4" in page.run("stage.innerText")
    assert page.run("player.hidden") is True
    assert page.run("endings.innerText").count("<i>steps") == 3
    page.run("next.click()")
    assert page.run("player.hidden") is False
    assert page.errors == []


def test_nothing_sticks_out_of_a_narrow_window_and_legends_switch_curves(page):
    page.resize(400, 800, dark=True)
    page.wait("document.querySelector('#profile svg').getAttribute('width') < 400")
    assert page.run("document.documentElement.scrollWidth") == 400
    lines = "document.querySelectorAll('#profile path[stroke-width]').length"
    assert page.run(lines) == 3
    page.run("document.querySelector('#profile .chip').click()")
    assert page.run(lines) == 2
    assert page.run("document.querySelector('#profile .chip').getAttribute('aria-pressed')") == "false"
    assert page.errors == []


def test_a_browser_without_webgl_shows_all_but_the_structures(comparison, tmp_path):
    path = write_html(comparison, tmp_path)
    with browser.Browser(tmp_path / "profile", webgl=False) as page:
        page.open(path)
        page.run("relaxrlReport.choose(1, false)")
        assert "WebGL is off" in page.run("stage.innerText")
        assert page.run("player.hidden") is True
        assert page.run("document.querySelectorAll('#trace path').length") >= 3
        assert page.errors == []
