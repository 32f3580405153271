"""Starts the team's Jupyter server on loopback, as its administrator does, and knocks at it."""

import json
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import websocket

DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "jupyter"
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the server's machine runs Linux"),
]
HOST = "lab.test"
UPLOAD = 4 * 2**20
READ_TIMEOUT = 8  # seconds, in place of 600


def _free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _account() -> tuple[str, list[str]]:
    """Return the account of the server, and what must stand before `start`.

    As root, `start` itself gives root up. Where the account could not read the Python (a clone in a
    folder that only root enters), all of `start` runs without root, allowed to read and no more.
    """
    if os.geteuid():
        return pwd.getpwuid(os.geteuid()).pw_name, []
    drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    if subprocess.run([*drop, "test", "-x", sys.executable], check=False).returncode == 0:
        return "nobody", []
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return "nobody", [*drop, *reading]


class Door:
    """One server: Nginx and Jupyter, their files and how they are reached.

    Parameters
    ----------
    folder : Path
        Where the administrator's copy, the settings, the work and the state go.
    read_timeout : int
        Seconds after which Nginx gives up on a silent answer.
    **settings
        Lines of `settings`.
    """

    def __init__(self, folder: Path, read_timeout: int = READ_TIMEOUT, **settings: str):
        self.folder, self.work, self.state = folder, folder / "work", folder / "state"
        self.account, self.prefix = _account()
        folder.chmod(0o755)
        self.work.mkdir()
        if os.geteuid() == 0:
            owner = "nobody" if self.prefix else "root"
            for path in (folder, self.work):
                shutil.chown(path, owner if path == folder else self.account)
        self.http, self.https, self.jupyter = _free_port(), _free_port(), _free_port()
        self.url = f"https://{HOST}:{self.https}"
        shutil.copytree(DEPLOY, folder / "box")
        self._shorten(
            "nginx.conf", "proxy_read_timeout 600s", f"proxy_read_timeout {read_timeout}s"
        )
        self._shorten("jupyter_server_config.py", ": 30_000", ": 1_000")
        values = {
            "HOST": HOST,
            "ACCOUNT": self.account,
            "ENVIRONMENT": sys.prefix,
            "WORK": self.work,
            "STATE": self.state,
            "LISTEN": "127.0.0.1",
            "HTTP_PORT": self.http,
            "HTTPS_PORT": self.https,
            "JUPYTER_PORT": self.jupyter,
            "UPLOAD": "4m",
            **settings,
        }
        lines = [(DEPLOY / "settings").read_text(encoding="utf-8")]
        lines += [f"{name}={value}" for name, value in values.items()]
        lines += [f"CERTIFICATE={self.certificate}", f"KEY={self.state}/tls/key.pem", ""]
        self.settings = folder / "settings"
        self.settings.write_text("\n".join(lines), encoding="utf-8")
        self.process = None

    def _shorten(self, name: str, old: str, new: str) -> None:
        """Edit one line of the administrator's copy."""
        path = self.folder / "box" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    @property
    def certificate(self) -> Path:
        """The file of the certificate, which clients trust."""
        return self.state / "tls" / "certificate.pem"

    @property
    def token(self) -> str:
        """The secret."""
        return (self.state / "secrets" / "token").read_text(encoding="utf-8").strip()

    @property
    def authorized(self) -> dict[str, str]:
        """The header of a client that has the token."""
        return {"Authorization": f"token {self.token}"}

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `start`."""
        return [*self.prefix, str(self.folder / "box" / "start"), *arguments, str(self.settings)]

    def start(self) -> None:
        """Start, and wait until the server answers."""
        self.output = self.folder / "start.out"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                self.command(), stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )
        deadline = time.monotonic() + 240  # seconds; two on a quiet machine
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/login").status_code == 200:
                    return
            except (requests.RequestException, OSError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"no answer\n{self.logs()}")

    def stop(self) -> None:
        """Stop as systemd does."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)

    def logs(self) -> str:
        """Return everything that was written down."""
        files = [self.output, *self.state.glob("*.log"), *self.state.glob("nginx/*.log")]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)

    def session(self, address: str = "127.0.0.1") -> requests.Session:
        """Return a client that trusts the certificate, coming from an address of loopback."""
        client = requests.Session()
        client.trust_env = False
        client.verify = str(self.certificate)
        adapter = requests.adapters.HTTPAdapter()
        adapter.init_poolmanager(4, 4, source_address=(address, 0))
        client.mount("https://", adapter)
        return client

    def request(self, method: str, path: str, **options) -> requests.Response:
        """Ask once, without cookies, without following redirections."""
        options = {"timeout": 20, "allow_redirects": False, **options}
        with self.session() as client:
            return client.request(method, self.url + path, **options)

    def get(self, path: str, **options) -> requests.Response:
        """GET once."""
        return self.request("GET", path, **options)

    def login(self, client: requests.Session, secret: str) -> requests.Response:
        """Fill in the form at /login."""
        client.get(f"{self.url}/login", timeout=20)
        form = {"password": secret, "_xsrf": client.cookies.get("_xsrf")}
        return client.post(f"{self.url}/login", data=form, allow_redirects=False, timeout=20)

    def raw(self, lines: list[str], tls: bool = True, first: bool = False) -> bytes:
        """Send a request as it stands, untidied; return the answer, or its start."""
        port = self.https if tls else self.http
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            context = ssl.create_default_context(cafile=self.certificate)
            wire = context.wrap_socket(plain, server_hostname=HOST) if tls else plain
            wire.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            answer = b""
            while part := wire.recv(65536):
                answer += part
                if first:
                    break
            return answer

    def kernel(self) -> str:
        """Start a kernel and return its id."""
        answer = self.request(
            "POST", "/api/kernels", headers=self.authorized, json={"name": "python3"}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def websocket(self, kernel: str, **options) -> websocket.WebSocket:
        """Open the kernel's websocket."""
        options = {"timeout": 60, "origin": self.url, **options}
        address = f"wss://{HOST}:{self.https}/api/kernels/{kernel}/channels"
        return websocket.create_connection(
            address, sslopt={"ca_certs": str(self.certificate)}, **options
        )


def execute(wire: websocket.WebSocket, code: str) -> tuple[str, str]:
    """Run a cell over a websocket; return its value and what it printed."""
    message = uuid.uuid4().hex
    header = {
        "msg_id": message,
        "msg_type": "execute_request",
        "username": "",
        "session": message,
        "date": "",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "allow_stdin": False}
    wire.send(
        json.dumps(
            {
                "header": header,
                "parent_header": {},
                "metadata": {},
                "channel": "shell",
                "content": content,
            }
        )
    )
    value, printed = "", ""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        opcode, data = wire.recv_data(control_frame=True)  # pings come for ever
        if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
            continue
        answer = json.loads(data)
        if answer["parent_header"].get("msg_id") != message:
            continue
        if answer["msg_type"] == "execute_result":
            value = answer["content"]["data"]["text/plain"]
        elif answer["msg_type"] == "stream":
            printed += answer["content"]["text"]
        elif answer["msg_type"] == "error":
            raise AssertionError("\n".join(answer["content"]["traceback"]))
        elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            return value, printed
    raise AssertionError(f"no answer to {code!r}")


@contextmanager
def door(**settings):
    """Make a server in a folder that its account can enter; stop it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lab-jupyter-"))
    made = Door(folder, **settings)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def resolved():
    """Let the server's name mean loopback in this process."""
    real = socket.getaddrinfo

    def resolve(host, *arguments, **options):
        return real("127.0.0.1" if host == HOST else host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        patch.setenv("NO_PROXY", "*")
        yield


def children(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    found = [pid]
    for child in listed.stdout.split():
        found += children(int(child))
    return found
