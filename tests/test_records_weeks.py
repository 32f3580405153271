"""What two months of ordinary research do to a project: recorded, run again and told apart."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import commit_all
from test_records_code import capture, restore
from test_verify_attacks import verify
from test_verify_causes import bare, edit, interpreter, train  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow

BIRDS = """

def birds(config: Config, options: RunOptions) -> Splits:
    folder = options.data_dir / "birds"
    path = folder / "birds.npz"
    if not path.exists():
        raise UserError(f"no birds in {folder}")
    made = digits(config, options)
    return replace(made, files=[path], folder=folder)


DATASETS: dict"""


@pytest.mark.torch
def test_a_data_set_in_a_subfolder_is_resumed_and_verified(repository, tmp_path):
    script = repository.root / "src" / repository.package / "data.py"
    text = script.read_text(encoding="utf-8").replace("\n\nDATASETS: dict", BIRDS, 1)
    text = text.replace('    "digits": digits,\n', '    "digits": digits,\n    "birds": birds,\n')
    script.write_text(text, encoding="utf-8")
    folder = tmp_path / "mine" / "birds"
    folder.mkdir(parents=True)
    shutil.copy(script.with_name("digits.npz"), folder / "birds.npz")
    given = ["--dataset", "birds", "--data-dir", folder.parent, "--epochs", "2"]
    repository.train(*given, "--stop-after-epochs", "1", check=True)
    repository.train("--resume", "latest", check=True)
    code, verdict, said = verify(repository)
    assert (code, verdict["verdict"]) == (0, "identical"), said


def test_an_edit_of_the_same_size_within_the_second_of_a_commit_is_recorded(repository, tmp_path):
    path = repository.root / "src" / repository.package / "models.py"
    text = path.read_text(encoding="utf-8")
    for number in range(5):  # it is a race: of some ten milliseconds in a second
        path.write_text(f"{text}# {number} a\n", encoding="utf-8")
        repository.git("commit", "-qam", "a", "--no-verify")
        path.write_text(f"{text}# {number} b\n", encoding="utf-8")
        time.sleep(1.1)
        _, patch = capture(repository, tmp_path / str(number))
        assert f"+# {number} b".encode() in patch


@pytest.mark.torch
def test_a_run_that_went_on_with_edited_code_is_a_seed_of_neither(trained, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(trained.root, root)
    project = type(trained)(root)
    project.train("--epochs", "2", "--stop-after-epochs", "1", check=True)
    models = root / "src" / project.package / "models.py"
    models.write_text(models.read_text("utf-8").replace("nn.ReLU()", "nn.SiLU()"), "utf-8")
    project.train("--resume", "latest", check=True)
    first, second = (run.name for run in project.runs())
    code = project.lab("compare", first, second).stdout.partition("code:")[2]
    assert "mixed" in code.partition("environment:")[0]
    groups = json.loads(project.lab("runs", "--group", "--json", check=True).stdout)
    assert [group["seeds"] for group in groups] == [1, 1]


def test_pictures_in_the_project_are_no_text_files_with_windows_line_ends(repository, tmp_path):
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    (repository.root / "a.png").write_bytes(picture)
    (repository.root / "a.txt").write_bytes(b"two\r\nlines\r\n")
    calls = tmp_path / "calls"
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexec {shutil.which("git")} "$@"\n')
    shim.chmod(0o755)
    code = f"from pathlib import Path; from {repository.package}.lab import code\n"
    code += "code.capture(Path.cwd(), [])"
    env = {"PATH": f"{shim.parent}:{repository.env['PATH']}"}
    repository.python("-c", code, check=True, env=env)
    hashed = [line for line in calls.read_text().splitlines() if "hash-object" in line]
    assert [line.split()[-1] for line in hashed] == ["a.txt"]
    capture(repository, tmp_path / "out")
    restore(repository, tmp_path / "out")
    for name in ("a.png", "a.txt"):
        restored = (tmp_path / "out" / "tree" / name).read_bytes()
        assert restored == (repository.root / name).read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        'os.environ["WANDB_API_KEY"] = "0123456789abcdef0123456789abcdef01234567"',
        "WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567 python train.py",
        "%env AWS_SECRET=0123456789abcdef0123456789abcdef01234567",
        'wandb.login(key="0123456789abcdef0123456789abcdef01234567")',
    ],
)
def test_a_key_as_people_hand_it_to_a_service_is_not_copied(repository, tmp_path, text):
    (repository.root / "go.sh").write_text(f"{text}\n")
    described, patch = capture(repository, tmp_path / "out")
    assert [item["path"] for item in described["listed"]] == ["go.sh"]
    assert b"0123456789abcdef" not in patch


def in_library(folder: Path, *commands: str) -> None:
    """Run git in a folder, by name."""
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in commands:
        subprocess.run(["git", *who, *command.split()], cwd=folder, check=True)


def test_a_submodule_that_is_not_checked_out_is_no_part_of_the_run(bare, tmp_path):  # noqa: F811
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.txt").write_text("1")
    in_library(library, "init -q", "add -A", "commit -qm one")
    allow = ("-c", "protocol.file.allow=always")
    bare.git(*allow, "submodule", "--quiet", "add", library, "lib")
    bare.git("commit", "-qm", "submodule", "--no-verify")
    bare.git("submodule", "deinit", "--force", "lib")
    train(bare)
    assert verify(bare)[1]["verdict"] == "identical"


def test_a_clone_two_folders_deep_is_named_and_restored(bare, tmp_path):  # noqa: F811
    library = bare.root / "ext" / "foo"
    library.mkdir(parents=True)
    (library / "inner.py").write_text("x = 2.0\n")
    in_library(library, "init -q", "add -A", "commit -qm one")
    run = train(bare, first="from ext.foo import inner", loss="inner.x")
    code = json.loads((run / "code.json").read_text())
    assert [module["path"] for module in code["submodules"]] == ["ext/foo"]
    assert code["listed"] == []
    (library / "inner.py").write_text("x = 3.0\n")
    in_library(library, "commit -qam two")
    assert verify(bare)[1]["verdict"] == "identical"


def test_a_folder_on_pythonpath_within_the_project_is_that_of_the_record(bare):  # noqa: F811
    helper = bare.root / "lib" / "my_helper.py"
    helper.parent.mkdir()
    helper.write_text("x = 2\n")
    env = {"PYTHONPATH": f"{bare.env['PYTHONPATH']}:{helper.parent}"}
    train(bare, first="import my_helper", loss="float(my_helper.x)", env=env)
    helper.write_text("x = 3\n")
    assert verify(bare, env=env)[1]["verdict"] == "identical"


def test_data_and_runs_may_be_links_and_git_does_not_see_them(repository, tmp_path):
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
        shutil.rmtree(repository.root / name, ignore_errors=True)
        (repository.root / name).symlink_to(tmp_path / name)
    assert repository.git("status", "--porcelain").stdout == ""


def test_a_home_that_is_a_link_is_a_tilde_by_either_name(repository, tmp_path):
    real = tmp_path / "gpfs" / "ann"
    real.mkdir(parents=True)
    (tmp_path / "ann").symlink_to(real)
    code = f"from {repository.package}.lab.project import tilde\n"
    code += f"print(tilde({str(real / 'x')!r}), tilde({str(tmp_path / 'ann' / 'x')!r}))"
    done = repository.python("-c", code, check=True, env={"HOME": str(tmp_path / "ann")})
    assert done.stdout.split() == ["~/x", "~/x"]


def test_runs_in_a_folder_with_files_of_ones_own_are_no_code_of_the_next_run(bare):  # noqa: F811
    (bare.root / "results").mkdir()
    (bare.root / "results" / "README.md").write_text("mine\n")
    train(bare)
    commit_all(bare)
    for _ in range(2):
        time.sleep(1.1)
        bare.python("train.py", "--runs-dir", bare.root / "results", check=True)
    last = max((bare.root / "results").glob("2*"))
    assert (last / "code.patch").read_bytes() == b""
    assert bare.git("status", "--porcelain").stdout == ""


def test_what_train_py_logs_under_its_own_name_is_no_refusal(bare):  # noqa: F811
    train(bare, first="print('train.py: starting')")
    assert verify(bare)[1]["verdict"] == "identical"


def test_values_that_differ_in_their_last_digits_are_shown_with_all_of_them(bare):  # noqa: F811
    for rate in (0.01, 0.0100001):
        edit(train(bare) / "config.json", learning_rate=rate)
        time.sleep(1.1)
    first, second = (run.name for run in bare.runs())
    assert "0.0100001" in bare.lab("compare", first, second).stdout
