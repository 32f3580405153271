"""Jupyter behind Nginx; `start` passes the settings in LAB_... variables, never a secret."""

import os
from pathlib import Path

from jupyter_server.auth import PasswordIdentityProvider


class Identity(PasswordIdentityProvider):
    """Who may enter: whoever has the cookie of the login, or sends the token in a header."""

    def get_token(self, handler):
        """Read the header alone: Nginx counts guesses there, and addresses end up in logs."""
        found = self.auth_header_pat.match(handler.request.headers.get("Authorization", ""))
        return found and found[2]

    def cookie_secret_hook(self, secret):
        """Make cookies end with the token, as they end with the password."""
        secret.update(self.token.encode())
        return super().cookie_secret_hook(secret)


c = get_config()  # noqa: F821 (Jupyter defines it)
secrets = Path(os.environ["LAB_SECRETS"])
password = secrets / "password"  # hashed; written by `start password`

c.ServerApp.identity_provider_class = Identity
if password.exists():
    c.PasswordIdentityProvider.hashed_password = password.read_text().strip()
    c.PasswordIdentityProvider.password_required = True
    c.IdentityProvider.token = ""  # the password alone opens the door
    if not c.PasswordIdentityProvider.hashed_password.startswith("argon2:"):
        raise SystemExit(f"{password} holds no hashed password; run: start password")
else:
    c.IdentityProvider.token = (secrets / "token").read_text().strip()
    if len(c.IdentityProvider.token) < 32:
        raise SystemExit(
            f"the token in {secrets / 'token'} is too short; delete it and start again"
        )
c.PasswordIdentityProvider.allow_password_change = False  # not by whoever has a token
c.IdentityProvider.secure_cookie = True
c.IdentityProvider.cookie_options = {"samesite": "Lax"}  # not sent by other sites' scripts

c.ServerApp.ip = "127.0.0.1"  # Nginx is the only door
c.ServerApp.port = int(os.environ["LAB_PORT"])
c.ServerApp.port_retries = 0  # fail; another port would not be the one that Nginx asks
c.ServerApp.local_hostnames = [os.environ["LAB_HOST"]]  # and no other Host
c.ServerApp.trust_xheaders = True
c.ServerApp.allow_unauthenticated_access = False  # also in extensions that forgot to ask
c.ServerApp.terminals_enabled = os.environ["LAB_TERMINALS"] == "yes"
c.ServerApp.root_dir = os.environ["LAB_WORK"]
c.ServerApp.open_browser = False
c.LabApp.extension_manager = "readonly"  # nobody installs from the browser
c.ServerApp.tornado_settings = {"ws_ping_interval": 30_000}  # ms; Nginx hangs up at 600 s
c.ZMQChannelsWebsocketConnection.iopub_data_rate_limit = 1e8  # bytes/s; else long output is cut
