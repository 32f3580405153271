"""Odd names, places and states of git around a run: recorded, verified or refused in a line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_records_code import capture, restore
from test_verify_attacks import verify
from test_verify_causes import Bare, bare, edit, interpreter, train  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


def sources(project, out):
    return capture(project, out)[0]["sources"]


def test_a_log_of_ones_own_makes_no_other_code(repository, tmp_path):
    before = sources(repository, tmp_path / "out")
    for name in ("train_s0.log", "nohup.out"):
        (repository.root / name).write_text("epoch 1\n")
    assert sources(repository, tmp_path / "out") == before


def test_a_folder_called_lab_within_ones_own_code_is_code(repository, tmp_path):
    before = sources(repository, tmp_path / "out")
    noise = repository.root / "src" / repository.package / "zoo" / "lab" / "noise.py"
    noise.parent.mkdir(parents=True)
    noise.write_text("x = 1\n")
    assert sources(repository, tmp_path / "out") != before


@pytest.fixture
def with_library(bare, tmp_path):  # noqa: F811
    """Give a project with a submodule that has two commits, the newer one without `data.txt`."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "data.txt").write_text("2")
    (library / ".gitattributes").write_text("data.txt export-ignore\n")
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(library), *command], check=True)
    allow = ("-c", "protocol.file.allow=always")
    bare.git(*allow, "submodule", "--quiet", "add", str(library), "lib")
    bare.git("commit", "-qm", "submodule", "--no-verify")
    bare.move = lambda: bare.run(
        "sh", "-ec", "cd lib; git rm -q data.txt; git commit -qm two; echo 3 > data.txt"
    )
    return bare


LIBRARY = "float(Path(ROOT, 'lib', 'data.txt').read_text())"


def test_a_submodule_is_restored_with_what_archives_leave_out(with_library):
    train(with_library, loss=LIBRARY)
    with_library.move()
    head = with_library.run("git", "-C", "lib", "status", "--porcelain").stdout
    assert verify(with_library)[1]["verdict"] == "identical"
    assert with_library.run("git", "-C", "lib", "status", "--porcelain").stdout == head


def test_runs_with_other_submodules_are_other_code(with_library):
    train(with_library, loss=LIBRARY)
    with_library.move()
    time.sleep(1.1)
    train(with_library, loss=LIBRARY)
    first, second = (run.name for run in with_library.runs())
    said = with_library.lab("compare", first, second).stdout
    assert "code: the same" not in said
    assert "lib" in said.partition("code:")[2].partition("environment:")[0]
    groups = json.loads(with_library.lab("runs", "--group", "--json", check=True).stdout)
    assert [group["seeds"] for group in groups] == [1, 1]


def test_compare_names_an_ignored_module_that_changed(bare):  # noqa: F811
    (bare.root / ".gitignore").open("a").write("conf_local.py\n")
    for scale in (1.0, 2.0):
        (bare.root / "conf_local.py").write_text(f"SCALE = {scale}\n")
        train(bare, first="import conf_local", loss="conf_local.SCALE")
        time.sleep(1.1)
    first, second = (run.name for run in bare.runs())
    code = bare.lab("compare", first, second).stdout.partition("code:")[2]
    assert "conf_local.py" in code.partition("environment:")[0]


def test_runs_on_other_data_are_other_groups(bare):  # noqa: F811
    for seed, data in ((1, "a"), (2, "a"), (1, "b")):
        run = train(bare)
        edit(run / "config.json", seed=seed)
        edit(run / "data.json", fingerprint=data * 64)
        time.sleep(1.1)
    groups = json.loads(bare.lab("runs", "--group", "--json", check=True).stdout)
    assert sorted((group["data"], group["seeds"]) for group in groups) == [
        ("aaaaaaaa", 2),
        ("bbbbbbbb", 1),
    ]


@pytest.mark.parametrize("name", ["~big.bin", "assets/HOME/w.bin"])
def test_a_large_file_with_a_tilde_or_a_home_in_its_name_is_restored(repository, tmp_path, name):
    home = str(tmp_path / "home")
    path = repository.root / name.replace("/HOME", home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(200_000))
    code = (
        "import os, sys; from pathlib import Path; os.environ['HOME'] = sys.argv[1]\n"
        f"from {repository.package}.lab import code, worktree; root = Path.cwd()\n"
        "described, patch = code.capture(root, [])\n"
        "assert worktree.differences(root, described) == [], described\n"
        "worktree.restore(root, described, patch, Path(sys.argv[2]))"
    )
    repository.python("-c", code, home, tmp_path / "tree", check=True)
    assert (tmp_path / "tree" / path.relative_to(repository.root)).exists()


def test_a_verdict_names_what_the_record_holds_by_its_hash_alone(bare):  # noqa: F811
    (bare.root / "table.npy").write_bytes(bytes(200_000))
    train(bare)
    assert "only the hash: table.npy\n" in bare.lab("verify", "latest", check=True).stdout


def test_a_sparse_checkout_is_verified_whole_and_stays_sparse(bare):  # noqa: F811
    (bare.root / "configs").mkdir()
    (bare.root / "configs" / "a").write_text("3")
    bare.git("add", "-A")
    bare.git("commit", "-qm", "configs", "--no-verify")
    train(bare, loss="float(Path(ROOT, 'configs', 'a').read_text())")
    bare.git("sparse-checkout", "set", "src", "notebooks")
    assert verify(bare)[1]["verdict"] == "identical"
    assert not (bare.root / "configs").exists()


def test_a_file_that_git_was_told_to_leave_alone_and_that_is_gone_stays_gone(repository, tmp_path):
    repository.git("update-index", "--assume-unchanged", "LICENSE")
    (repository.root / "LICENSE").unlink()
    capture(repository, tmp_path / "out")
    restore(repository, tmp_path / "out")
    assert not (tmp_path / "out" / "tree" / "LICENSE").exists()


def test_an_absolute_link_within_the_project_leads_to_the_recorded_file(bare, tmp_path):  # noqa: F811
    (bare.root / "3").write_text("3")
    (tmp_path / "home").symlink_to(tmp_path, target_is_directory=True)
    (bare.root / "current").symlink_to(tmp_path / "home" / bare.root.name / "3")
    (bare.root / "conf").symlink_to("conf")  # by mistake
    train(bare, loss="float(Path(ROOT, 'current').read_text())")
    (bare.root / "3").write_text("5")
    assert verify(bare)[1]["verdict"] == "identical"
    assert (bare.root / "current").read_text() == "5"


def test_a_repository_in_the_project_without_a_commit_is_no_obstacle(bare):  # noqa: F811
    bare.git("init", "-q", "paper")
    (bare.root / "paper" / "draft.tex").write_text("\\section{Results}")
    train(bare)
    assert verify(bare)[1]["verdict"] == "identical"


def test_a_tracked_folder_that_became_a_link_is_captured(repository, tmp_path):
    folder, shared = repository.root / "conf", tmp_path / "shared"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    repository.git("add", "-A")
    repository.git("commit", "-qm", "conf", "--no-verify")
    folder.rename(shared)
    folder.symlink_to(shared)
    described, _ = capture(repository, tmp_path / "out")
    assert "warning" not in described
    restore(repository, tmp_path / "out")
    assert (tmp_path / "out" / "tree" / "conf").is_symlink()


def test_a_scratch_folder_within_the_project_is_no_code(repository, tmp_path, monkeypatch):
    (repository.root / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(repository.root / "scratch"))
    described, patch = capture(repository, tmp_path / "out")
    assert patch == b""
    assert not described["dirty"]


def test_a_file_that_vanishes_while_it_is_captured_is_left_out(repository, tmp_path):
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\nPATH="${{PATH#*:}}"\ngit "$@"; code=$?\n'
        f'case " $* " in *" --others "*) rm -f "{repository.root}/4913";; esac\nexit $code\n'
    )
    shim.chmod(0o755)
    (repository.root / "4913").write_text("an editor's scratch file")
    code = f"from pathlib import Path; from {repository.package}.lab import code\n"
    code += "assert 'warning' not in code.capture(Path.cwd(), [])[0]"
    env = {"PATH": f"{shim.parent}:{repository.env['PATH']}"}
    repository.python("-c", code, check=True, env=env)


@pytest.mark.parametrize(
    "text",
    [
        "export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567\n",
        "HF_TOKEN = abcd1234abcd1234abcd1234\n",
        "host: db\npassword: correct-horse-9-battery\n",
    ],
)
def test_a_secret_without_quotes_is_not_copied(repository, tmp_path, text):
    (repository.root / "job.sh").write_text(text)
    described, patch = capture(repository, tmp_path / "out")
    assert [item["path"] for item in described["listed"]] == ["job.sh"]
    assert text.split()[-1].encode() not in patch


def test_a_secret_among_the_values_of_config_is_refused(bare):  # noqa: F811
    train(bare, check=False)
    text = (bare.root / "train.py").read_text()
    secret = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
    (bare.root / "train.py").write_text(
        text.replace('dataset="toy"', f'dataset="toy", key="{secret}"')
    )
    before = bare.runs()
    done = bare.python("train.py")
    assert "looks like a secret" in done.stderr
    assert bare.runs() == before


def test_names_that_are_no_utf8_and_slashes_in_a_model_are_recorded(bare):  # noqa: F811
    folder = os.fsdecode(b"data\xe9")
    (bare.root / folder).mkdir()
    (bare.root / folder / os.fsdecode(b"\xe9.png")).write_text("x")
    first = "import glob; DATA = Path(glob.glob(str(ROOT / 'data?'))[0])"
    text = "files=[], data_dir=ROOT"
    train(bare, first=first)
    script = (bare.root / "train.py").read_text()
    script = script.replace(text, "files=list(DATA.iterdir()), data_dir=DATA")
    (bare.root / "train.py").write_text(script.replace('model="toy"', 'model="timm/toy"'))
    time.sleep(1.1)
    bare.python("train.py", check=True)
    run = bare.runs()[-1]
    assert "timm_toy" in run.name
    assert json.loads((run / "data.json").read_text())["data_dir"] == folder
    assert verify(bare)[1]["verdict"] == "identical"


def test_a_backup_beside_a_run_does_not_hide_it(bare):  # noqa: F811
    run = train(bare)
    (run.parent / f"{run.name}.bak").mkdir()
    for path in run.iterdir():
        if path.is_file():
            (run.parent / f"{run.name}.bak" / path.name).write_bytes(path.read_bytes())
    assert bare.lab("verify", run.name).returncode == 0


def test_lists_and_fields_called_state_are_shown_and_filtered(bare):  # noqa: F811
    run = train(bare)
    edit(run / "config.json", widths=[32, 64], state="warm")
    assert bare.lab("runs", "--where", "widths=[32, 64]", check=True).stdout.count(run.name) == 1
    assert bare.lab("runs", "--where", "widths=[1]", check=True).stdout.count(run.name) == 0
    assert "Traceback" not in bare.lab("runs", "--where", "widths>3").stderr
    (row,) = json.loads(bare.lab("runs", "--json", check=True).stdout)
    assert row["state"] == "finished"


def test_a_folder_of_the_users_is_not_hidden_from_git_by_runs_in_it(bare):  # noqa: F811
    (bare.root / "mine").mkdir()
    (bare.root / "mine" / "note.md").write_text("mine\n")
    train(bare)
    for rules in (None, "*.tmp\n"):
        if rules:
            (bare.root / "mine" / ".gitignore").write_text(rules)
        bare.python("train.py", "--runs-dir", bare.root / "mine", check=True)
        assert "mine/note.md" in bare.git("status", "--short", "-uall").stdout
    assert (bare.root / "mine" / ".gitignore").read_text() == rules


def test_a_record_that_could_not_begin_leaves_nothing_behind(bare):  # noqa: F811
    train(bare)
    script = bare.root / "train.py"
    script.write_text(script.read_text().replace("limit=eval", "limit=object() or eval"))
    assert bare.python("train.py").returncode == 1
    assert len(list((bare.root / "runs").glob(".2*"))) == 0
    assert len(bare.runs()) == 1


def test_a_report_that_is_ended_leaves_nothing_behind(repository):
    body = "import os, time\nopen('started', 'w').close()\ntime.sleep(60)"
    notebook = repository.root / "notebooks" / "02_slow.py"
    notebook.write_text(f"# %% [markdown]\n# # Slow\n\n# %%\n{body}\n")
    code = f"from {repository.package}.lab.cli import main; main(['sync'])"
    repository.python("-c", code, check=True)
    command = [sys.executable, "-m", f"{repository.package}.lab.cli", "report", "02_slow"]
    process = subprocess.Popen(command, cwd=repository.root, env=repository.env)
    deadline = time.monotonic() + 60
    while not (notebook.parent / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not list((repository.root / "reports").glob("**/.lab-*"))
