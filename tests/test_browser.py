"""A reader with a real browser: JupyterLab opens notebook 05, runs it, and what should answer answers.

The server works on a copy of the course, offline, with settings of its own. One page serves all the questions, since
opening it is the slow part; where one goes wrong, the output names a picture of the page.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from browser import chromium
from test_exercises import CODE, exercises_of
from test_notebooks import RAISES, load, tags

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "05_multi_head.ipynb"
LIMIT = 600  # seconds for any one wait: far more than is needed on a machine with something else to do

# The whole page stands in the document, not only what is in view; nothing asks about news.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
FAULTS = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
IDLE = """() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'
    && ![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(one => one.textContent.includes('*'))"""


def copy_of_the_course(folder):
    """The course as a reader has it, but with every output of the notebook taken out: what shows was made here."""
    for name in ("notebooks", "images", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    nb = load(NOTEBOOK)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    (folder / "notebooks" / NOTEBOOK.name).write_text(nbformat.writes(nb), encoding="utf-8")
    return nb


@contextmanager
def jupyterlab(course, scratch):
    """The address of a JupyterLab that works on the folder `course` and writes its own things into `scratch`."""
    for name, setting in SETTINGS.items():
        file = scratch / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={course}"),
        *(f"--LabApp.user_settings_dir={scratch / 'settings'}", f"--LabApp.workspaces_dir={scratch / 'workspaces'}"),
        *("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"),
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    own = {f"JUPYTER_{name}_DIR": str(scratch / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **own, "IPYTHONDIR": str(scratch / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    address = f"http://127.0.0.1:{port}"
    with open(scratch / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=course)
        try:
            deadline = time.monotonic() + LIMIT
            while not answers(f"{address}/api"):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"JupyterLab did not start:\n{(scratch / 'server.log').read_text(encoding='utf-8')}")
                time.sleep(0.2)
            yield address, token
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def photographed(page, folder):
    """Leave a picture of the page when something goes wrong."""
    try:
        yield
    except BaseException:
        try:
            page.screenshot(path=folder / "failure.png")
            print(f"a picture of the page as it was: {folder / 'failure.png'}")
        finally:
            raise


# ---------------------------------------------------------------- what a reader does


def cell(page, i):
    """Cell i of the file."""
    return page.locator(".jp-Notebook .jp-Cell").nth(i)


def run_all(page, tries=10):
    """Run, Run All Cells. JupyterLab passes over every cell while the kernel is not connected: then once more."""
    for _ in range(tries):
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        deadline = time.monotonic() + 15
        while not page.locator(".jp-InputPrompt", has_text="*").count() and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        if time.monotonic() < deadline:
            break
    page.wait_for_function(IDLE)


def type_into(page, i, source):
    """Put `source` in place of all that stands in cell i."""
    editor = cell(page, i).locator(".cm-content")
    editor.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(source)
    typed = [line.rstrip() for line in editor.inner_text().splitlines() if line.strip()]
    assert typed == [line.rstrip() for line in source.splitlines() if line.strip()]


def run_cell(page, i):
    """Run cell i with Shift + Enter, and give what its output says."""
    before = cell(page, i).locator(".jp-InputPrompt").inner_text()
    cell(page, i).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "([prompt, before]) => /[0-9]/.test(prompt.textContent) && prompt.textContent.trim() !== before.trim()",
        arg=[cell(page, i).locator(".jp-InputPrompt").element_handle(), before],
    )
    page.wait_for_function(IDLE)
    return cell(page, i).locator(".jp-Cell-outputArea").inner_text()


# ---------------------------------------------------------------- what a reader sees


def folded_cells_are_folded(page, nb):
    """A cell that only draws or checks shows one line in place of its code; the others show their code."""
    code = [i for i, one in enumerate(nb.cells) if one.cell_type == "code"]
    hidden = [i for i in code if nb.cells[i].metadata.get("jupyter", {}).get("source_hidden")]
    assert hidden and [i for i in code if cell(page, i).locator(".jp-InputPlaceholder").count()] == hidden


def everything_ran(page, nb):
    code = [i for i, one in enumerate(nb.cells) if one.cell_type == "code"]
    prompts = [cell(page, i).locator(".jp-InputPrompt").inner_text().strip() for i in code]
    folded = [bool(nb.cells[i].metadata.get("jupyter", {}).get("source_hidden")) for i in code]  # they show no number
    assert prompts == ["" if hidden else f"[{n}]:" for n, hidden in enumerate(folded, 1)]
    for i in code:
        if RAISES not in tags(nb.cells[i]):
            assert cell(page, i).locator(FAULTS).all_inner_texts() == [], f"cell {i}: {nb.cells[i].source}"


def pictures_show(page):
    """No broken picture; the badge among those that show."""
    page.wait_for_function("() => [...document.querySelectorAll('.jp-Notebook img')].every(one => one.complete)")
    widths = page.eval_on_selector_all(".jp-Notebook img", "all => all.map(one => [one.alt, one.naturalWidth])")
    assert [alt for alt, width in widths if not width] == []
    assert "Open in Colab" in [alt for alt, width in widths]


def the_explorer_answers(page):
    """Pointing at a position says where it looks; the first one has only itself to look at."""
    explorer = page.locator(".jp-OutputArea [data-explorer]").first
    tokens, sentence = explorer.locator("button"), explorer.locator("[aria-live]")
    for position in (0, 2, 1):
        tokens.nth(position).hover()
        sentence.filter(has_text=re.compile(rf"^Position {position} ")).wait_for()
        assert "%" in sentence.inner_text()
        assert position or "attends most to 0" in sentence.inner_text() and "(100 %)" in sentence.inner_text()


def an_exercise_answers(page, nb):
    """A function that gives its argument back is no solution of any exercise."""
    exercise = next(one for one in exercises_of(NOTEBOOK) if one.code[-2].source.startswith("def "))
    answer, check = (next(i for i, one in enumerate(nb.cells) if one.id == own.id) for own in exercise.code[-2:])
    head, first = re.match(r"(def \w+\((\w+).*)", nb.cells[answer].source).groups()

    type_into(page, answer, f"{head}\n    return {first}")
    run_cell(page, answer)
    said = run_cell(page, check)
    assert cell(page, check).locator(FAULTS).count() == 1, f"no error: {said}"
    assert said.startswith("Not yet: ") and "Right" not in said and "Traceback" not in said, said

    type_into(page, answer, CODE.search(exercise.folds["Solution"])[1])
    run_cell(page, answer)
    said = run_cell(page, check)
    assert said.startswith("Right: ") and cell(page, check).locator(FAULTS).count() == 0, said


def test_a_reader_in_jupyterlab(tmp_path):
    with chromium() as browser:
        nb = copy_of_the_course(tmp_path / "course")
        scratch = tmp_path / "server"
        scratch.mkdir()
        with jupyterlab(tmp_path / "course", scratch) as (address, token):
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(1000 * LIMIT)
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            with photographed(page, tmp_path):
                page.goto(f"{address}/lab/tree/notebooks/{NOTEBOOK.name}?token={token}", wait_until="domcontentloaded")
                cell(page, len(nb.cells) - 1).wait_for(state="attached")
                page.wait_for_function(IDLE)
                folded_cells_are_folded(page, nb)
                run_all(page)
                everything_ran(page, nb)
                pictures_show(page)
                the_explorer_answers(page)
                an_exercise_answers(page, nb)
                hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
                assert hosts == {"127.0.0.1"}, "the page reaches for the network"
