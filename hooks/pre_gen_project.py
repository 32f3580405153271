"""Refuse answers that cannot work, with one line that says what to type instead.

Runs before any file is written; a refusal leaves nothing behind. Standard library only.
"""

import keyword
import re
import sys
import unicodedata

# Answers are data: `tojson` writes a Python string whatever was typed. It writes emoji as two
# surrogates, which `_mended` joins.
ANSWERS = {
    "project_name": {{cookiecutter.project_name | tojson}},
    "description": {{cookiecutter.description | tojson}},
    "author_name": {{cookiecutter.author_name | tojson}},
    "project_slug": {{cookiecutter.project_slug | tojson}},
}
PACKAGE = {{cookiecutter.__package_name | tojson}}

WINDOWS = {"con", "prn", "aux", "nul"}
WINDOWS |= {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
OWN = {"train", "tests", "conftest", "notebooks", "runs", "reports", "src", "lab"}
# Of the standard library of one of the Pythons 3.11 to 3.14, and not in the list of every one.
STANDARD = set(
    """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr
    imp lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sitecustomize smtpd sndhdr spwd sunau
    telnetlib test usercustomize uu xdrlib
    """.split()
)
# What `import NAME` must go on meaning in the project: its dependencies and what they bring; and
# what pip calls those of another name, which a project so named would depend on.
INSTALLED = set(
    """
    accelerate annotated_types anyio argon2 arrow asttokens async_lru attr attrs babel black
    bleach bs4 certifi cffi cfgv charset_normalizer click cloudpickle colorama comm conda
    contourpy cookiecutter cruft cuda cudf cupy cv2 cycler datasets dateutil debugpy decorator
    defusedxml distlib docstring_parser editables einops executing fastai fastapi fastjsonschema
    filelock flask flax fonttools fqdn fsspec functorch git gitdb h11 hatchling httpcore httpx
    huggingface_hub hypothesis identify idna iniconfig ipykernel ipython ipywidgets isoduration
    jax jedi jinja2 joblib json5 jsonpointer jsonschema jupyter jupyter_client jupyter_core
    jupyter_events jupyter_lsp jupyter_server jupyterlab jupyterlab_server jupytext keras
    kiwisolver lark lightning markdown markdown_it markupsafe matplotlib matplotlib_inline mdurl
    mistune mkl monai mpmath mypy narwhals nbclient nbconvert nbdime nbformat nbstripout
    networkx nodeenv notebook numba numpy nvidia omegaconf overrides packaging pandas
    pandocfilters papermill parso pathspec pdoc pexpect pil pip pkg_resources platformdirs
    pluggy pre_commit prometheus_client prompt_toolkit psutil ptyprocess pure_eval py pycparser
    pydantic pydantic_core pygments pylab pypandoc pyparsing pytest pythonjsonlogger
    pytorch_lightning rattler ray referencing requests rich rpds ruff safetensors scipy seaborn
    send2trash setuptools shellingham six skimage sklearn smmap soupsieve stack_data sympy
    tensorboard tensorflow terminado threadpoolctl timm tinycss2 tokenizers tomli tomlkit torch
    torchaudio torchdata torchgen torchinfo torchmetrics torchtext torchvision tornado tqdm
    traitlets transformers triton typeguard typer typing_extensions typst tyro tzdata
    uri_template urllib3 uv virtualenv wandb wcwidth webcolors webencodings websocket wheel
    xdist yaml zmq
    argon2_cffi beautifulsoup4 gitpython markdown_it_py pillow pypandoc_binary python_dateutil
    python_json_logger pyyaml pyzmq rpds_py scikit_learn websocket_client
    """.split()
)


def _mended(text):
    """Join the surrogates that JSON makes of characters such as emoji."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _hidden(character):
    """Whether a character would break a file, or make it read other than it is."""
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\u061c\u200e\u200f\ufeff\ufffe\uffff"  # direction marks, byte order marks
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def _text_problem(answer, value):
    """Say what is wrong with a name or a sentence."""
    lines = value if answer == "project_name" else value.replace("\n", "")
    found = next((character for character in lines if _hidden(character)), None)
    if found == "\n":
        return "holds a line break; type it on one line"
    if found is not None:
        return f"holds the invisible character U+{ord(found):04X}; type it again without"
    if not any(unicodedata.category(character)[0] in "LNPS" for character in value):
        return "is blank; type at least one letter"
    return None


def _slug_problem(slug, package):
    """Say what is wrong with the name of the folder, which also names the package."""
    example = re.sub("[^a-z0-9]+", "-", slug.lower())[:36].strip("-") or "my-experiments"
    # a longer name makes train.py's imports of the package lines that ruff refuses
    if not re.fullmatch("[a-z0-9]+([-_]+[a-z0-9]+)*", slug) or len(package) > 45:
        return (
            "is not a folder name on every system; type at most 36 lower-case letters a-z, "
            f"digits and hyphens, for example {example}"
        )
    # Windows and macOS do not tell capitals apart: `None` and `none` are one folder.
    taken = {
        "a word of Python": {word.lower() for word in keyword.kwlist},
        "a module of Python's standard library": STANDARD
        | {name.lower() for name in sys.stdlib_module_names},
        "a package that projects install": INSTALLED,
        "a file or folder of the project": OWN,
        "a name that Windows keeps for itself": WINDOWS,
        "an environment that conda has already": {"base", "root"},
    }
    for what, names in taken.items():
        if package in names or slug in names:
            return f"is {what}, so no project can have this name; type {slug}-lab"
    return None


def main():
    answers = {answer: _mended(value) for answer, value in ANSWERS.items()}
    for answer, value in answers.items():
        if answer == "project_slug":
            problem = _slug_problem(value, PACKAGE)
        else:
            problem = _text_problem(answer, value)
        if problem:
            shown = ascii(value) if len(value) < 100 else ascii(value[:60]) + "..."
            sys.exit(f"{answer} {shown} {problem}")


main()
