"""What counts as a credential in the environment: what holds one, and not what speaks of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.storage.secrets import is_secret, redact

REAL = [
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("AWS_SECRET_ACCESS_KEY", "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("AWS_ACCESS_KEY_ID", "AKIAQ7TESTKEYID0TEST"),
    ("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEJr"),
    ("HF_TOKEN", "hf_anotherTokenAltogether"),
    ("GITHUB_TOKEN", "ghp_anotherTokenAltogether"),
    ("MYSQL_PWD", "swordfish"),
    ("PGPASSWORD", "/not/a/path/but/a/password"),
    ("DB_PASSWORD", "12345678"),
    ("OPENAI_API_KEY", "sk-something"),
    ("azure_client_secret", "something-secret"),
    ("SLACK_SECRET", "https://hooks.slack.example/services/T000/B000/XXXXXXXX"),
    ("DB_PASSWORD_FILE", "a-password-and-no-path"),
]


@pytest.mark.parametrize(("name", "value"), REAL)
def test_a_credential_is_removed(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert value not in redact(f"the server said {value}!")


OTHERS = [
    ("PWD", "/srv/merges/removed-meanwhile"),
    ("OLDPWD", "/srv/merges/removed-meanwhile"),
    ("TOKENIZER_DIR", "/srv/tokenizers/llama"),
    ("TOKENIZER_NAME", "meta-llama"),
    ("HF_TOKEN_PATH", "/root/.cache/huggingface/token"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/srv/not/there/credentials"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
    ("VAULT_TOKEN_SOCK", "/run/vault/agent.sock"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.2/v2/credentials"),
    ("PASSWORDLESS_LOGIN", "everywhere"),
    ("SSH_AUTH_SOCK", "/tmp/ssh-XXXX/agent.1"),
    ("TOKEN_CHECK", "disabled"),
    ("MAX_TOKENS", "100000000"),
]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_what_is_no_credential_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"cannot read {value}: No such file") == f"cannot read {value}: No such file"


def test_a_variable_that_names_a_folder_of_this_machine_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRETS", str(tmp_path))
    assert redact(f"cannot read {tmp_path}/x") == f"cannot read {tmp_path}/x"


@pytest.mark.parametrize("key", ["pwd", "token", "client_secret", "accessKey", "api_key", "X-Amz-Signature", "sig"])
def test_a_setting_that_holds_a_credential_is_known_by_its_name(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize("key", ["tokenizer", "tokenization", "secretary", "endpoint_url", "keyword", "region"])
def test_other_words_are_no_credential(key: str) -> None:
    assert not is_secret(key)
