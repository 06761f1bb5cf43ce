"""The package's layers: who may import whom, what configurations may name, and what no module may do."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vqseg_bundle"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".json", ".yaml", ".yml"))
#: full names of modules and packages
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
#: besides its own and ``common``, the ground floor; nobody imports ``commands``, the top
ALLOWED = {
    "common": set(),
    "layers": set(),
    "networks": {"layers"},
    "losses": set(),
    "data": set(),
    "engines": set(),
    "handlers": set(),
    "planning": set(),
    "bundle": {"layers", "networks", "losses", "data", "engines", "handlers", "planning"},
    "commands": {"layers", "networks", "losses", "data", "engines", "handlers", "planning", "bundle"},
}

#: the rooms of a sub-package, each with those below that it may import
ROOMS = {
    "data": {
        "formats": set(),
        "geometry": {"formats"},
        "layouts": {"formats"},
        "cohorts": {"formats", "layouts"},
        "checking": {"formats", "geometry", "cohorts"},
        "features": {"formats"},
        "output": {"formats"},
    },
    "bundle": {
        "records": set(),
        "machine": {"records"},
        "settings": {"machine"},
        "cohort": {"records", "machine", "settings"},
        "training": {"records", "machine", "settings", "cohort"},
        "deployed": {"records", "settings", "cohort"},
    },
}
#: modules of those sub-packages that are open to all rooms
OPEN = {"data": {"errors"}, "bundle": set()}
#: what configurations of earlier versions name, which lie in the folders of runs to be resumed and in made bundles
NAMED_BY_EARLIER_CONFIGURATIONS = {
    "data": """
        AddTokenCoordinatesd JoinTokenCoordinatesd KeepSourced LabelToImaged LoadVolumed NameByCased OrientVolumed
        ReadableDataset SampleFoundationFeaturesd SaveDicomSegd SharedRandomSampler SliceAxisLastd VolumeWriter
        choose_slice_axis class_map_dtype cohort_slice_axis name_slice_axis process_share
        """,
    "handlers": """
        BestModelState CaseMetrics CodebookMaintenance CodebookSnapshots CodebookUsage EvaluationReport
        ImageReconstruction LearningWatch MeanCaseDice ModelSaver ProgressPicture PseudoLabelConfidence RestartTeacher
        ResumeCheckpoint RunWhenCompleted TrainingProgress labeled_prediction loss_terms
        """,
}


def _imported_modules(path: Path) -> set[str]:
    """Full names of all that a module imports, relative ones resolved: of a sub-module that, else what it is from."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else list(package[: len(package) - node.level + 1])
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found.update(name if name in NAMES else source for name in names)
    return found


def _sub_packages(path: Path) -> set[str]:
    names = (name.split(".") for name in _imported_modules(path))
    found = {parts[1] for parts in names if parts[0] == PACKAGE.name and len(parts) > 1}
    return {name for name in found if (PACKAGE / name).is_dir()}


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_walk_finds_the_imports_it_is_there_for():
    assert {"layers", "networks"} <= _sub_packages(PACKAGE / "networks" / "training_module.py")
    assert "data" in _sub_packages(PACKAGE / "data" / "__init__.py")
    assert {_layer(path) for path in MODULES if path.parent != PACKAGE} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_imports_its_own_layer_and_those_below(path):
    if path.parent == PACKAGE:
        assert _sub_packages(path) <= {"commands"}
    else:
        assert _sub_packages(path) <= {"common", _layer(path), *ALLOWED[_layer(path)]}


@pytest.mark.parametrize("path", [path for name in ROOMS for path in sorted(PACKAGE.glob(f"{name}/*/*.py"))], ids=_name)
def test_a_room_imports_those_below_alone(path):
    rooms, prefix = ROOMS[_layer(path)], f"{PACKAGE.name}.{_layer(path)}."
    names = {name.removeprefix(prefix).split(".")[0] for name in _imported_modules(path) if name.startswith(prefix)}
    assert names <= {path.parent.name, *rooms[path.parent.name], *OPEN[_layer(path)]}


def _circle(imports):
    """The modules of a circle in ``module -> what it imports``, empty without one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    imports = {name: _imported_modules(path) & NAMES.keys() - {name} for name, path in NAMES.items()}
    assert f"{PACKAGE.name}.data.formats.nifti" in imports[f"{PACKAGE.name}.data.formats.table"]
    assert _circle(imports) == []
    assert len(_circle({**imports, f"{PACKAGE.name}.data.errors": {f"{PACKAGE.name}.data.checking.checks"}})) > 2


@pytest.mark.parametrize("name", sorted(NAMED_BY_EARLIER_CONFIGURATIONS))
def test_what_earlier_configurations_name_is_still_there(name):
    package = importlib.import_module(f"{PACKAGE.name}.{name}")
    assert set(NAMED_BY_EARLIER_CONFIGURATIONS[name].split()) <= set(package.__all__)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_imports_scripts_or_tests(path):
    assert {name.split(".")[0] for name in _imported_modules(path)}.isdisjoint({"scripts", "tests"})


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_prints_asserts_or_calls_cuda(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        if isinstance(node, ast.Call):
            called = node.func
            prints = isinstance(called, ast.Name) and called.id == "print"
            assert not prints or _layer(path) == "commands", f"print in line {node.lineno}"
            assert not (isinstance(called, ast.Attribute) and called.attr == "cuda"), f".cuda() in line {node.lineno}"


@pytest.mark.parametrize("path", [path for path in MODULES if not path.name.startswith("__")], ids=_name)
def test_every_module_says_what_it_exports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assigned = [ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert "__all__" in assigned


@pytest.mark.parametrize("name", sorted(set(ALLOWED) - {"commands"}))
def test_a_sub_package_has_what_it_exports(name):
    package = importlib.import_module(f"{PACKAGE.name}.{name}")
    assert len(package.__all__) == len(set(package.__all__)) > 0
    assert [export for export in package.__all__ if not hasattr(package, export)] == []


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_configurations_name_exported_classes_and_functions_alone(path):
    # JSON and YAML alike, in values of _target_ and in expressions
    names = set(re.findall(rf"\b{PACKAGE.name}((?:\.\w+)+)", path.read_text(encoding="utf-8")))
    for name in names:
        _, sub_package, *export = name.split(".")
        assert len(export) == 1, f"{PACKAGE.name}{name}"
        assert export[0] in importlib.import_module(f"{PACKAGE.name}.{sub_package}").__all__, f"{PACKAGE.name}{name}"


def test_the_training_configuration_uses_every_branch():
    text = (ROOT / "configs" / "train.json").read_text(encoding="utf-8")
    used = set(re.findall(rf'"_target_": "{PACKAGE.name}\.(\w+)\.', text))
    assert used == set(ALLOWED) - {"common", "commands", "planning"}  # the plan is made by ``bundle``


def test_the_call_stack_is_read_in_one_module():
    reading = re.compile(r"currentframe|f_back|_getframe|inspect\.stack|sys\.exc_info")
    found = [path.name for path in MODULES if reading.search(path.read_text(encoding="utf-8"))]
    assert found == ["running_workflow.py"]
