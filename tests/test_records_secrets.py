"""No secret gets into a record: neither by its file's name nor by its form."""

import json

import pytest
from test_records_code import capture

SECRETS = {
    ".env": "X=1\n",
    "deploy.pem": "whatever\n",
    "id_ed25519": "x\n",
    "credentials.json": "{}\n",
    "aws.txt": "key AKIAIOSFODNN7EXAMPLE\n",
    "notes.txt": "ghp_abcdefghijklmnopqrstuvwxyz0123456789\n",
    "settings.py": "API_KEY = 'sd8f7sd9f87s9d8f7s9d8f7'\n",
    "key.txt": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "db.py": "password = 'hunter2!hunter2'\n",
    "call.py": "headers = {'Authorization': 'Bearer 9f8e7d6c5b4a39281706f5e4d3c2b1a0'}\n",
    "start.sh": "wandb login 0123456789abcdef0123456789abcdef01234567\n",
    "first.py": "os.environ.setdefault('WANDB_API_KEY', '0123456789abcdef0123456789abcdef01')\n",
    "hub.py": "login(token='hf_abcdefghijklmnopqrstuvwxyzABCDEFGH')\n",
}


def test_secrets_are_listed_with_their_hash_and_never_copied(repository, tmp_path):
    (repository.root / ".gitignore").write_text("__pycache__/\n")  # names no .env
    for name, text in SECRETS.items():
        (repository.root / name).write_text(text)
    for name in ("secret_sharing.py", "the_secret.md"):  # a name gives no code away
        (repository.root / name).write_text("shares = 3\n")
    tracked = repository.root / "train.py"
    tracked.write_text("TOKEN = 'ghp_ABCDEFGHIJKLMNOPQRSTUVWXYZ9876543210'\n" + tracked.read_text())
    described, patch = capture(repository, tmp_path / "out")
    listed = {item["path"]: item for item in described["listed"]}
    assert {*SECRETS, "train.py"} <= listed.keys()
    assert all(len(listed[name]["sha256"]) == 64 for name in SECRETS)
    assert patch.count(b"+shares = 3") == 2
    everything = patch + json.dumps(described).encode()
    for text in (*SECRETS.values(), "ghp_ABCDEFGHIJKLMNOPQRSTUVWXYZ9876543210"):
        assert text.strip().encode() not in everything or len(text) < 12


def test_long_names_are_no_secrets(repository, tmp_path):
    text = """
groups.setdefault("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", [])
cache.setdefault("resnet18_imagenet_weights_version_1_final", [])
# The Bearer of this token; wandb login first, then a login("resnet18")
"""
    (repository.root / "names.py").write_text(text)
    described, patch = capture(repository, tmp_path / "out")
    assert described["listed"] == []
    assert b"names.py" in patch


def test_a_secret_that_was_just_removed_is_not_copied_either(repository, tmp_path):
    path = repository.root / "hub.py"
    path.write_text(SECRETS["hub.py"])
    repository.git("add", "-A")
    repository.git("commit", "-qm", "a mistake", "--no-verify")
    path.write_text("login()\n")
    described, patch = capture(repository, tmp_path / "out")
    assert b"hf_abc" not in patch
    assert [item["path"] for item in described["listed"]] == ["hub.py"]
    repository.git("rm", "-q", "--cached", "hub.py")
    assert b"hf_abc" not in capture(repository, tmp_path / "out")[1]


def test_a_token_on_the_command_line_and_in_the_remote_is_not_recorded(repository, tmp_path):
    url = "https://ada:ghp_abcdefghijklmnopqrstuvwxyz0123456789@example.org/ada/lab.git"
    repository.git("remote", "add", "origin", url)
    token = "--key=ghp_abcdefghijklmnopqrstuvwxyz0123456789"
    described, _ = capture(repository, tmp_path / "out", token)
    assert "ghp_" not in json.dumps(described)
    assert described["remote"] == "https://example.org/ada/lab.git"


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("ssh://ada:pass@example.org/lab.git", "ssh://ada@example.org/lab.git"),
        ("https://example.org/lab.git?private_token=x", "https://example.org/lab.git"),
        ("git@example.org:ada/lab.git", "git@example.org:ada/lab.git"),
    ],
)
def test_an_address_is_recorded_without_what_opens_the_door(repository, address, recorded):
    repository.git("remote", "add", "origin", address)
    assert repository.module("lab.code")._address(repository.root, "origin", None) == recorded


KEYS = {
    "glpat-": "a1B2c3D4e5F6g7H8i9J0",
    "github_pat_": "a1B2c3D4e5F6g7H8i9J0k1",
    "xoxb-": "123456789012-abcdef",
    "pypi-": "AgEIcHlwaS5vcmcCJ" * 3,
    "npm_": "a1B2c3D4e5F6" * 3,
    "sk-": "a1B2c3D4e5F6g7H8i9J0",
    "AIza": "a1B2c" * 7,
    "sk_live_": "a1B2c3D4e5F6g7H8i9J0",
    "dckr_pat_": "a1B2c3D4e5F6g7H8i9J0",
    "eyJ": "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln",
    "postgres://ada:": "pass@example.org/lab",
    '{"username":"ada","key":"': "0123456789abcdef" * 2 + '"}',
}


@pytest.mark.parametrize("begin", KEYS)
def test_what_services_hand_out_is_a_secret(repository, begin):
    credentials = repository.module("lab.credentials")
    assert credentials.SECRET_TEXT.search(f"x = '{begin}{KEYS[begin]}'".encode())
    assert not credentials.SECRET_TEXT.search(f"x = '{begin}'".encode())


def test_files_that_tools_keep_their_keys_in_are_secrets(repository):
    reason = repository.module("lab.code")._reason_to_leave_out
    names = (".env.local server.key cert.p12 id_rsa .netrc .npmrc .pypirc .pgpass .git-credentials "
             "kaggle.json service-account-lab.json token api.token token.txt").split()  # fmt: skip
    assert {reason(repository.root, f"a/{name}", True, 0) for name in names} == {"may be a secret"}
    for name in ("tokenizer.json", "keys.csv", "environment.yml"):
        assert reason(repository.root, f"a/{name}", True, 0) is None
