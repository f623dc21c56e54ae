"""The shape of the code: imports run downwards, files stay small, public names are pinned."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import symrun

ROOT = Path(symrun.__file__).parent
# From the top down: a module imports only from what stands below it, or from its own folder.
LAYERS = [
    "__main__",
    "cli",
    "commands",
    "integrations",
    "attached",
    "bench",
    "listing",
    "launch",
    "members",
    "settings",
    "constraints",
    "training",
    "loggers",
    "tracking",
    "report",
    "figures",
    "analysis",
    "runs",
    "overrides",
    "sweeps",
    "config",
    "schedule",
    "tasks",
    "optimizers",
    "data",
    "models",
    "typed",
    "symmetry",
    "laws",
    "remote",
    "files",
    "ranks",
    "cores",
    "display",
    "errors",
    "places",
    "lazy",
]
MODULES = sorted(ROOT.rglob("*.py"))


def layer_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def module_name(path):
    return ".".join(("symrun", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downwards(path):
    here = layer_of(module_name(path))
    for imported in imports_of(path):
        there = layer_of(imported) if imported.split(".")[0] == "symrun" else None
        if None not in (here, there) and there != here:
            assert LAYERS.index(here) < LAYERS.index(there), f"{path.name} imports {imported}"


def test_no_import_cycle():
    edges = {
        module_name(path): {name for name in imports_of(path) if name.split(".")[0] == "symrun"}
        for path in MODULES
        if path.name != "__init__.py"
    }
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, f"import cycle through {module}"
        if module in done or module not in edges:
            return
        under_way.append(module)
        for imported in edges[module]:
            visit(imported)
        under_way.pop()
        done.add(module)

    for module in edges:
        visit(module)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_laws_know_neither_torch_modules_nor_files():
    for path in (ROOT / "laws").glob("*.py"):
        names = {name.split(".")[0] for name in imports_of(path)}
        language = {"collections", "dataclasses", "enum", "importlib", "math", "typing"}
        assert names <= language | {"symrun", "torch", "numpy"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "nn" not in [alias.name for alias in node.names], path
            assert not (isinstance(node, ast.Attribute) and node.attr == "nn"), path


def test_reading_tables_imports_none_of_what_is_slow_to_import():
    """What `symrun --help`, check, plot, runs and watch need; a process of its own, since tests
    import torch."""
    slow = ["torch", "torchvision", "pandas", "scipy", "hydra"]
    code = "import sys, symrun.cli, symrun.analysis, symrun.figures, symrun.figures.residual;"
    code += "import symrun.listing.overview, symrun.listing.card, symrun.listing.live;"
    code += "symrun.open_run, symrun.RunInfo, symrun.UsageError;"
    code += f"print([name for name in {slow} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


def test_the_package_says_that_it_is_typed():
    """Hatch packs every file of the package that git does not ignore."""
    assert (ROOT / "py.typed").exists()


def test_figures_never_train():
    for path in (ROOT / "figures").glob("*.py"):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("symrun", ["RunInfo", "SymrunError", "TrackedRun", "Tracker", "UsageError",
                    "find_structure", "open_run", "track"]),
        ("symrun.analysis", ["Agreement", "Comparison", "agreement", "as_json", "as_table",
                             "comparisons", "is_identity", "is_null", "judge", "shortcomings",
                             "silences", "skipped"]),
        ("symrun.bench", ["Report", "as_json", "as_text", "measure"]),
        ("symrun.constraints", ["GradientConstraint", "HessianConstraint", "Report", "as_json",
                                "as_table", "check_model", "check_run", "gradient_constraints",
                                "hessian_constraints", "run_or_overrides", "shortcomings"]),
        ("symrun.laws", ["DiscreteLaw", "Input", "Kind", "Law", "ModifiedFlow",
                         "ObservedUpdate", "Oscillator", "Propagation", "Rule", "SGD",
                         "gradient_flow", "kinds_of_sgd", "laws_of_sgd", "steady_forcing"]),
        ("symrun.loggers", ["ScalarLogger", "logging_to", "require_installed"]),
        ("symrun.models", ["MODELS", "Model", "ModelConfig", "build_model", "entry_of"]),
        ("symrun.symmetry", ["Family", "Group", "Layer", "Members", "Structure", "Symmetry",
                             "columns", "find_structure", "rows"]),
        ("symrun.tracking", ["Observation", "Tracker", "Watcher"]),
    ],
)  # fmt: skip
def test_public_names(module, names):
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == names
    assert all(getattr(loaded, name).__doc__ for name in names)
