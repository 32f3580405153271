"""The team's server: real Nginx and Jupyter on loopback, and strangers at the door."""

import os
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import requests
import websocket
from jupyter_door import (  # noqa: F401 (resolved is a fixture)
    HOST,
    MARKS,
    READ_TIMEOUT,
    UPLOAD,
    children,
    door,
    execute,
    resolved,
)
from tornado.web import create_signed_value

pytestmark = MARKS


@pytest.fixture(scope="module")
def server():
    """One running server with a paired notebook in its work folder."""
    with door() as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def kernel(server):
    return server.kernel()


@pytest.fixture(scope="module")
def colleague(server):
    """Return a client that typed the token into the form."""
    client = server.session()
    answer = server.login(client, server.token)
    assert answer.status_code == 302, answer.text
    return client


def refusal(server, kernel, **options) -> int:
    """Open a websocket that must not open; return the status."""
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        server.websocket(kernel, **options).close()
    return refused.value.status_code


def test_http_is_redirected_to_https(server):
    answer = requests.get(f"http://{HOST}:{server.http}/lab", allow_redirects=False, timeout=20)
    assert answer.status_code == 301
    assert answer.headers["location"] == f"{server.url}/lab"


def test_an_old_tls_version_is_refused(server):
    context = ssl.create_default_context(cafile=server.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", server.https), timeout=20) as plain,
        pytest.raises(ssl.SSLError, match=r"protocol version|eof"),
    ):
        context.wrap_socket(plain, server_hostname=HOST)


@pytest.mark.parametrize("path", ["/api/kernels", "/api/contents", "/api/status", "/files/x"])
def test_without_a_token_nothing_is_shown(server, path):
    answer = server.get(path)
    assert answer.status_code in (302, 403)
    if answer.status_code == 302:
        assert answer.headers["location"].startswith("/login")


def test_without_a_token_the_lab_page_leads_to_the_login(server):
    answer = server.get("/lab")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/login")


@pytest.mark.parametrize("secret", ["", "x", "token", "0" * 64])
def test_a_wrong_token_is_refused(server, secret):
    answer = server.get("/api/kernels", headers={"Authorization": f"token {secret}"})
    assert answer.status_code == 403


def test_the_token_opens_the_api_and_the_page(server):
    assert server.get("/api/kernels", headers=server.authorized).status_code == 200
    assert server.get("/lab", headers=server.authorized).status_code == 200


def test_the_form_gives_a_cookie_that_scripts_and_plain_http_cannot_read(server, colleague):
    cookie = next(cookie for cookie in colleague.cookies if cookie.name.startswith("username"))
    assert cookie.secure
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "Lax"
    assert colleague.get(f"{server.url}/api/kernels", timeout=20).status_code == 200


def test_a_cookie_from_elsewhere_is_refused(server, colleague):
    name = next(cookie.name for cookie in colleague.cookies if cookie.name.startswith("username"))
    foreign = create_signed_value("another server's secret", name, "ada").decode()
    for value in (foreign, "ada", '"2|1:0|10:1|8:username|4:YWRh|0"'):
        answer = server.get("/api/kernels", headers={"Cookie": f"{name}={value}"})
        assert answer.status_code == 403, value


def test_another_sites_form_cannot_use_a_colleagues_cookie(server, colleague):
    for headers in ({"Origin": "https://evil.example"}, {}):  # without the XSRF token of a page
        answer = colleague.post(
            f"{server.url}/api/kernels", headers=headers, json={"name": "python3"}, timeout=20
        )
        assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", ""])
def test_a_foreign_host_gets_no_answer(server, host):
    for tls in (True, False):
        answer = server.raw(["GET /lab HTTP/1.1", f"Host: {host}"], tls=tls)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_jupyter_itself_refuses_a_foreign_host(server):
    """Whoever is on the machine and goes round Nginx, or a browser whose DNS was rebound."""
    answer = requests.get(
        f"http://127.0.0.1:{server.jupyter}/api/kernels",
        headers={"Host": "evil.example", **server.authorized},
        timeout=20,
    )
    assert answer.status_code == 403


def test_a_foreign_origin_cannot_open_the_websocket(server, kernel, colleague):
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in colleague.cookies)
    assert refusal(server, kernel, origin="https://evil.example", cookie=cookies) == 403
    plain = server.url.replace("https", "http")
    assert refusal(server, kernel, origin=plain, cookie=cookies) == 403
    assert refusal(server, kernel, origin="null", cookie=cookies) == 403
    server.websocket(kernel, cookie=cookies).close()  # the same cookie from our own page


def test_a_foreign_origin_cannot_open_the_websocket_with_a_token_either(server, kernel):
    header = [f"{name}: {value}" for name, value in server.authorized.items()]
    assert refusal(server, kernel, origin="https://evil.example", header=header) == 403
    server.websocket(kernel, header=header).close()
    server.websocket(kernel, header=header, suppress_origin=True).close()  # no browser


def test_without_a_token_the_websocket_stays_closed(server, kernel):
    assert refusal(server, kernel) == 403
    assert refusal(server, kernel, header=["Authorization: token x"]) == 403


@pytest.mark.parametrize(
    "path",
    [
        "/files/../../../../etc/passwd",
        "/files/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/files/%2e%2e/%2e%2e/state/outside",
        "/files/..%252f..%252fstate/outside",
        "/files/....//....//etc/passwd",
        "/api/contents/../state/outside",
        "/api/contents/..%2fstate%2foutside",
        "/api/contents/%2e%2e%5cstate%5coutside",
        "/static/../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/lab/api/../../../etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_work_folder(server, path):
    """Even with the token: the work folder is what the browser shows."""
    outside = server.state / "outside"
    outside.write_text("what lies beside the work folder", encoding="utf-8")
    outside.chmod(0o644)
    request = [f"GET {path} HTTP/1.1", f"Host: {HOST}:{server.https}"]
    answer = server.raw([*request, f"Authorization: token {server.token}"])
    assert b"root:" not in answer
    assert b"what lies beside" not in answer
    assert re.match(rb"HTTP/1.1 (400|403|404|302)", answer), answer[:200]


def test_a_token_in_an_address_is_refused_and_in_no_log(server):
    answer = server.get(f"/lab?token={server.token}")
    assert answer.status_code == 403
    assert "/login" in answer.text
    server.get(f"/api/kernels?x=1&token={server.token}", headers={"Referer": f"?{server.token}"})
    server.get("/api/kernels", headers=server.authorized)
    server.get("/api/no-such-thing", headers=server.authorized)
    time.sleep(0.5)
    logs = server.logs()
    assert '"GET /lab" 403' in logs
    assert server.token not in logs


def test_a_token_in_the_address_of_a_refused_upload_is_in_no_log(server):
    request = [f"PUT /api/contents/x?token={server.token} HTTP/1.1", f"Host: {HOST}:{server.https}"]
    assert b" 403 " in server.raw([*request, f"Content-Length: {10**12}"], first=True)[:20]
    time.sleep(0.5)
    assert server.token not in server.logs()


@pytest.mark.parametrize("query", ["token=&token={}", "x=1&token=0&token={}", "%74oken={}"])
def test_no_spelling_of_a_token_in_an_address_opens_the_door(server, query):
    """Where Nginx counts no guesses, the right one must not be told from the wrong ones."""
    path = f"/api/kernels?{query.format(server.token)}"
    answer = server.raw([f"GET {path} HTTP/1.1", f"Host: {HOST}:{server.https}"])
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_token_in_a_form_opens_nothing_but_the_login(server):
    for token in (server.token, "x"):
        answer = server.request("POST", "/api/kernels", data={"token": token})
        assert answer.status_code == 403


def test_the_token_is_on_no_command_line_and_in_no_environment(server):
    seen = 0
    for pid in children(server.process.pid):
        process = Path("/proc") / str(pid)
        text = (process / "cmdline").read_bytes()
        if os.geteuid() == 0:
            text += (process / "environ").read_bytes()
        assert server.token.encode() not in text
        seen += b"jupyterlab" in text
    assert seen


def test_guessing_passwords_is_slowed_down(server):
    with server.session("127.0.0.7") as stranger:
        codes = [server.login(stranger, f"guess {number}").status_code for number in range(14)]
    assert codes[:9] == [401] * 9
    assert codes[-3:] == [429] * 3
    with server.session("127.0.0.8") as neighbour:  # others are not locked out
        assert server.login(neighbour, "guess").status_code == 401


@pytest.mark.parametrize("path", ["//login", "/%6cogin", "/./login", "/x/../login"])
def test_no_other_spelling_of_the_login_escapes_the_limit(server, path):
    address = f"127.0.1.{1 + sum(map(ord, path)) % 250}"
    with server.session(address) as stranger:
        stranger.get(f"{server.url}/login", timeout=20)
        xsrf = stranger.cookies.get("_xsrf")
        codes = []
        for number in range(14):
            asked = requests.Request("POST", server.url, data={"password": number, "_xsrf": xsrf})
            prepared = stranger.prepare_request(asked)
            prepared.url = server.url + path
            answer = stranger.send(prepared, allow_redirects=False, timeout=20)
            codes.append(answer.status_code)
    assert 302 not in codes or codes[-1] == 429
    assert codes[-1] in (404, 429), codes


def test_guessing_tokens_is_slowed_down(server):
    with server.session("127.0.0.9") as stranger:
        codes = []
        for number in range(160):
            header = {"Authorization": f"token {number}"}
            codes.append(stranger.get(f"{server.url}/api", headers=header, timeout=20).status_code)
    assert 429 in codes


def test_an_over_long_upload_is_refused_and_one_below_the_limit_is_kept(server):
    for size, status in ((UPLOAD + 1, 413), (UPLOAD - 1000, 201)):
        content = {"type": "file", "format": "text", "content": "x" * size}
        answer = server.request(
            "PUT", f"/api/contents/{size}.txt", headers=server.authorized, json=content
        )
        assert answer.status_code == status
        assert (server.work / f"{size}.txt").exists() == (status == 201)


def test_an_upload_that_only_claims_to_be_long_is_refused_at_once(server):
    request = ["PUT /api/contents/x HTTP/1.1", f"Host: {HOST}:{server.https}"]
    answer = server.raw([*request, f"Content-Length: {10**12}"], first=True)
    assert answer.startswith(b"HTTP/1.1 413")


def test_terminals_are_off(server):
    assert server.request("POST", "/api/terminals", headers=server.authorized).status_code == 404
    assert server.get("/api/terminals", headers=server.authorized).status_code == 404


def test_jupyter_and_its_kernels_listen_on_loopback_alone(server, kernel):
    pids = {str(pid) for pid in children(server.process.pid)}
    listed = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listed.splitlines() if pids & set(re.findall(r"pid=(\d+)", line))]
    assert any(f":{server.jupyter} " in line for line in ours)
    assert all(line.split()[3].startswith("127.0.0.1:") for line in ours), ours


def test_a_kernel_computes_over_the_websocket_and_is_not_root(server, kernel):
    wire = server.websocket(kernel, header=server.authorized)
    assert execute(wire, "1+1") == ("2", "")
    value, _ = execute(wire, "import os; os.getuid(), os.access('/etc/shadow', os.W_OK)")
    wire.close()
    uid = int(value.strip("()").split(",")[0])
    assert uid != 0
    assert value.endswith("False)")


def test_a_long_cells_output_arrives_whole(server, kernel):
    """It lasts longer than the proxy's time-out, and prints more than Jupyter's default allows."""
    wire = server.websocket(kernel, header=server.authorized)
    lines = 60_000
    code = (
        f"import time\nprint('first')\ntime.sleep({READ_TIMEOUT + 2})\n"
        f"print('\\n'.join(f'{{n}} ' + 'x' * 80 for n in range({lines})))\n'done'"
    )
    value, printed = execute(wire, code)
    wire.close()
    assert value == "'done'"
    assert printed.split("\n")[-2] == f"{lines - 1} " + "x" * 80
    assert len(printed.splitlines()) == lines + 1


def test_an_idle_websocket_survives_the_proxys_time_out(server, kernel):
    wire = server.websocket(kernel, header=server.authorized)
    end = time.monotonic() + 2 * READ_TIMEOUT
    while time.monotonic() < end:  # as a browser does: answer pings, say nothing
        wire.recv_data_frame(control_frame=True)
    assert execute(wire, "2+2") == ("4", "")
    wire.close()


def test_secrets_can_be_read_by_nobody_else(server):
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (server.state / "tls/key.pem", server.state / "secrets/token")
    }
    assert modes == {"key.pem": 0o600, "token": 0o640}
    assert (server.state / "secrets").stat().st_mode & 0o777 == 0o750
    assert len(server.token) == 64


def test_the_start_says_how_to_use_a_real_certificate(server):
    text = server.output.read_text(encoding="utf-8")
    assert "self-signed" in text
    assert "fullchain.pem" in text
