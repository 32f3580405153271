"""What lies around the code of a run: links, large files, amended commits, files that change."""

import json
import os
import time

import pytest
from test_records_code import capture, restore


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_what_lies_behind_a_linked_folder_is_read_there_and_left_alone(repository, tmp_path, kind):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "precious.py").write_text("X = 1\n")
    (shared / "table.csv").write_text("1,2\n")
    (shared / "inner").symlink_to(tmp_path / "elsewhere")
    target = shared if kind == "absolute" else "../../shared"
    (repository.root / "src" / "shared").symlink_to(target)
    described, _ = capture(repository, tmp_path / "out")
    assert [item["path"] for item in described["listed"]] == ["src/shared/precious.py"]
    restore(repository, tmp_path / "out")
    assert (shared / "precious.py").read_text() == "X = 1\n"
    assert (shared / "inner").is_symlink()
    restored = tmp_path / "out" / "tree" / "src" / "shared"
    assert (restored / "precious.py").read_text() == "X = 1\n"
    assert (restored / "table.csv").read_text() == "1,2\n"


def test_a_large_file_in_a_new_folder_is_brought_from_the_working_tree(repository, tmp_path):
    prior = repository.root / "assets" / "deep" / "prior.bin"
    prior.parent.mkdir(parents=True)
    prior.write_bytes(bytes(200_000))
    described, _ = capture(repository, tmp_path / "out")
    assert described["listed"][0]["path"] == "assets/deep/prior.bin"
    restore(repository, tmp_path / "out")
    assert (tmp_path / "out/tree/assets/deep/prior.bin").read_bytes() == prior.read_bytes()


def test_a_commit_that_was_amended_away_is_still_there_for_its_runs(repository, tmp_path):
    (repository.root / "helper.py").write_text("x = 1\n")
    repository.git("add", "-A")
    repository.git("commit", "-qm", "second", "--no-verify")
    described, _ = capture(repository, tmp_path / "out")
    repository.git("commit", "-q", "--amend", "-m", "better", "--no-verify")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")
    assert described["base"] != repository.git("rev-parse", "HEAD").stdout.strip()
    restore(repository, tmp_path / "out")


def test_prose_notebooks_and_tests_are_no_sources_and_code_and_its_data_are(repository, tmp_path):
    def sources():
        return capture(repository, tmp_path / "out")[0]["sources"]

    start = sources()
    for name in ("README.md", "notebooks/new.py", "tests/test_new.py", "pyproject.toml", "CITATION.cff",
                 f"src/{repository.package}/lab/new.py", ".github/x.yml"):  # fmt: skip
        path = repository.root / name
        path.write_text((path.read_text() if path.exists() else "") + "# more\n")
        assert sources() == start, name
    for name in ("docs/a.csv", "cluster/train.sbatch", "LICENSE", "Dockerfile", "environment.yml", "ruff.toml",
                 "environment-gpu.yml", "requirements.lock", "conda-lock.yml"):  # fmt: skip
        (repository.root / name).parent.mkdir(exist_ok=True)
        with (repository.root / name).open("a") as file:
            file.write("# more\n")
    assert sources() == start
    seen = {start}
    for name in ("train.py", "helper.py", f"src/{repository.package}/models.py", "weights.csv"):
        with (repository.root / name).open("a") as file:
            file.write("# more\n")
        seen.add(sources())
    assert len(seen) == 5


def test_a_data_file_of_the_same_size_and_time_is_another_one(repository, tmp_path):
    path = tmp_path / "data" / "x.bin"
    path.parent.mkdir()
    code = f"""
from pathlib import Path
from {repository.package}.lab.hashes import fingerprint
print(fingerprint([Path({str(path)!r})], Path({str(path.parent)!r}), Path({str(tmp_path / "c")!r})))
"""
    prints = []
    for content in (b"first", b"other", b"other"):
        time.sleep(0.02)  # a file system's clock
        path.write_bytes(content)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        prints.append(repository.python("-c", code, check=True).stdout)
    assert prints[0] != prints[1] == prints[2]


@pytest.mark.torch
def test_an_edit_while_the_data_are_read_is_not_taken_for_the_code_that_ran(repository):
    data = repository.root / "src" / repository.package / "data.py"
    text = data.read_text()
    assert "    splits = DATASETS" in text
    edit = "    with (Path(__file__).parents[2] / 'train.py').open('a') as file:\n"
    edit += "        file.write('# edited meanwhile\\n')\n"
    data.write_text(text.replace("    splits = DATASETS", f"{edit}    splits = DATASETS"))
    repository.train("--epochs", "1", check=True)
    (run,) = repository.runs()
    patch = (run / "code.patch").read_text()
    assert "edited meanwhile" in patch  # as it stands in data.py
    assert "train.py" not in [line.split("/")[-1] for line in patch.splitlines()
                              if line.startswith("+++")]  # fmt: skip


@pytest.mark.torch
def test_prose_written_while_a_run_pauses_is_no_change_of_its_code(repository):
    repository.train("--epochs", "3", "--stop-after-epochs", "1", check=True)
    with (repository.root / "README.md").open("a") as file:
        file.write("a remark\n")
    done = repository.train("--resume", "latest", check=True)
    assert "warning" not in done.stdout
    (run,) = repository.runs()
    assert json.loads((run / "code.json").read_text())["resumes"][0]["changes"] == []


def test_a_fingerprint_is_of_names_and_contents_and_each_file_is_read_once(
    repository, tmp_path, monkeypatch
):
    hashes, read = repository.module("lab.hashes"), []
    monkeypatch.setattr(hashes, "sha256", lambda path: read.append(path) or path.read_text())

    def fingerprint(folder, *names):
        folder = tmp_path / folder
        return hashes.fingerprint([folder / name for name in names], folder, tmp_path / "cache")

    for name, text in {"here/a": "1", "here/b": "2", "there/a": "1", "there/b": "2",
                       "renamed/a": "1", "renamed/c": "2"}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    whole = fingerprint("here", "a", "b")
    assert fingerprint("there", "b", "a") == whole
    assert fingerprint("renamed", "a", "c") != whole
    assert fingerprint("here", "a", "b") == whole
    assert len(read) == len(set(read)) == 6
    beside = [fingerprint("renamed", "c", tmp_path / name / "a") for name in ("here", "there")]
    assert beside[0] == beside[1]


def test_a_container_whose_home_is_the_root_records_addresses_as_they_are(repository, monkeypatch):
    project = repository.module("lab.project")
    monkeypatch.setenv("HOME", "/")
    for text in ("https://example.org/lab.git", "file:///srv/lab.git", "/work/data"):
        assert project.tilde(text) == text


def test_a_file_that_is_written_anew_stays_readable_to_whom_it_was(repository, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before")
    path.chmod(0o664)
    repository.module("lab.project").write_whole(path, "after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o664)
