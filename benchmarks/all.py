"""Measure every figure of speed in RESULTS.md; one JSON file, rewritten after each section.

    python benchmarks/all.py --out results.json [--sections plain_fp32 distinct ...] [--threads 2]

Each section runs other scripts of this folder, every measurement in a process of its own. A section that fails is noted
under `failed`, and the others run. `compiled`, which takes minutes, runs only by name. `quoted` are figures of the
original programs, measured once on a machine of this kind (2 cores); they are not measured here.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

_HERE = Path(__file__).parent
QUOTED = {
    "savi_train_seconds": (17.8, 24.9),
    "savi_inference_seconds": (2.1, 2.6),
    "statm_train_seconds": 23.0,
    "slot_attention_train_seconds": 1.15,
    "isa_train_seconds": 1.48,
}
"""Seconds of the originals: SAVi-S and STATM-S 2 x 6 x 64x64 with 11 slots, inference 24 frames; Slot Attention
2 x 128x128 with 7 slots; ISA (Tetrominoes, translation) 8 x 35x35."""
_SAVI = ["--batch", "2", "--frames", "6", "--slots", "11"]
Section = Callable[[list[str]], dict[str, Any]]


def _script(name: str, *words: str) -> dict[str, Any]:
    line = [sys.executable, str(_HERE / name), *words]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return {"command": " ".join(["python", f"benchmarks/{name}", *words]), **json.loads(done.stdout)}


def _step(recipe: str, *words: str) -> dict[str, Any]:
    return _script("train_step.py", recipe, "--no-flops", *words)


def _ratio(slow: dict[str, Any], fast: dict[str, Any], key: str = "seconds_per_step") -> dict[str, float]:
    cpu = {"seconds_per_step": "cpu_seconds_per_step", "inference_seconds": "cpu_seconds_inference"}[key]
    return {"wall": slow[key]["min"] / fast[key]["min"], "cpu": slow[cpu]["min"] / fast[cpu]["min"]}


def plain_fp32(threads: list[str]) -> dict[str, Any]:
    """SAVi-S compared with plain eager PyTorch."""
    return _script("against_plain.py", "--precision", "fp32", *threads)


def plain_bf16(threads: list[str]) -> dict[str, Any]:
    """The same in bf16."""
    return _script("against_plain.py", "--precision", "bf16", *threads)


def compiled(threads: list[str]) -> dict[str, Any]:
    """Cost and gain of compiling a small step of SAVi-S; takes minutes."""
    return {p: _script("compilation.py", "savi_small", "--precision", p, *threads) for p in ("fp32", "bf16")}


def distinct(threads: list[str]) -> dict[str, Any]:
    """24 slots with 5 and 8 objects (mean 6.5): each distinct slot decoded once, and every slot decoded."""
    words = [*"--batch 2 --frames 6 --slots 24 --objects 5 8 --no-inference".split(), *threads]
    on, off = _step("savi_small", *words), _step("savi_small", *words, "--no-distinct")
    return {"distinct": on, "all": off, "ratio": _ratio(off, on)}


def inference(threads: list[str]) -> dict[str, Any]:
    """Masks of 24 frames, 11 slots, compared with the original's quoted seconds."""
    found = {
        p: _step("savi_small", *_SAVI, "--steps", "1", "--precision", p, *threads) for p in ("fp32", "bf16")
    }
    return {"quoted": QUOTED["savi_inference_seconds"], **found}


def statm(threads: list[str]) -> dict[str, Any]:
    """A step of STATM-S compared with one of SAVi-S."""
    words = [*_SAVI, "--steps", "3", "--no-inference", *threads]
    savi, other = (_step(name, *words) for name in ("savi_small", "statm_savi_small"))
    return {
        "savi": savi,
        "statm": other,
        "statm_over_savi": _ratio(other, savi),
        "quoted": QUOTED["statm_train_seconds"],
    }


def statm_long(threads: list[str]) -> dict[str, Any]:
    """STATM over up to 240 frames, with a bounded memory and with all frames in it."""
    return {
        "bounded": _script("statm_long.py", *threads),
        "unbounded": _script("statm_long.py", "--max-frames", "None", *threads),
    }


def slot_attention(threads: list[str]) -> dict[str, Any]:
    """A step of Slot Attention compared with the original's quoted seconds."""
    words = ["slot_attention_clevr6", "--batch", "2", "--slots", "7"]
    return _beside("slot_attention_train_seconds", [*words, *threads])


def isa(threads: list[str]) -> dict[str, Any]:
    """A step of ISA compared with the original's quoted seconds."""
    return _beside("isa_train_seconds", ["isa_tetrominoes_transl", "--batch", "8", *threads])


def _beside(name: str, words: list[str]) -> dict[str, Any]:
    """Both precisions, and the quoted seconds over ours."""
    found = {p: _step(*words, "--precision", p) for p in ("fp32", "bf16")}
    ratio = {p: QUOTED[name] / ours["seconds_per_step"]["min"] for p, ours in found.items()}
    return {"quoted": QUOTED[name], **found, "ratio": ratio}


def metrics(threads: list[str]) -> dict[str, Any]:
    """FG-ARI, mIoU and mBO of 64 videos."""
    return _script("metrics.py")


def start(threads: list[str]) -> dict[str, Any]:
    """Start of `torchslots --help`, and of the import."""
    return _script("start.py")


def memory(threads: list[str]) -> dict[str, Any]:
    """Memory of SAVi-S at batch 64 with 24 distinct slots in bf16 with recomputation, computed."""
    return _script("memory.py", *threads)


def slotdiffusion(threads: list[str]) -> dict[str, Any]:
    """SlotDiffusion's step and sampling compared with the plain network and the original's recorded seconds."""
    return _script("slotdiffusion.py", "--samples", "1", *threads)


def steve(threads: list[str]) -> dict[str, Any]:
    """Decoding of STEVE's codes with and without a cache of keys and values."""
    return _script("steve_generation.py", "--samples", "1", *threads)


def features(threads: list[str]) -> dict[str, Any]:
    """Prediction of models on vision transformers, and its floor: the transformer and the decoder's products alone."""
    return _script("features.py", "--frames", "2", "--repeats", "2", *threads)


def feature_training(threads: list[str]) -> dict[str, Any]:
    """A step of models on frozen transformers from frames, from stored features, and without the transformer."""
    return _script("feature_training.py", "--batch", "1", "--rounds", "3", *threads)


def growth(threads: list[str]) -> dict[str, Any]:
    """Growth of time and memory of SAVi-S, by `torchslots bench --plot`."""
    words = ["bench", "savi_small", "--plot", "--steps", "2"]
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "torchslots", *words, "--out", folder, *threads]
        subprocess.run(line, check=True, capture_output=True, text=True)
        found = json.loads((Path(folder) / "growth.json").read_text())
    return {"command": " ".join(["torchslots", *words]), **found}


SECTIONS: dict[str, Section] = {
    section.__name__: section
    for section in (
        plain_fp32,
        plain_bf16,
        distinct,
        inference,
        statm,
        statm_long,
        slot_attention,
        isa,
        metrics,
        start,
        slotdiffusion,
        steve,
        memory,
        features,
        feature_training,
        growth,
        compiled,
    )
}
USUAL = tuple(name for name in SECTIONS if name != "compiled")


def main(out: Path, sections: tuple[str, ...] = USUAL, threads: int = 2) -> None:
    """Run sections and write what they find.

    Args:
        out: JSON file; other sections that are in it already stay.
        sections: Names of sections.
        threads: CPU threads of each measurement.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        sys.exit(f"all.py: no section {', '.join(sorted(unknown))}. There are: {', '.join(SECTIONS)}.")
    found = json.loads(out.read_text()) if out.exists() else {}
    for name in sections:
        found[name] = _run(name, ["--threads", str(threads)])
        _write(out, found)
    failed = [name for name in sections if "failed" in found[name]]
    if failed:
        sys.exit(f"all.py: {', '.join(failed)} failed; {out} says why, and has all the others.")


def _run(name: str, threads: list[str]) -> dict[str, Any]:
    """A section's figures, or its failure."""
    began = time.perf_counter()
    try:
        figures = SECTIONS[name](threads)
    except (subprocess.CalledProcessError, json.JSONDecodeError, KeyError, OSError) as error:
        figures = {"failed": f"{error} {(getattr(error, 'stderr', None) or '')[-2000:]}"}
    seconds = time.perf_counter() - began
    print(f"{name}: {'failed after ' if 'failed' in figures else ''}{seconds:.0f} s", flush=True)
    return {"date": time.strftime("%Y-%m-%d"), "seconds": seconds, **figures}


def _write(out: Path, found: dict[str, Any]) -> None:
    """Write the file at once, so that an interruption loses nothing that was found before."""
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(found, indent=2) + "\n")
    part.replace(out)


if __name__ == "__main__":
    tyro.cli(main)
