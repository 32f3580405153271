"""The notebooks' filter as a function of bytes: what it lets through is clean, or as it was."""

import importlib.util
import json
import os
import subprocess
import sys

import nbformat
import pytest
from conftest import TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from nbstripout import strip_output
from notebook_pairs import REFEREE

SOURCE = next(TEMPLATE.glob("*cookiecutter.project_slug*/src/*/lab/nbfilter.py"))
spec = importlib.util.spec_from_file_location("nbfilter", SOURCE)
nbfilter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nbfilter)

text = st.text(max_size=20)
flags = st.sampled_from([True, False])
cell_metadata = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["keep_output", "parameters", "x"]), max_size=2),
        "init_cell": flags,
        "keep_output": flags,
        "collapsed": flags,
        "scrolled": st.sampled_from([True, "auto"]),
        "ExecuteTime": st.just({"end_time": "2026"}),
        "execution": st.just({"iopub.status.busy": "2026"}),
        "vscode": st.just({"languageId": "python"}),
        "a.b": text,
    },
)
outputs = st.lists(
    st.builds(lambda s: {"output_type": "stream", "name": "stdout", "text": s}, text), max_size=2
)
source = text | st.lists(text, max_size=3)
cells = st.lists(
    st.fixed_dictionaries(
        {"cell_type": st.sampled_from(["code", "markdown", "raw"]), "source": source}
        | {"metadata": cell_metadata},
        optional={
            "outputs": outputs,
            "execution_count": st.none() | st.integers(1, 99),
            "id": st.uuids().map(lambda u: u.hex[:8]),
            "attachments": st.just({"a.png": {"image/png": "AAAA"}}),
            "prompt_number": st.integers(1, 9),
        },
    ),
    max_size=4,
)
notebook_metadata = st.fixed_dictionaries(
    {},
    optional={
        "kernelspec": st.fixed_dictionaries(
            {"name": text, "display_name": text, "language": st.sampled_from(["python", "R"])}
        ),
        "language_info": st.fixed_dictionaries({"name": text, "version": text}),
        "widgets": st.just({"application/vnd.jupyter.widget-state+json": {}}),
        "signature": text,
        "keep_output": flags,
        "title": text,
    },
)
notebooks = st.builds(
    lambda c, m, n: {"cells": c, "metadata": m, "nbformat": 4, "nbformat_minor": n},
    cells,
    notebook_metadata,
    st.integers(0, 5),
)


@given(notebooks)
@settings(max_examples=60, deadline=None)
def test_what_the_filter_lets_through_satisfies_nbstripout(tmp_path_factory, nb):
    data = json.dumps(nb).encode()
    cleaned = nbfilter.clean(data)
    assert nbfilter.clean(cleaned) == cleaned
    out = json.loads(cleaned)
    wanted = nbformat.from_dict(json.loads(cleaned))
    contradiction = [
        cell
        for cell in out["cells"]
        if cell["metadata"].get("keep_output") is False
        and "keep_output" in cell["metadata"].get("tags", [])
        and "init_cell" not in cell["metadata"]
    ]
    if not contradiction:  # nbstripout raises, and the guard refuses
        assert strip_output(nbformat.from_dict(out), None, False, True, REFEREE) == wanted
    assert all(not cell.get("outputs") for cell in out["cells"])
    before = ["".join(cell["source"]) for cell in nb["cells"]]
    assert ["".join(cell["source"]) for cell in out["cells"]] == before
    kept = ("id", "attachments")
    assert [{k: c.get(k) for k in kept} for c in out["cells"]] == [
        {k: c.get(k) for k in kept} for c in nb["cells"]
    ]
    folder = str(tmp_path_factory.mktemp("memory"))
    nbfilter.remember(folder, "x.ipynb", data, cleaned)
    back = nbfilter.smudge(folder, "x.ipynb", cleaned)
    assert nbfilter.clean(back) == cleaned
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    restored = [c for c in json.loads(back)["cells"] if c["cell_type"] == "code"]
    assert [c.get("outputs") or [] for c in restored] == [c.get("outputs") or [] for c in code]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b'{"cells": [], "nbformat": 3, "metadata": {}}',
        b'{"nbformat": 4}',
        b'{"cells": [1], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        b'{"cells": [], "metadata": [], "nbformat": 4, "nbformat_minor": 5}',
        b'<<<<<<< HEAD\n{"cells": []}\n=======\n',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        (
            b'{"cells": [{"cell_type": "raw", "metadata": {}, "source": "\\ud800"}],'
            b' "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
        ),
    ],
)
def test_what_the_filter_does_not_understand_passes_through(data, tmp_path):
    for command in ("clean", "smudge"):
        argv = [sys.executable, "-I", "-S", SOURCE, command, "x.ipynb"]
        done = subprocess.run(argv, input=data, capture_output=True, cwd=tmp_path, check=False)
        assert (done.returncode, done.stdout) == (0, data)


def test_an_r_notebook_keeps_its_kernel_and_a_python_one_gets_everybodys():
    def metadata(language, name):
        spec = {"name": name, "display_name": name, "language": language}
        info = {"name": language, "version": "9.9", "mimetype": "text/x"}
        nb = {"cells": [], "metadata": {"kernelspec": spec, "language_info": info}}
        data = json.dumps({**nb, "nbformat": 4, "nbformat_minor": 5}).encode()
        return json.loads(nbfilter.clean(data))["metadata"]

    assert metadata("R", "ir")["kernelspec"]["name"] == "ir"
    assert metadata("R", "ir")["language_info"] == {"name": "R", "mimetype": "text/x"}
    assert metadata("julia", "julia-1.9")["kernelspec"]["name"] == "julia-1.9"
    assert metadata("python", "my-env") == metadata("python", "other-env")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"cells": [{"metadata": {}, "source": ""}], "metadata": {}, "nbformat": 4}',
        b'{"cells": [{"cell_type": "raw", "metadata": 1, "source": ""}], "metadata": {}, "nbformat": 4}',
        b'{"cells": [], "metadata": {"kernelspec": "python3"}, "nbformat": 4}',
    ],
    ids=["deep", "no kind", "metadata", "kernel"],
)
def test_what_is_no_notebook_is_none_for_guard_and_sync_and_shown_as_it_is(data):
    assert nbfilter.parse(data) is None
    assert nbfilter.text(data) == data


def test_a_kernel_is_known_by_whatever_names_its_language():
    def cleaned(**metadata):
        nb = {"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
        return json.loads(nbfilter.clean(json.dumps(nb).encode()))["metadata"]

    ir = {"name": "ir", "display_name": "R"}
    assert cleaned(kernelspec=ir, language_info={"name": "R"})["kernelspec"] == ir
    assert cleaned(kernelspec=None, language_info=None) == nbfilter.PYTHON
    assert cleaned(language_info={"name": "ipython", "version": "2.7"}) == nbfilter.PYTHON


def executed(*cells):
    """Return a notebook whose cells are given by source, output, and more keys."""
    nb = {"metadata": {}, "nbformat": 4, "nbformat_minor": 5, "cells": []}
    for source, output, more in cells:
        out = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
        cell = {"cell_type": "code", "metadata": {}, "source": source, "outputs": out}
        nb["cells"].append(cell | more)
    return json.dumps(nb).encode()


def remember(folder, *cells, path="x.ipynb"):
    """Let the filter see an executed notebook; return the file of its memory."""
    data = executed(*cells)
    nbfilter.remember(str(folder), path, data, nbfilter.clean(data))
    names = (path, nbfilter.clean(data))
    return folder / "{}-{}.json".format(*(nbfilter._name(name) for name in names))


def shown(folder, *cells, path="x.ipynb"):
    """Return the outputs that the cells get at a checkout."""
    data = nbfilter.clean(executed(*((source, "", more) for source, more in cells)))
    nb = json.loads(nbfilter.smudge(str(folder), path, data))
    return ["".join(out["text"] for out in cell["outputs"]) for cell in nb["cells"]]


def test_outputs_that_were_cleared_come_back_and_of_a_cell_that_ran_again_its_last(tmp_path):
    remember(tmp_path, ("a", "of a", {}), ("b", "of b", {}))
    remember(tmp_path, ("a", "", {}), ("b", "", {}))  # cleared, and saved
    assert shown(tmp_path, ("a", {}), ("b", {})) == ["of a", "of b"]
    remember(tmp_path, ("a", "", {"execution_count": 3}), ("c", "of c", {}))
    assert shown(tmp_path, ("a", {}), ("c", {})) == ["", "of c"]


def test_after_a_merge_a_cell_that_was_not_run_again_keeps_its_output(tmp_path):
    older = remember(tmp_path, ("a", "of a", {}), ("b", "warning", {}))
    ran = ("b", "", {"execution_count": 5})  # again, and gave nothing
    remember(tmp_path, ("a", "", {}), ran, ("c", "of c", {}))
    os.utime(older, (0, 0))
    assert shown(tmp_path, ("a", {}), ("b", {}), ("merged", {})) == ["of a", "", ""]


def test_a_cell_of_another_id_gets_no_output_of_one_that_says_the_same(tmp_path):
    remember(tmp_path, ("plot()", "of a", {"id": "a"}))
    assert shown(tmp_path, ("plot()", {"id": "b"})) == [""]
    assert shown(tmp_path, ("plot()", {"id": "a"})) == ["of a"]


@pytest.mark.parametrize("newest", [0, 1])
def test_after_a_merge_a_cell_gets_its_newest_output(tmp_path, newest):
    files = [
        remember(tmp_path, ("a", said, {}), (said, "", {"execution_count": 1}))
        for said in ("one", "two")
    ]
    for number, file in enumerate(files):
        os.utime(file, (0, number == newest))
    assert shown(tmp_path, ("a", {}), ("merged", {})) == [("one", "two")[newest], ""]


def test_two_filters_that_remember_one_notebook_at_once_both_succeed(tmp_path, monkeypatch):
    replace = os.replace

    def meanwhile(scratch, target):
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: 0)
        remember(tmp_path, ("a", "theirs", {}))
        replace(scratch, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    remember(tmp_path, ("a", "mine", {}))
    assert shown(tmp_path, ("a", {})) == ["mine"]


def test_a_notebook_that_was_never_here_is_written_as_it_is_in_git(tmp_path):
    data = executed(("a", "of a colleague", {}))
    assert nbfilter.smudge(str(tmp_path), "x.ipynb", data) == data
    remember(tmp_path, ("plot()", "of x", {}))
    torn = tmp_path / "{}-1.json.77".format(nbfilter._name("x.ipynb"))
    torn.write_text("{")  # by a filter that was killed
    assert shown(tmp_path, ("plot()", {}), ("new", {})) == ["of x", ""]
    cells = ("plot()", {}), ("other", {})
    assert shown(tmp_path, *cells, path="y.ipynb") == ["", ""]  # nothing tells that it is x renamed


def test_half_an_emoji_is_no_obstacle_to_a_diff():
    assert b"# %%\na = '" in nbfilter.text(executed(("a = '\ud83d'", "", {})))
