"""The manifests: valid to the letter, safe in their values, and their commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
MANIFESTS = {
    f"{manifest['metadata']['name']}-{manifest['kind']}": manifest
    for path in sorted(FOLDER.glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}
PODS = {
    name: manifest["spec"]["template"]["spec"]
    for name, manifest in MANIFESTS.items()
    if "template" in manifest["spec"]
}
JOB = MANIFESTS["train-Job"]["spec"]


def container(pod: str) -> dict:
    """Return a pod's one container."""
    (found,) = PODS[pod]["containers"]
    return found


def variables(pod: str) -> dict[str, str]:
    """Return the variables of a pod's container."""
    return {one["name"]: one["value"] for one in container(pod)["env"]}


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_schema_knows_every_field(name):
    kubernetes_validate.validate(MANIFESTS[name], "1.30", strict=True)


def test_a_misspelt_field_would_be_found():
    spoilt = {**MANIFESTS["train-Job"], "spec": {**JOB, "paralelism": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, "1.30", strict=True)


def test_values_that_schemas_do_not_check():
    claims = [one for one in MANIFESTS.values() if one["kind"] == "PersistentVolumeClaim"]
    assert claims
    assert all(one["spec"]["accessModes"] == ["ReadWriteMany"] for one in claims)
    assert JOB["completionMode"] == "Indexed"
    assert PODS["train-Job"]["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    assert JOB["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert MANIFESTS["notebook-Deployment"]["spec"]["strategy"]["type"] == "Recreate"


@pytest.mark.parametrize("name", PODS)
def test_nothing_runs_as_root_or_may_become_it(name):
    pod, inside = PODS[name]["securityContext"], container(name)["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["readOnlyRootFilesystem"] is True
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert PODS[name]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & PODS[name].keys()


def test_the_user_is_the_images(pristine):
    users = {pod["securityContext"]["runAsUser"] for pod in PODS.values()}
    dockerfile = (pristine.root / "Dockerfile").read_text(encoding="utf-8")
    assert users == {int(number) for number in re.findall(r"(?m)^USER (\d+)$", dockerfile)} - {0}


@pytest.mark.parametrize("name", PODS)
def test_the_images_python_is_found_without_its_entrypoint(name, pristine):
    """Micromamba's image has it on PATH by its entrypoint alone, which `command` replaces."""
    dockerfile = (pristine.root / "Dockerfile").read_text(encoding="utf-8")
    place = re.search(r'CMD \["(/\S+)/python"', dockerfile)[1]  # the health check has no entrypoint
    assert "command" in container(name)
    assert variables(name)["PATH"].split(":")[0] == place


@pytest.mark.parametrize("name", PODS)
def test_resources_are_limited_and_the_limits_can_be_met(name):
    resources = container(name)["resources"]
    for kind in ("cpu", "memory"):
        asked, most = (resources[which][kind] for which in ("requests", "limits"))
        assert int(asked.removesuffix("Gi")) <= int(most.removesuffix("Gi"))


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_its_volume_and_every_claim_is_made(name):
    volumes = {volume["name"]: volume for volume in PODS[name]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container(name)["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert mounts["runs"] == f"{container(name)['workingDir']}/runs"
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes.values()
        if "persistentVolumeClaim" in volume
    }
    made = (one for one in MANIFESTS.values() if one["kind"] == "PersistentVolumeClaim")
    assert claims == {one["metadata"]["name"] for one in made}
    assert all("sizeLimit" in one["emptyDir"] for one in volumes.values() if "emptyDir" in one)


def test_the_pods_of_the_job_find_each_other():
    service = MANIFESTS["train-Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert PODS["train-Job"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": MANIFESTS["train-Job"]["metadata"]["name"]}
    assert "train-0.train:" in container("train-Job")["command"][2]
    assert "is_host=$host" in container("train-Job")["command"][2]  # whatever the DNS knows yet
    assert JOB["completions"] == JOB["parallelism"] == int(variables("train-Job")["NODES"])


def test_a_pod_that_is_told_to_stop_may_use_its_time_to_save():
    seconds = int(variables("train-Job")["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 60 < seconds < PODS["train-Job"]["terminationGracePeriodSeconds"]


def test_the_token_comes_from_the_secret_and_stands_in_no_file():
    (secret,) = (one["secret"] for one in PODS["notebook-Deployment"]["volumes"] if "secret" in one)
    assert secret == {"secretName": "notebook", "defaultMode": 0o440}
    assert variables("notebook-Deployment")["JUPYTER_TOKEN_FILE"] == "/run/secrets/notebook/token"
    for path in FOLDER.iterdir():
        assert not re.search(r"[0-9a-f]{32}", path.read_text(encoding="utf-8"))
        assert "kind: Secret" not in path.read_text(encoding="utf-8")
    command = container("notebook-Deployment")["command"][2]
    assert "--ip=127.0.0.1" in command
    assert "0.0.0.0" not in command
    assert "token=" not in command


@pytest.mark.parametrize("token", ["", "short", "\n" * 4])
def test_a_notebook_with_an_empty_token_does_not_start(token, tmp_path):
    secret = tmp_path / "token"
    secret.write_text(token, encoding="utf-8")
    env = {**os.environ, "JUPYTER_TOKEN_FILE": str(secret)}
    done = subprocess.run(
        container("notebook-Deployment")["command"], env=env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "empty or short" in done.stderr


@pytest.mark.torch
@pytest.mark.slow
def test_the_jobs_command_trains_in_two_processes_and_goes_on_once_only(repository):
    shell, option, script, name = container("train-Job")["command"]
    script = script.replace("train-0.train:29500", "127.0.0.1:29617")
    own = {"HOME": str(repository.root.parent), "PATH": repository.env["PATH"]}
    env = {**repository.env, **variables("train-Job"), **own}
    command = [shell, option, script, name, "--epochs", "2"]

    def pods(*more: str) -> list[int]:
        started = [
            subprocess.Popen(
                [*command, *more],
                cwd=repository.root,
                env={**env, "JOB_COMPLETION_INDEX": index},
            )
            for index in ("1", "0")  # the host comes last
        ]
        return [process.wait(300) for process in started]

    assert pods("--stop-after-epochs", "1") == [0, 0]
    (run,) = repository.runs()
    assert not (run / "result.json").exists()
    assert pods() == [0, 0]
    assert repository.runs() == [run]
    assert '"world_size": 2' in (run / "environment.json").read_text(encoding="utf-8")
    assert (run / "result.json").exists()
    written = (run / "result.json").stat().st_mtime_ns
    assert pods() == [0, 0]  # finished: applied again, it does nothing
    assert (run / "result.json").stat().st_mtime_ns == written
    assert repository.runs() == [run]


def test_the_probe_is_python(tmp_path):
    probe = container("notebook-Deployment")["readinessProbe"]["exec"]["command"]
    done = subprocess.run([sys.executable, *probe[1:]], capture_output=True, check=False)
    assert b"URLError" in done.stderr or done.returncode == 0
