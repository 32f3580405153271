"""What this machine and its environment are, and how two of them differ."""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from .packages import canonical, damaged, edited, packages  # noqa: F401 (what others ask for)
from .project import call, tilde

VARIABLES = (  # what changes numbers, or the order and the text of things; none holds a secret
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_SCHEDULE", "OMP_WAIT_POLICY", "OMP_PROC_BIND",
    "KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_DETERMINISTIC_REDUCTION", "MKL_NUM_THREADS", "MKL_CBWR",
    "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "CUDNN_FRONTEND",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT", "NCCL_ALGO", "NCCL_PROTO",
    "PYTORCH_ENABLE_MPS_FALLBACK", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "LD_PRELOAD",
)  # fmt: skip
SETTINGS = ("LANG", "LC_ALL", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "TZ")
CAUSES = {
    "threads": ("threads", "world_size"),
    "hardware": ("device", "gpus", "driver", "cuda", "cudnn", "cpu_capability", "blas"),
    "system": ("python", "implementation"),
    "platform": ("platform",),  # its kernel is another one after every update
}
INSTRUCTIONS = {"sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl",
                "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve", "bf16"}  # fmt: skip


def _cpu() -> dict[str, Any]:
    """Return the CPU's model, instruction set and number of cores."""
    model, flags = platform.processor() or platform.machine(), set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = re.search(r"(?m)^model name\s*: (.+)$", text)[1]
        flags = INSTRUCTIONS & set(re.search(r"(?m)^(?:flags|Features)\s*: (.+)$", text)[1].split())
    except (OSError, TypeError):  # no Linux, or a CPU that is described otherwise
        if sys.platform == "darwin":
            model = call(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout.strip() or model
    return {"model": model, "instructions": sorted(flags), "cores": os.cpu_count()}


def _torch() -> dict[str, Any]:
    """Return what PyTorch computes with, if it is imported already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    text = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=([\w-]+)", text)
    libraries = re.findall(r"(?m)^\s*- (Intel\(R\) (?:oneAPI )?(?:Math|MKL).+|OpenBLAS.+)$", text)
    found = {"torch": torch.__version__, "cuda": torch.version.cuda or torch.version.hip}
    found |= {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "gpus": [], "cudnn": None}
    found["blas"] = "; ".join([*(blas.groups() if blas else ()), *libraries])
    if torch.cuda.is_available():
        found["cudnn"] = torch.backends.cudnn.version()
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        found["gpus"] = [f"{one.name}, compute capability {one.major}.{one.minor}" for one in cards]
        driver = Path("/proc/driver/nvidia/version")
        if driver.exists():
            found["driver"] = driver.read_text(encoding="utf-8").splitlines()[0]
    return found


def capture(threads: int, world_size: int, device: str) -> dict[str, Any]:
    """Describe the environment of a run.

    Parameters
    ----------
    threads : int
        Of PyTorch on the CPU.
    world_size : int
        The number of processes.
    device : str
        Where it computes: `cpu`, `cuda`, `mps`, or `auto`.

    Returns
    -------
    dict
        What `environment.json` holds.
    """
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "device": device,
        "threads": threads,
        "world_size": world_size,
        "job": os.environ.get("LAB_JOB"),  # the queue's name for it: a requeued job looks for it
        **_torch(),
        "variables": {name: tilde(os.environ[name]) for name in VARIABLES if name in os.environ},
        "settings": {name: tilde(os.environ[name]) for name in SETTINGS if name in os.environ},
        "edited": edited(),
        "packages": packages(),
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[str]]:
    """Say how two environments differ, by cause.

    Parameters
    ----------
    old, new : dict
        What two `environment.json` hold.

    Returns
    -------
    dict of str to list of str
        `packages`, `edited libraries`, `threads`, `hardware`, `system`, `platform`, `variables`,
        and `settings`, which should change no number (locale, time zone); only those that differ.
    """
    both: dict[str, list[str]] = {}
    one, other = _facts(old), _facts(new)
    for cause in one:
        absent = "as installed" if cause == "edited libraries" else None
        names = one[cause] | other[cause]
        for name in names if cause in CAUSES else sorted(names):
            pair = [facts[cause].get(name, absent) for facts in (one, other)]
            if pair[0] != pair[1]:
                shown = ("none" if value in (None, "", []) else str(value) for value in pair)
                both.setdefault(cause, []).append(f"{name}: {' -> '.join(shown)}")
    return both


def _facts(environment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort the facts of an `environment.json` by the cause that a difference in them points to."""
    found: dict[str, dict[str, Any]] = {"packages": {}}
    for package in environment.get("packages") or ():
        if not package.get("editable"):  # that code is recorded
            build = package.get("build") or package.get("source") or ""
            found["packages"][canonical(package["name"])] = f"{package['version']} {build}".strip()
    edits = environment.get("edited") or ()
    found["edited libraries"] = {one["file"]: f"edited ({one['sha256'][:12]})" for one in edits}
    for cause, names in CAUSES.items():
        found[cause] = {name.replace("_", " "): environment.get(name) for name in names}
    cpu = environment.get("cpu") or {}
    found["hardware"] |= {f"CPU {name}": cpu.get(name) for name in ("model", "instructions")}
    return found | {name: environment.get(name) or {} for name in ("variables", "settings")}
