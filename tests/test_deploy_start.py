"""Starting the team's server, and stopping it: settings, secrets, and a day's work in a browser."""

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from jupyter_door import (  # noqa: F401 (resolved is a fixture)
    DEPLOY,
    HOST,
    MARKS,
    children,
    door,
    resolved,
)

pytestmark = MARKS


def test_the_start_script_is_clean_for_shellcheck():
    checker = Path(sys.executable).parent / "shellcheck"
    root = DEPLOY.parent.parent
    subprocess.run([checker, "-x", "-P", root, DEPLOY / "start"], check=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ACCOUNT": "root"}, "ACCOUNT=root is root"),
        ({"ENVIRONMENT": "/no/such"}, "no /no/such/bin/python"),
        ({"WORK": "/no/such"}, "cannot write to /no/such"),
        ({"UPLOAD": "lots"}, "Nginx refuses"),
        ({"HOST": "Lab.example.org"}, "must be a name in small letters"),
        ({"HOST": "lab.example.org:443"}, "without a port"),
        ({"HOST": "192.0.2.2"}, "not an IP address"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, said):
    if "ACCOUNT" in change and os.geteuid():
        pytest.skip("only root can give root up")
    with door(**change) as made:
        if "ACCOUNT" in change:
            made.prefix = []
        done = subprocess.run(made.command(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_password_replaces_the_token_and_is_kept_hashed():
    with door() as made:
        type_password(made, "correct horse battery staple")
        made.start()
        kept = (made.state / "secrets" / "password").read_text(encoding="utf-8")
        assert kept.startswith("argon2:")
        assert made.get("/api/kernels", headers=made.authorized).status_code == 403
        empty = {"Authorization": "token "}
        assert made.get("/api/kernels", headers=empty).status_code == 403
        with made.session() as client:
            for wrong in ("", "horse", kept.strip(), made.token):
                assert made.login(client, wrong).status_code == 401
            assert made.login(client, "correct horse battery staple").status_code == 302
            assert client.get(f"{made.url}/api/kernels", timeout=20).status_code == 200
        assert "horse" not in made.logs()


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("", "", "of 12 letters"),
        ("short", "short", "of 12 letters"),
        ("a" * 12, "b" * 12, "differ"),
    ],
)
def test_an_empty_a_short_or_a_mistyped_password_changes_nothing(first, second, said):
    with door() as made:
        type_password(made, first, second, refused=said)
        assert {path.name for path in (made.state / "secrets").iterdir()} <= {"token"}


def test_a_configuration_with_a_mistake_starts_no_server_on_jupyters_own_defaults():
    with door() as made:
        path = made.folder / "box" / "jupyter_server_config.py"
        path.write_text(path.read_text(encoding="utf-8") + "\nnonsense\n", encoding="utf-8")
        done = subprocess.run(made.command(), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Jupyter or Nginx has ended" in done.stderr
        assert "nonsense" in (made.state / "jupyter.log").read_text(encoding="utf-8")


def test_a_folder_that_the_account_cannot_enter_makes_no_difference():
    with door() as made:
        if not made.prefix and os.geteuid() == 0:
            (made.folder / "box").chmod(0o700)
        made.start()
        assert made.get("/api/kernels", headers=made.authorized).status_code == 200


def test_closing_the_terminal_stops_both():
    with door() as made:
        made.start()
        made.process.send_signal(signal.SIGHUP)
        assert made.process.wait(timeout=60) == 0
        for port in (made.http, made.https, made.jupyter):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_certificate_that_is_not_there_and_cannot_be_made_is_named():
    with door() as made:
        with made.settings.open("a", encoding="utf-8") as file:
            file.write("CERTIFICATE=/no/such/chain.pem\nKEY=/no/such/key.pem\n")
        done = subprocess.run(made.command(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no /no/such/chain.pem" in done.stderr


def type_password(made, password: str, again: str | None = None, refused: str = "") -> None:
    """Run `start password` on a terminal and type it twice."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(made.command()[0], made.command("password"))
    text = b""
    prompts = {b"Enter password": password, b"Verify password": again or password}
    for prompt, typed in prompts.items():
        if refused and len(password) < 12 and prompt.startswith(b"Verify"):
            break  # it is refused at once
        while prompt not in text:
            text += os.read(terminal, 1024)
        time.sleep(0.2)
        os.write(terminal, f"{typed}\n".encode())
    while True:
        try:
            text += os.read(terminal, 1024)
        except OSError:  # the terminal is gone
            break
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == (2 if refused else 0), text
    assert refused.encode() in text
    assert not password or password.encode() not in text  # not echoed


def test_an_empty_token_is_replaced_a_new_one_ends_logins_and_a_short_one_is_refused():
    with door() as made:
        secrets = made.state / "secrets"
        secrets.mkdir(parents=True)
        (secrets / "token").write_text("", encoding="utf-8")
        for path in (made.state, secrets, secrets / "token"):
            shutil.chown(path, made.account if made.prefix else None, os.getegid())
        made.start()
        assert len(made.token) == 64
        client = made.session()
        assert made.login(client, made.token).status_code == 302
        made.stop()
        (secrets / "token").unlink()
        made.start()
        assert client.get(f"{made.url}/api/kernels", timeout=20).status_code == 403  # logged out
        made.stop()
        (secrets / "token").write_text("short\n", encoding="utf-8")
        done = subprocess.run(made.command(), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "too short" in (made.state / "jupyter.log").read_text(encoding="utf-8")


def test_when_jupyter_dies_the_start_ends_so_that_systemd_starts_it_again():
    with door() as made:
        made.start()
        jupyter = next(
            pid
            for pid in children(made.process.pid)
            if b"jupyterlab" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
        )
        os.kill(jupyter, signal.SIGKILL)
        assert made.process.wait(20) == 2
        with pytest.raises(requests.ConnectionError):
            made.get("/login")


def test_a_notebook_saved_in_the_browser_keeps_both_halves_of_its_pair(pristine):
    """A colleague logs in with Chromium, edits a cell of the baseline, runs it and saves."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver (.ci/apt.txt)")
    with door(read_timeout=600) as server:
        server.start()
        edit_in_browser(server, pristine)


def edit_in_browser(server, pristine) -> None:
    """Do it, and compare the halves."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    folder = server.work / "notebooks"
    shutil.copytree(pristine.root / "notebooks", folder)
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, server.account)
    script, notebook = folder / "01_baseline.py", folder / "01_baseline.ipynb"
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--ignore-certificate-errors",
                 f"--host-resolver-rules=MAP {HOST} 127.0.0.1", "--no-proxy-server"):  # fmt: skip
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        wait = WebDriverWait(browser, 120)
        browser.get(f"{server.url}/lab/tree/notebooks/01_baseline.ipynb")
        wait.until(lambda page: page.find_element(By.NAME, "password")).send_keys(
            server.token, Keys.ENTER
        )
        wait.until(lambda page: "/lab/tree/notebooks" in page.current_url)
        wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-Cell"))
        wait.until(typed_below)
        end = time.monotonic() + 60
        while "typed in the browser" not in script.read_text(encoding="utf-8"):
            assert time.monotonic() < end, server.logs()[-2000:]
            time.sleep(0.2)
    assert "typed in the browser" in notebook.read_text(encoding="utf-8")
    compared = [sys.executable, "-m", "jupytext", "--to", "py:percent", "--test", notebook]
    subprocess.run(compared, check=True, capture_output=True)


def typed_below(browser) -> bool:
    """Insert a cell by the keyboard, type into it and save; say whether the text is there."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    try:
        cells = browser.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-Cell")
        next(cell for cell in cells if cell.is_displayed()).click()
    except (WebDriverException, StopIteration):  # not drawn yet, or something lies above it
        return False
    text = "print(6 * 7)  # typed in the browser"
    actions = ActionChains(browser).send_keys(Keys.ESCAPE, "b", Keys.ENTER).pause(1)
    actions.send_keys(text).pause(1)
    actions.key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
    return "typed in the browser" in browser.page_source
