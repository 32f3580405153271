"""What looks like a secret: never copied into a record, named by `lab check`."""

import re

SECRET_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.kdbx",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".npmrc", ".pypirc",
    ".pgpass", ".htpasswd", ".git-credentials", "*credential*", "*secret*", "kaggle.json",
    "service[-_]account*.json", "token", "token.*", "*.token",
)  # fmt: skip
SECRETS = {
    "an AWS key": r"\bA[KS]IA[0-9A-Z]{16}\b",
    "a GitHub token": r"\bgh[pousr]_\w{30,}|\bgithub_pat_\w{22,}",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Hugging Face token": r"\bhf_\w{30,}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "a package registry's token": r"\bpypi-[\w-]{50,}|\bnpm_\w{36}",
    "an API key": r"\bsk-[\w-]{20,}|\bAIza[\w-]{35}|\bsk_live_\w{20,}|\bdckr_pat_[\w-]{20,}",
    "a web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password": r"://[^\s/:@'\"]+:[^\s/@'\"]+@"
    r"|(?i:(?:api|access)_?key|secret|passw(?:or)?d)[\"']?\]?\s*[:=]\s*[\"'][^\"'\s<{(\[]{12,}[\"']"
    r"|(?m:^\s*(?:export\s+)?(?:[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSW(?:OR)?D)\s*="
    r"|(?i:password|secret|token|(?:api|access)_?key):)\s*(?=\S*\d)[\w+/=-]{16,}\s*$)"
    r"|_(?:KEY|TOKEN|SECRET)=(?=[\w+/-]*\d)[\w+/=-]{16,}"
    r"|(?:login\(\s*(?:key\s*=\s*)?|setdefault\(\s*[\"']\w*(?:KEY|TOKEN|SECRET)[\"'],\s*)"
    r"[\"'](?=[\w-]*\d)[\w-]{32,}[\"']|\busername\b[^{}]{3,99}\bkey\b[^{}\w]{3,9}[0-9a-f]{32}\b"
    r"|\b(?:wandb\s+login|Bearer)\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{20,}"
    r"|(?i:token|kaggle_key)[\"']?\]?\s*[:=]\s*[\"'](?=[\w+/=-]*\d)[\w+/=-]{16,}[\"']",
}
SECRET_TEXT = re.compile("|".join(SECRETS.values()).encode())
