"""`lab check`: what a notebook must hold, said in one line with file and line."""

import json
import re
import resource
import shutil
import subprocess
import sys

import pytest
from conftest import Project, commit_all

HEADINGS = (
    "1. Purpose", "2. Environment", "3. Data", "4. Model", "5. Training", "6. Results",
    "7. Conclusion and next steps",
)  # fmt: skip
BASELINE = "notebooks/01_baseline.py"


def read(project, path=BASELINE):
    """Return a notebook's `.py` half."""
    return (project.root / path).read_text(encoding="utf-8")


def line_of(text, part):
    """Return the number of the line on which a text stands."""
    return text[: text.index(part)].count("\n") + 1


def test_the_baseline_passes_even_strictly(repository):
    done = repository.lab("check", "--strict")
    assert (done.returncode, done.stdout) == (0, "")


def test_an_unwritten_notebook_is_a_warning_at_commit_and_an_error_when_strict(repository):
    repository.lab("new", "Which seed?", check=True)
    path = "notebooks/02_which_seed.py"
    line = line_of(read(repository, path), "**To write:** the question")
    done = repository.lab("check", path)
    finding = f"{path}:{line}: section 1 still holds its prompt; write the hypothesis"
    assert done.stdout.splitlines()[0] == finding
    assert sum("still holds its prompt" in text for text in done.stdout.splitlines()) == 7
    assert all(re.match(r"\S+:\d+: ", text) for text in done.stdout.splitlines())
    assert "do not stop a commit" in done.stderr
    assert done.returncode == 0
    assert repository.lab("check", path, "--strict").returncode == 1


SINS = {  # name: (what is replaced, by what, on which line it is found, what is said)
    "no_model": ("# ## 4. Model", "# Model", None, "section `## 4. Model` is missing"),
    "other_name": ("# ## 4. Model", "# ## 4. Mod", "# ## 4. Mod", "none of the seven sections"),
    "twice": ("# ## 4. Model", "# ## 3. Data", None, "there twice"),
    "no_title": ("# # A small", "# A small", None, "no title"),
    "comment": (
        "# # A small",
        "# A small\n\n# %%\n# a comment\n1\n\n# %% [markdown]\n# A small",
        None,
        "no title",
    ),
    "commented_seed": ("seed = 42", "# seed = 42\nsead = 42", "splits = load", "before any seed"),
    "backward": ("seed = 42", "loss.backward()\nseed = 42", "loss.b", "before any seed"),
    "step": ("seed = 42", "optimiser.step()\nseed = 42", "optimiser.", "before any seed"),
    "fit": ("seed = 42", "model.fit(x)\nseed = 42", "model.fit", "before any seed"),
    "no_seed": ("seed = 42", "sead = 42", "splits = load", "before any seed"),
    "unread": (
        "seed = 42",
        "seed = 42\nwidth = 64",
        "dataset =",
        "nothing reads the parameter width",
    ),
    "home": ('"digits"', '"/home/ada/data"', "/home/ada", "a path of this machine"),
    "windows": ('"digits"', r'"C:\Users\ada"', "C:", "a path of this machine"),
    "dollar": (
        '"digits"',
        r'"C:\Users\ada\data"  # costs $5',
        "C:",
        "a path of this machine",
    ),
    "slash": ('"digits"', '"C:/Users/ada"', "C:/", "a path of this machine"),
    "data": ('"digits"', '"/data/imagenet"', "/data", "a path of this machine"),
    "lustre": ('"digits"', '"/lustre/ada"', "/lustre", "a path of this machine"),
    "kaggle": (
        '"digits"',
        '"x"\nos.environ["KAGGLE_KEY"] = "' + "a1" * 16 + '"',
        "KAGGLE_KEY",
        "like a password",
    ),
    "kaggle_json": (
        '"digits"',
        '"x"\nlogin = {"username": "ada", "key": "' + "a1" * 16 + '"}',
        '"key"',
        "like a password",
    ),
    "github": ('"digits"', '"ghp_' + "a1B2" * 9 + '"', "ghp_", "looks like a GitHub token"),
    "aws": ('"digits"', '"AKIA' + "ABCD" * 4 + '"', "AKIA", "looks like an AWS key"),
    "npm": ('"digits"', '"npm_' + "a1B2" * 9 + '"', "npm_", "a package registry's token"),
    "password": ('"digits"', '"x"\npassword = "hunter2!hunter2"', "password", "like a password"),
    "url": ('"digits"', '"https://ada:secretword@x.org/"', "https://ada", "like a password"),
    "magic": ("# %autoreload 2", "if 1:\n    # %autoreload 2", "    # %auto", "an indented magic"),
    "run_id": (
        "One seed is",
        "In 20261123-185906-digits-cnn-s42-9787, one",
        "20261123",
        "a run's id",
    ),
}


FOLDERS = ("home", "Users", "root", "mnt", "media", "scratch", "Volumes", "gpfs", "nfs", "lustre",
           "data", "tmp")  # fmt: skip
MEASURED = (
    "验证集准确率至少95%。",
    "It falls by (-2) points.",
    "It helps (p<.05).",
    "$-0.5$ or less.",
)


def without_section(text, name):
    """Leave a section its heading alone."""
    before, rest = text.split(f"# %% [markdown]\n# ## {name}", 1)
    _, mark, after = rest.partition("# %% [markdown]\n# ## ")
    return f"{before}# %% [markdown]\n# ## {name}\n\n{mark}{after}"


@pytest.fixture(scope="module")
def checked(pristine, tmp_path_factory):
    """Check notebooks with one sin each, all at once; return texts, findings and exit codes."""
    root = tmp_path_factory.mktemp("checked") / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = commit_all(Project(root))
    baseline, texts = read(project), {}
    for name, (old, new, _, _) in SINS.items():
        texts[name] = baseline.replace(old, new, 1)
    for number, name in enumerate(HEADINGS, 1):
        texts[f"empty_{number}"] = without_section(baseline, name)
    swapped = baseline.replace("## 3. Data", "## x").replace("## 4. Model", "## 3. Data")
    texts["swapped"] = swapped.replace("## x", "## 4. Model")
    start, end = (baseline.index(f"# %% [markdown]\n# ## {name}") for name in ("1. P", "2. E"))
    vague = "# %% [markdown]\n# ## 1. Purpose\n#\n# Does dropout help a ResNet-18 on CIFAR-10? We believe so.\n\n"
    texts["vague"] = baseline[:start] + vague + baseline[end:]
    for number, said in enumerate(MEASURED):
        purpose = vague.replace("Does dropout help a ResNet-18 on CIFAR-10?", said)
        texts[f"measured_{number}"] = baseline[:start] + purpose + baseline[end:]
    texts["innocent"] = baseline + (
        '\n# %%\npad_token = "<|endoftext|>"\ntoken = "positional_embedding"\n'
        "print(f\"token = '{pad_token}', https://x.org{root}\")\n"
        'print(f"{ROOT}/tmp/x.png, {pairs[0]}/data/x.png")\n'
        'h5["/data/images"], str(ROOT) + "/data/mine", ROOT.glob("**/data/mine/*.png")\n'
        "\n# %% [markdown]\n# $f:\\mathbb{R}^d\\to\\mathbb{R}$ and $T:X\\to Y$\n"
        "# $f:\\Omega\\mapsto\\mathbb{R}$, $T:\\Theta \\times X \\to Y$, $\\{x:\\phi(x)=0\\}$\n"
        "# $f:\\phi'(x) \\to y$ and $g:\\Omega' \\to X$\n"
    ).replace("{root}", str(root))
    remark = "# then model.fit(x)\nseed = 42"
    texts["remark"] = baseline.replace("seed = 42", remark, 1)
    texts["folders"] = baseline + "".join(f'\n# %%\n"/{name}/ada"\n' for name in FOLDERS)
    only = without_section(baseline, "4. Model").replace(
        "## 4. Model\n", "## 4. Model\n\n# %%\n# x\n"
    )
    texts["only_a_comment"] = only
    for name, text in texts.items():
        (root / f"notebooks/{name}.py").write_text(text, encoding="utf-8")
    project.lab("sync", check=True)
    codes = {}
    for kind in ("swapped", "vague"):
        codes[kind] = project.lab("check", kind).returncode
        codes[kind, "strict"] = project.lab("check", kind, "--strict").returncode
    return texts, project.lab("check").stdout.splitlines(), codes


def findings(checked, name):
    """Return what was found in one of the notebooks."""
    start = f"notebooks/{name}.py:"
    return [line.removeprefix(start) for line in checked[1] if line.startswith(start)]


@pytest.mark.parametrize("name", SINS)
def test_each_sin_is_found_on_its_line_with_the_remedy(checked, name):
    _, _, marker, says = SINS[name]
    line = line_of(checked[0][name], marker) if marker else None
    found = [text for text in findings(checked, name) if says in text and ";" in text]
    assert found, checked[1]
    assert line is None or found[0].startswith(f"{line}: ")
    assert "secretword" not in found[0]


@pytest.mark.parametrize(
    ("number", "says"),
    enumerate(
        (
            "has no prose",
            "has no code",
            "draws no figure",
            "has no code",
            "neither runs train.py nor loads a record",
            "draws no figure",
            "has no prose",
        ),
        1,
    ),
)
def test_each_section_needs_its_kind_of_cell(checked, number, says):
    name = f"empty_{number}"
    line = line_of(checked[0][name], HEADINGS[number - 1])
    expected = f"{line}: section {number} {says}"
    assert any(text.startswith(expected) for text in findings(checked, name)), checked[1]


def test_a_comment_alone_is_no_code(checked):
    assert any("section 4 has no code" in text for text in findings(checked, "only_a_comment"))


def test_every_usual_folder_of_a_machine_is_known(checked):
    found = [text for text in findings(checked, "folders") if "a path of this machine" in text]
    assert len(found) == len(FOLDERS)


def test_sections_out_of_order_are_refused(checked):
    for name in ("swapped", "twice"):  # and none of those that follow
        assert sum("out of order" in text for text in findings(checked, name)) == 1
    assert checked[2]["swapped"] == 1


def test_a_hypothesis_without_a_number_is_a_warning(checked):
    assert any("the hypothesis has no number" in text for text in findings(checked, "vague"))
    assert (checked[2]["vague"], checked[2]["vague", "strict"]) == (0, 1)


def test_what_only_looks_like_a_sin_is_none(checked):
    assert findings(checked, "innocent") == []
    assert findings(checked, "remark") == []
    for number, said in enumerate(MEASURED):
        assert findings(checked, f"measured_{number}") == [], said


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "SEED = 42",
        "seed: int = 42",
        "np.random.seed(42)",
        "seeds = [0, 1]",
        "settings = {'seed': 3}",
        "for seed in range(3): pass",
    ],
)
def test_a_seed_may_be_set_in_any_usual_way(repository, line):
    text = read(repository)
    assert "seed = 42" in text
    path = repository.root / BASELINE
    path.write_text(text.replace("seed = 42", f"{line}\nsead = 42", 1), encoding="utf-8")
    assert "before any seed" not in repository.lab("check").stdout
    path.write_text(text.replace("seed = 42", "sead = 42", 1), encoding="utf-8")
    assert "before any seed" in repository.lab("check").stdout


@pytest.mark.torch
@pytest.mark.slow
def test_a_report_under_a_name_with_accents_has_its_record_in_git(trained, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(trained.root, root)
    project = Project(root)
    for suffix in (".py", ".ipynb"):
        source = root / f"notebooks/01_baseline{suffix}"
        source.rename(source.with_name(f"01_Été d'essai{suffix}"))
    project.lab("report", "01", "--run", "latest", "--to", "md", check=True)
    assert "is not in git" in project.lab("check").stdout
    project.git("add", "-A")
    assert "is not in git" not in project.lab("check").stdout
    project.lab("report", "--readme", check=True)
    assert "(reports/01_Été%20d'essai/)" in (root / "README.md").read_text(encoding="utf-8")


def test_the_notebook_without_a_sin_has_no_finding_among_them(checked):
    assert findings(checked, "01_baseline") == []


def test_halves_out_of_step_are_a_warning(repository):
    path = repository.root / BASELINE
    path.write_text(read(repository).replace("epochs = 30", "epochs = 31"), encoding="utf-8")
    done = repository.lab("check")
    assert "its two halves differ; lab sync" in done.stdout
    assert done.returncode == 0
    repository.lab("new", "Which seed?", check=True)
    draft = repository.root / "notebooks" / "02_which_seed.py"
    draft.write_text(draft.read_text(encoding="utf-8").replace("Which", "What"), encoding="utf-8")
    found = [line for line in repository.lab("check").stdout.splitlines() if "02_which" in line]
    assert "its two halves differ" in found[0]  # else the prompts of a half that is behind
    assert repository.lab("check", "--strict").returncode == 1


def test_a_half_that_is_missing_or_no_notebook_is_named(repository):
    for content in ("{", "{}", "[]"):
        (repository.root / "notebooks/01_baseline.ipynb").write_text(content, encoding="utf-8")
        assert "its two halves differ" in repository.lab("check").stdout
    (repository.root / "notebooks/01_baseline.ipynb").unlink()
    assert repository.lab("check", "--strict").returncode == 1


def test_a_half_in_another_coding_is_one_line_and_a_byte_order_mark_is_no_matter(repository):
    path = repository.root / BASELINE
    baseline = read(repository)
    path.write_bytes(b"\xef\xbb\xbf" + baseline.replace("\n", "\r\n").encode())
    done = repository.lab("check", "--strict")
    assert (done.returncode, done.stdout) == (0, "")
    path.write_bytes(baseline.encode("utf-16"))
    done = repository.lab("check", "01_baseline")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "01_baseline.py" in done.stderr


def test_scratch_is_left_in_peace(repository):
    scratch = repository.root / "notebooks/scratch"
    scratch.mkdir(exist_ok=True)
    shutil.copy(repository.root / BASELINE, scratch / "try.py")
    (scratch / "try.py").write_text('# %%\nopen("/home/ada/x")\n', encoding="utf-8")
    done = repository.lab("check", "--strict")
    assert (done.returncode, done.stdout) == (0, "")
    done = repository.lab("check", "--strict", "notebooks/scratch/try.py")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_missing_notebook_is_one_line(repository):
    done = repository.lab("check", "99_none")
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert "99_none" in done.stderr


@pytest.mark.slow
def test_either_half_and_any_way_to_name_it_will_do(repository):
    for name in ("01_baseline", BASELINE, "notebooks/01_baseline.ipynb", "01_baseline.py"):
        assert repository.lab("check", name).returncode == 0
    inside = repository.lab("check", "01_baseline.py", cwd=repository.root / "notebooks")
    assert inside.returncode == 0
    beside = repository.lab("check", f"../{BASELINE}", cwd=repository.root / "src")
    assert beside.returncode == 0


def cpu_seconds(project, *arguments):
    """Return the CPU seconds of a `lab` command: wall clocks lie on shared machines."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = project.lab(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_one_notebook_takes_less_than_a_second_and_a_hundred_less_than_three(repository):
    _, one = cpu_seconds(repository, "check", "01_baseline")
    folder = repository.root / "notebooks"
    for number in range(2, 101):
        for half in (".py", ".ipynb"):
            shutil.copy(folder / f"01_baseline{half}", folder / f"{number:03}_copy{half}")
    done, hundred = cpu_seconds(repository, "check", "--strict")
    assert done.stdout == ""
    assert one < 0.9
    assert hundred < 3


def test_neither_torch_nor_jupytext_is_imported_for_a_notebook_in_step(repository):
    code = (
        f"import sys; from {repository.package}.lab.cli import main; main(['check', '--strict']);"
        "print([name for name in ('torch', 'numpy', 'jupytext') if name in sys.modules])"
    )
    assert repository.python("-c", code, check=True).stdout == "[]\n"


def test_it_runs_on_the_standard_library_alone(repository):
    code = f"import sys; from {repository.package}.lab.cli import main; sys.exit(main(['check']))"
    bare = [sys._base_executable, "-S", "-c", code]
    done = subprocess.run(bare, cwd=repository.root, env=repository.env, check=False)
    assert done.returncode == 0


def test_the_ipynb_half_may_hold_outputs(repository):
    path = repository.root / "notebooks/01_baseline.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hello\n"]}]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    done = repository.lab("check", "--strict")
    assert (done.returncode, done.stdout) == (0, "")


def test_conflict_markers_and_a_report_without_its_notebook_are_found(repository):
    script = repository.root / "notebooks" / "01_baseline.py"
    text = script.read_text()
    script.write_text(text.replace("# # A small", "<<<<<<< ours\n# # A small", 1) + ">>>>>>> x\n")
    gone = repository.root / "reports" / "00_gone" / "run"
    gone.mkdir(parents=True)
    (gone / "config.json").write_text("{}")
    done = repository.lab("check")
    assert done.returncode == 1
    assert re.search(r"01_baseline.py:\d+: conflict markers; resolve them", done.stdout)
    assert "reports/00_gone has no notebook any more" in done.stdout
    script.write_text(text.replace("# # A small", ">>>>>>> x\n# # A small", 1))
    assert "01_baseline.py:2: conflict markers" in repository.lab("check").stdout


@pytest.mark.slow
def test_a_home_anywhere_is_a_path_of_this_machine_and_one_that_is_the_root_hides_nothing(
    repository,
):
    assert repository.lab("check", "--strict", env={"HOME": "/"}).stdout == ""
    text = read(repository).replace('"digits"', '"/export/ada/x"', 1)
    (repository.root / BASELINE).write_text(text, encoding="utf-8")
    done = repository.lab("check", env={"HOME": "/export/ada"})
    assert "a path of this machine" in done.stdout


@pytest.mark.slow
def test_errors_come_first_and_a_notebook_that_is_named_twice_is_checked_once(repository):
    repository.lab("new", "Which seed?", check=True)
    path = repository.root / "notebooks" / "02_which_seed.py"
    path.write_text(path.read_text() + '\n# %%\n"/home/ada"\n')
    lines = repository.lab("check", "02", "notebooks/02_which_seed.ipynb").stdout.splitlines()
    assert "a path of this machine" in lines[0]
    assert len(set(lines)) == len(lines)
