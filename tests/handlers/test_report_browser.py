"""The evaluation's report in a real browser: it sorts, shows its pictures, and asks for nothing outside itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.report_parts import CASES, evaluate

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian package chromium)")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    evaluate(folder, CASES)
    return folder / "report.html"


def browse(page: Path, folder: Path, *flags: str, fragment: str = "") -> str:
    """Open a page with an empty profile; no name can be resolved. Returns what is printed."""
    places = [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [str(BROWSER), *FLAGS, *places, *flags, page.as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def requests_of_the_page(log: Path) -> set[str]:
    """Requests that the page made; the browser's own have no file as their site."""
    lines = [
        line for line in log.read_text(encoding="utf-8").splitlines() if '"network_isolation_key":"file://' in line
    ]
    urls = {url for line in lines for url in re.findall(r'"url":"([^"]+)"', line)}
    return {url for url in urls if not url.startswith(("file:", "data:"))}


def order(dom: str) -> list[str]:
    return re.findall(r'<tr id="case-\d+"><th scope="row">(.*?)</th>', dom)


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", ["<script>", "case 2", "case 9", "case 10"]),
        ("#sort=-0", ["case 10", "case 9", "case 2", "<script>"]),
        ("#sort=1", ["case 9", "case 10", "<script>", "case 2"]),
        # the first class's Dice: 1, 0.75, 0, and at the end the case without it, whatever the order
        ("#sort=-2", ["<script>", "case 10", "case 9", "case 2"]),
        ("#sort=2", ["case 9", "case 10", "<script>", "case 2"]),
        ("#sort=99", ["<script>", "case 2", "case 9", "case 10"]),
    ],
)
def test_the_table_sorts(report: Path, tmp_path: Path, fragment: str, expected: list[str]) -> None:
    rows = order(browse(report, tmp_path, "--dump-dom", fragment=fragment))
    names = [re.sub(r"&lt;script&gt;.*", "<script>", row) for row in rows]
    assert sorted(names) == sorted(expected)
    # mean Dice of two cases is 1, their order is free
    if fragment == "#sort=1":
        names[2:], expected[2:] = sorted(names[2:]), sorted(expected[2:])
    assert names == expected


def test_a_click_sorts_and_a_second_one_turns_the_order_round(report: Path, tmp_path: Path) -> None:
    clicks = """<script>
        const head = document.querySelector("[data-column='0']");
        head.click();
        head.click();
    </script></body>"""
    page = tmp_path / "clicked.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", clicks), encoding="utf-8")
    # the table opens in ascending order of the names: one click turns it, the next turns it back
    assert order(browse(page, tmp_path, "--dump-dom"))[-1] == "case 10"
    page.write_text(page.read_text(encoding="utf-8").replace("head.click();", "", 1), encoding="utf-8")
    assert order(browse(page, tmp_path, "--dump-dom"))[0] == "case 10"


def test_dots_get_their_case_as_a_title_and_no_script_of_a_name_runs(report: Path, tmp_path: Path) -> None:
    dom = browse(report, tmp_path, "--dump-dom")
    assert dom.count("<title>case 10</title>") == 2 * 3, "a dot a class and metric, and one of its volume"
    assert "<script>alert" not in dom


def test_no_request_leaves_the_page(report: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    browse(report, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert json.dumps(report.as_uri())[1:-1] in log.read_text(encoding="utf-8")
    assert requests_of_the_page(log) == set()
    # the page's own policy stops what its author might forget
    spoilt, picture = tmp_path / "spoilt.html", '<img src="http://example.invalid/x.png"></body>'
    spoilt.write_text(report.read_text(encoding="utf-8").replace("</body>", picture), encoding="utf-8")
    browse(spoilt, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert requests_of_the_page(log) == set()
    spoilt.write_text("<html><body>" + picture, encoding="utf-8")
    browse(spoilt, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert requests_of_the_page(log) == {"http://example.invalid/x.png"}, "the log would tell"


def test_a_screenshot_is_not_blank(report: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    browse(report, tmp_path, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1240,1600")
    picture = imread(tmp_path / "shot.png")[..., :3]
    assert picture.shape == (1600, 1240, 3)
    spread = picture.max(axis=2) - picture.min(axis=2)
    assert 0.002 < (spread > 0.3).mean() < 0.5, "classes are coloured, the rest is not"
