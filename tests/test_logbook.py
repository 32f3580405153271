"""The page of all runs, in a real browser without a network."""

import shutil
import time

import pytest
from made_records import make_record
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("chromedriver"), reason="needs chromium and chromium-driver"
    ),
]

LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"


@pytest.fixture(scope="module")
def browser():
    """Start a headless Chromium that may reach no host at all."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1300,900",
                 "disable-gpu", "host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def page(project, browser):
    """Open a logbook of seven runs: two configurations, a broken one, one unfinished."""
    runs = project.root / "runs"
    for number in range(3):
        verdict = ("identical", "different", None)[number]
        make_record(runs, number, seed=number, verdict=verdict, epochs=6)
    for number in range(3, 5):
        make_record(runs, number, seed=number, model="resnet18", epochs=6)
    make_record(runs, 5, seed=9, finished=False, epochs=6)
    odd = make_record(runs, 6, seed=10, epochs=6, note="</script><b>数据</b>")
    (odd / "metrics.jsonl").write_text((odd / "metrics.jsonl").read_text() + '{"epoch": 7, "tr')
    (runs / "20260101-foreign").mkdir()
    (runs / "20260102-broken").mkdir()
    (runs / "20260102-broken" / "config.json").write_text("{")
    card = project.root / "reports" / "01_baseline" / "run"
    shutil.copytree(next(runs.glob("*-s0-*")), card)
    (card.parent / "README.md").write_text("# report\n")
    done = project.lab("logbook", check=True)
    assert "foreign" in done.stderr
    browser.get((runs / "logbook.html").as_uri())
    return browser


def cells(browser, column):
    """Return a column as it is shown."""
    headings = [cell.text.split(" ▲")[0].split(" ▼")[0]
                for cell in browser.find_elements(By.CSS_SELECTOR, "thead th")]  # fmt: skip
    place = headings.index(column)
    rows = browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[place].text for row in rows]


def sort_by(browser, name):
    browser.find_element(By.CSS_SELECTOR, f"button[data-sort={name}]").click()


def type_filter(browser, text):
    field = browser.find_element(By.ID, "filter")
    field.clear()
    field.send_keys(text or " ")


def test_it_sorts_by_any_column_both_ways(page):
    sort_by(page, "seed")
    seeds = [int(text) for text in cells(page, "seed") if text]
    assert seeds == sorted(seeds)
    sort_by(page, "seed")
    assert [int(text) for text in cells(page, "seed") if text] == seeds[::-1]
    sort_by(page, "test_accuracy")
    shown = [float(text) for text in cells(page, "test accuracy") if text]
    assert shown == sorted(shown, reverse=True)


def test_it_filters_by_words_and_conditions(page):
    type_filter(page, "resnet18")
    assert set(cells(page, "model")) == {"resnet18"}
    type_filter(page, "seed<2 model=simple_cnn")
    assert sorted(cells(page, "seed")) == ["0", "1"]
    assert page.find_element(By.ID, "count").text.startswith("2 of 8 runs")


def test_it_says_which_results_were_verified_and_links_reports(page):
    sort_by(page, "run")
    sort_by(page, "run")
    assert "✓ identical" in cells(page, "verdict")
    assert "✗ different" in cells(page, "verdict")
    assert "unfinished" in cells(page, "state")
    link = page.find_element(By.CSS_SELECTOR, "tbody a")
    assert link.get_attribute("href").endswith("reports/01_baseline/README.md")


def test_seeds_fold_into_groups_with_mean_and_deviation(page):
    page.find_element(By.ID, "group").click()
    groups = page.find_elements(By.CSS_SELECTOR, "tr.group")
    text = next(group.text for group in groups if "resnet18" in group.text)
    assert "2 runs" in text
    assert "±" in text
    unfinished = next(group.text for group in groups if "3 finished" in group.text)
    assert "4 runs" in unfinished
    assert "3 seeds" in unfinished  # the mean is of these
    next(group for group in groups if "resnet18" in group.text).click()
    assert len(page.find_elements(By.CSS_SELECTOR, "tbody tr:not(.group)")) == 2


def test_the_keyboard_sorts_both_ways_and_opens_a_group_without_losing_its_place(page):
    sort_by(page, "seed")
    seeds = list(filter(None, cells(page, "seed")))
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert list(filter(None, cells(page, "seed"))) == seeds[::-1]
    page.find_element(By.ID, "group").click()
    button = page.find_element(By.CSS_SELECTOR, "tr.group button")
    assert button.get_attribute("aria-expanded") == "false"
    button.send_keys(Keys.ENTER)
    assert page.find_elements(By.CSS_SELECTOR, "tbody tr:not(.group)")
    assert page.switch_to.active_element.get_attribute("aria-expanded") == "true"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert not page.find_elements(By.CSS_SELECTOR, "tbody tr:not(.group)")


def test_selected_runs_are_overlaid_in_one_chart(page, tmp_path):
    assert not page.find_element(By.ID, "chart").is_displayed()
    for box in page.find_elements(By.CSS_SELECTOR, "tbody input[type=checkbox]")[:4]:
        box.click()
    lines = page.find_elements(By.CSS_SELECTOR, "#chart polyline")
    assert len(lines) >= 3
    Select(page.find_element(By.ID, "metric")).select_by_value("train_accuracy")
    label = page.find_element(By.CSS_SELECTOR, "#chart svg").get_attribute("aria-label")
    assert label == "train accuracy by epoch"
    assert page.get_screenshot_as_file(str(tmp_path / "logbook.png"))
    assert (tmp_path / "logbook.png").stat().st_size > 20_000
    page.find_element(By.ID, "clear").click()
    assert not page.find_element(By.ID, "chart").is_displayed()


def test_values_cannot_break_the_page_and_nothing_is_fetched(page, project):
    assert "数据" in page.find_element(By.TAG_NAME, "body").text
    assert not page.find_elements(By.CSS_SELECTOR, "tbody b")
    assert page.get_log("browser") == []
    text = (project.root / "runs" / "logbook.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text


def test_it_opens_with_a_thousand_runs_and_draws_its_first_rows_at_once(project, browser):
    for number in range(1000):
        make_record(project.root / "runs", number, seed=number % 5, epochs=40,
                    learning_rate=number // 5 / 1000)  # fmt: skip
    project.lab("logbook", check=True)
    path = project.root / "runs" / "logbook.html"
    times = []
    for _ in range(5):
        browser.get(path.as_uri())  # until the page is loaded, its first rows drawn
        times.append(browser.execute_script(LOADED) / 1000)
        assert browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    print(f"a thousand runs: {min(times):.2f} s, {path.stat().st_size / 1e6:.1f} MB")
    started = time.monotonic()
    while time.monotonic() < started + 60:
        count = browser.execute_script("return document.querySelectorAll('tbody tr').length")
        if count == 1000:
            break
        time.sleep(0.1)
    assert count == 1000


def test_without_runs_it_says_how_to_make_one(project):
    done = project.lab("logbook")
    assert done.returncode == 2
    assert "train.py" in done.stderr


def test_metrics_of_ones_own_have_columns_and_curves(project, browser):
    for number in range(2):
        run = make_record(project.root / "runs", number, seed=number, epochs=4)
        (run / "result.json").write_text('{"test_mse": 3131.5, "epochs": 4, "per_class": [1, 2]}')
        rows = [f'{{"epoch": {epoch}, "validation_mse": {9 - epoch}}}\n' for epoch in range(1, 5)]
        (run / "metrics.jsonl").write_text("".join(rows))
    project.lab("logbook", check=True)
    browser.get((project.root / "runs" / "logbook.html").as_uri())
    assert cells(browser, "test mse") == ["3132", "3132"]
    assert not browser.find_elements(By.CSS_SELECTOR, "button[data-sort=test_accuracy]")
    for box in browser.find_elements(By.CSS_SELECTOR, "tbody input[type=checkbox]"):
        box.click()
    choice = Select(browser.find_element(By.ID, "metric"))
    assert [option.text for option in choice.options] == ["validation mse"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#chart polyline")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "tbody svg")) == 2
    assert browser.get_log("browser") == []
