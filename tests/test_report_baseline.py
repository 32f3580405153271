"""The baseline's report: executed once here, then read as people and browsers read it."""

import http.server
import json
import re
import shutil
import subprocess
import textwrap
import threading

import pytest
from conftest import Project, commit_all
from datasets import write_folder

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SECTIONS = (
    "1. Purpose", "2. Environment", "3. Data", "4. Model", "5. Training", "6. Results",
    "7. Conclusion and next steps",
)  # fmt: skip
PRESENT = ("README.md", "report.html", "report.pdf", "report.ipynb")


@pytest.fixture(scope="module")
def published(pristine, tmp_path_factory) -> Project:
    """Report the baseline as it stands, in a repository, and fill the README's table."""
    root = tmp_path_factory.mktemp("published") / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = commit_all(Project(root))
    project.git("config", "user.name", "Ada Lovelace")
    done = project.lab("report", "01_baseline", "--readme")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def folder(published):
    """Return the report's folder."""
    return published.root / "reports/01_baseline"


def text(path):
    """Read a text file."""
    return path.read_text(encoding="utf-8")


def test_the_report_has_its_files_and_the_record_beside_it(published, folder):
    assert {path.name for path in folder.iterdir()} == {*PRESENT, "figures", "run"}
    assert (folder / "run/result.json").exists()
    assert len(list((folder / "figures").glob("*.png"))) == 7
    ignored = published.git("check-ignore", *(f"{folder}/{name}" for name in PRESENT), check=False)
    assert ignored.stdout.split() == [f"{folder}/{name}" for name in PRESENT[1:]]


def test_a_report_that_is_killed_while_it_is_written_counts_for_nothing(published, tmp_path):
    shutil.copytree(published.root, tmp_path / "copy", symlinks=True)
    project = commit_all(Project(tmp_path / "copy"))
    code = f"""
        import os
        from {project.package}.lab import cli, report
        report._typeset = lambda folder: os.kill(os.getpid(), 9)
        cli.main(["report", "01_baseline"])
    """
    done = project.python("-c", textwrap.dedent(code))
    assert done.returncode == -9
    assert list((project.root / "reports" / "01_baseline").glob(".lab-*"))
    assert project.git("status", "--short").stdout == ""
    checked = project.lab("check", "--strict")
    assert checked.returncode == 0, checked.stdout
    project.lab("report", "--readme", check=True)
    assert text(project.root / "README.md").count("](reports/") == 1


def test_it_shows_every_section_and_answers_the_hypothesis(folder):
    readme = text(folder / "README.md")
    assert re.findall(r"(?m)^## (.*)", readme) == list(SECTIONS)
    assert re.search(r"The hypothesis \*\*(holds|does not hold)\*\*", readme)
    run = json.loads(text(folder / "run/code.json"))["run"]
    assert readme.count(run) >= 3  # header, results, conclusion
    for number in range(1, 8):
        assert f"**Figure {number}.**" in readme


def test_the_header_says_who_when_which_run_which_code_and_the_verdict(folder):
    page, code = text(folder / "report.html"), json.loads(text(folder / "run/code.json"))
    header = page[page.index("<header>") : page.index("</header>")]
    for part in ("8×8 digits", "Ada", code["run"], code["commit"][:10], "not yet"):
        assert part in header
    assert re.search(r"20\d\d-\d\d-\d\d", header)


def test_the_contents_list_the_seven_sections(folder):
    page = text(folder / "report.html")
    contents = page[page.index("<nav") : page.index("</nav>")]
    links = re.findall(r'href="#([^"]+)"', contents)
    assert len(links) == 7
    assert all(f'id="{link}"' in page for link in links)


def test_every_figure_has_an_alternative_text_and_a_caption(folder):
    page = text(folder / "report.html")
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 7
    assert all(re.search(r'alt="[^"]{15,}"', image) for image in images)
    assert page.count("<figcaption>") == 7


def test_a_strict_check_is_content_once_the_report_is_committed(published):
    assert "is not in git" in published.lab("check").stdout
    published.git("add", "reports", "README.md")
    done = published.lab("check", "--strict")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_readme_lists_the_result_and_the_check_says_when_it_does_not(published, folder):
    result = json.loads(text(folder / "run/result.json"))
    readme = published.root / "README.md"
    table = text(readme).split("<!-- results -->")[1].split("<!-- /results -->")[0]
    assert f"{result['test_accuracy']:.2%}" in table
    assert "(reports/01_baseline/)" in table
    before = text(readme)
    readme.write_text(before.replace(f"{result['test_accuracy']:.2%}", "99.99%"), "utf-8")
    found = published.lab("check").stdout
    assert re.search(r"README.md:\d+: the results table is out of step; lab report --readme", found)
    published.lab("report", "--readme", check=True)
    assert text(readme) == before


def test_a_verdict_appears_without_executing_again_and_stays(published, folder):
    verdict = folder / "run/verification.json"
    run = json.loads(text(folder / "run/code.json"))["run"]
    verdict.write_text(json.dumps({"verdict": "identical", "run": run}), encoding="utf-8")
    done = published.lab("report", "01_baseline", check=True)
    assert "no code changed" in done.stdout
    assert '<dd class="good">identical</dd>' in text(folder / "report.html")
    assert "**Verified** identical" in text(folder / "README.md")
    verdict.unlink()
    published.lab("report", "01_baseline", check=True)


def test_executed_again_it_differs_in_times_and_run_id_alone(published, folder):
    def shape(readme):
        readme = re.sub(r"20\d{6}-\d{6}-[\w-]+-s\d+-[0-9a-f]{4}", "RUN", readme)
        readme = re.sub(r"\d\d\d\d-\d\d-\d\d( \d\d:\d\d UTC)?", "TIME", readme)
        readme = re.sub(r"\b[0-9a-f]{10}\b", "COMMIT", readme)  # the report itself is committed
        return re.sub(r"\d+\.\d+ s\b|seconds [\d.e-]+|\d+\.\d+(?=s\b)", "SECONDS", readme)

    published.git("add", "-A")
    published.git("commit", "-qm", "the report", "--no-verify", "--allow-empty")
    first = text(folder / "README.md")
    figures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    run = json.loads(text(folder / "run/code.json"))["run"]
    published.lab("report", "01_baseline", "--again", "--to", "md", check=True)
    assert json.loads(text(folder / "run/code.json"))["run"] != run
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == figures
    assert shape(text(folder / "README.md")) == shape(first)
    published.lab("report", "01_baseline", check=True)


def test_a_run_that_exists_is_reported_instead_of_training(published, tmp_path):
    published.train("--epochs", "2", "--seed", "7", check=True)
    run = published.runs()[-1].name
    count = len(published.runs())
    done = published.lab("new", "Another seed", "--from", "01_baseline", check=True)
    done = published.lab("report", "02_another_seed", "--run", run, "--to", "md")
    assert done.returncode == 0, done.stderr
    assert "section 1 still holds its prompt" in done.stdout  # a warning here
    assert len(published.runs()) == count
    folder = published.root / "reports/02_another_seed"
    assert json.loads(text(folder / "run/code.json"))["run"] == run
    assert f"run = 'runs/{run}'" in text(folder / "README.md")
    assert "of 2 is chosen" in text(folder / "README.md")  # the curves are those of that run
    card = "reports/02_another_seed"  # has no arrays: what is drawn comes from the run
    done = published.lab("report", "02_another_seed", "--run", card, "--to", "md", "--again")
    assert done.returncode == 0, done.stderr
    assert f"run = 'runs/{run}'" in text(folder / "README.md")
    unfinished = published.root / "runs" / run / "result.json"
    unfinished.rename(unfinished.with_suffix(".kept"))
    done = published.lab("report", "02_another_seed", "--run", run)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is unfinished" in done.stderr
    unfinished.with_suffix(".kept").rename(unfinished)
    (published.root / "runs" / run).rename(published.root / "runs" / "away")
    done = published.lab("report", "02_another_seed", "--run", card)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"the data for the figures of {run} are only where it was made" in done.stderr
    (published.root / "runs" / "away").rename(published.root / "runs" / run)
    (published.root / "runs").rename(tmp_path / "disk")  # as the README advises for another disk
    (published.root / "runs").symlink_to(tmp_path / "disk")
    done = published.lab("report", "02_another_seed", "--run", run, "--to", "md", "--again")
    (published.root / "runs").unlink()
    (tmp_path / "disk").rename(published.root / "runs")
    assert done.returncode == 0, done.stderr
    assert f"run = 'runs/{run}'" in text(folder / "README.md")
    options = ("--run", ".", "--to", "md", "--again")
    here = published.root / "runs" / run
    done = published.lab("report", "02_another_seed", *options, cwd=here)
    assert done.returncode == 0, done.stderr
    assert f"run = 'runs/{run}'" in text(folder / "README.md")


def test_a_run_on_one_s_own_images_is_reported_from_where_they_are(published, tmp_path):
    write_folder(tmp_path / "images")
    options = ("--dataset", "folder", "--image-size", "16", "--batch-size", "32", "--epochs", "2")
    published.train(*options, "--data-dir", tmp_path / "images", check=True)
    run = published.runs()[-1].name
    published.lab("new", "My own images", "--from", "01_baseline", check=True)
    (path,) = (published.root / "notebooks").glob("*_my_own_images.py")
    done = published.lab("report", path.stem, "--run", run, "--to", "md")
    assert done.returncode == 0, done.stderr
    readme = text(published.root / f"reports/{path.stem}/README.md")
    assert "test images are classified correctly" in readme


def test_a_second_training_that_fails_fails_the_report(published):
    path = published.root / "notebooks/04_twice.py"
    baseline = text(published.root / "notebooks/01_baseline.py")
    start = baseline.index("# %%\nrecord = model = None")
    training = baseline[start : baseline.index("# %%\nfigures.learning_curves")]
    again = f'# %%\narguments = "--epochs 1 --model no_such_model"\n\n{training}'
    head = baseline[: baseline.index("# %% [markdown]\n# ## 1. Purpose")]
    path.write_text(head + training + again, encoding="utf-8")
    done = published.lab("report", "04_twice", "-p", "epochs", "1", "--to", "md")
    assert done.returncode == 1
    assert "the training failed" in done.stderr
    assert not (published.root / "reports/04_twice/README.md").exists()
    page = text(published.root / "reports/04_twice/failed.html")
    assert "no_such_model" in page  # the script exits, and `%run` swallows that


def test_a_new_notebook_runs_as_it_is(published):
    published.lab("new", "Does it run as it is?", check=True)
    name = next((published.root / "notebooks").glob("*_does_it_run_as_it_is.py")).stem
    done = published.lab("report", name, "-p", "epochs", "1", "--to", "md")
    assert done.returncode == 0, done.stderr
    assert len(list((published.root / "reports" / name / "figures").iterdir())) == 5


@pytest.fixture
def served(folder):
    """Serve the report on this machine; return its address and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(folder), **options)

        def log_message(self, *_):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/report.html", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def browser(tmp_path):
    """Start a real headless browser."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless=new", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def test_the_page_asks_for_nothing_and_overflows_on_no_screen(served, browser):
    address, asked = served
    browser.get(address)
    assert asked == ["/report.html"]
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    wanted = {
        message["params"]["request"]["url"].split(",")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in wanted if url.startswith(("http", "ws", "file"))} == {address}
    assert browser.get_log("browser") == []  # nothing was refused either
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    for width, height in ((1280, 900), (390, 844)):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide, window = browser.execute_script(script)
        assert window == width
        assert wide <= window
    images = "return [...document.images].map(image => image.naturalWidth)"
    assert all(size > 500 for size in browser.execute_script(images))
    assert browser.execute_script("return document.querySelectorAll('math').length") >= 6


def test_the_page_is_dark_where_the_reader_wants_it_and_white_on_paper(served, browser):
    browser.get(served[0])
    colour = "return getComputedStyle(document.body).backgroundColor"

    def shown(media="screen", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        wanted = {"media": media, "features": features}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
        return sum(map(int, re.findall(r"\d+", browser.execute_script(colour))[:3])) / 3

    assert shown() > 240
    assert shown(scheme="dark") < 40
    assert shown("print", "dark") > 240


def test_the_pdf_has_captions_formulas_and_no_code(folder):
    done = subprocess.run(
        ["pdftotext", "-layout", folder / "report.pdf", "-"], capture_output=True, check=True
    )
    content = done.stdout.decode()
    for number in range(1, 8):
        assert f"Figure {number}." in content
    assert "load_splits" not in content
    assert "\\frac" not in content
    assert "ℒ" in content
    assert re.search(r"1 ?/ ?\d", content)


def test_the_style_sheet_keeps_its_measure(published):
    lab = published.root / "src" / published.package / "lab"
    assert len(text(lab / "report.css").splitlines()) <= 150
