"""How an update can be made on a GPU, and which way scripts/gpu_box.py can trust for long runs."""

import json
import re
from pathlib import Path
from typing import Any

WAYS = {
    "eager": [],
    "graph": ["train.cuda_graph=true"],
    "compile": ["train.compile=true"],
    "both": ["train.cuda_graph=true", "train.compile=true"],
}
"""How an update can be made; each needs what its name says, "both" the other two."""
UNMEASURED = 0.009
"""Seconds assumed for an update of full VGG16 where no bench has measured one."""


def outcomes(log: Path) -> dict[str, bool]:
    """Test -> whether it passed, from a log of pytest -v."""
    found = {}
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        words = line.split(" - ")[0].split()
        names = [word for word in words if "::" in word]
        verdicts = [word == "PASSED" for word in words if word in ("PASSED", "FAILED", "ERROR")]
        if names and verdicts:
            found[names[0]] = verdicts[0] and found.get(names[0], True)
    return found


def collected(log: Path) -> int:
    """How many tests a log of pytest set out to run."""
    found = re.search(r"\[(\d+) items\]|collected (\d+)|(\d+) selected", log.read_text())
    return int(next(filter(None, found.groups()))) if found else 0


def words_in(text: str) -> frozenset[str]:
    """Which of "graph" and "compile" stand in some settings, or in the name of a test."""
    return frozenset(word for word in ("graph", "compile") if word in text)


def is_trusted(box: Any, way: str) -> bool:
    """Whether an update may be made this way: a test that does so has passed here, and none that
    needs no more than it has failed. Tests with momentum, which no run has, do not count. A box
    that skips the tests relies on those of earlier boxes."""
    words = words_in(way)
    if "tests" in box.get("SKIP", "").split():
        earlier = map(Path.read_text, box.docs.glob("performance/*/tests.json"))
        failed = [name for text in earlier for name in json.loads(text).get("failed", [])]
        passed = [way]
    else:
        tests = outcomes(box.logs / "tests.txt")
        failed = [name for name, ok in tests.items() if not ok]
        passed = [name for name, ok in tests.items() if ok]
    failures = [words_in(name) for name in failed if "momentum" not in name]
    broken = any(of and of <= words for of in failures)
    return not words or (not broken and words in map(words_in, passed))


def fastest(box: Any) -> tuple[float, list[str]]:
    """Seconds of a tracked update, and the settings for it: of the ways that are trusted the
    fastest that was measured, here or else by an earlier box."""
    found = []
    earlier, here = box.docs.glob("performance/*/bench_*.json"), box.results.glob("bench_*.json")
    for path in {path.name: path for path in [*sorted(earlier), *here]}.values():
        for step in json.loads(path.read_text(encoding="utf-8"))["steps"]:
            way = [f"train.{flag}=true" for flag in ("cuda_graph", "compile") if step[flag]]
            if step["precision"] == box.precision and is_trusted(box, " ".join(way)):
                found.append((step["tracked_seconds"], way))
    return min(found, default=(UNMEASURED, []))
