"""Read a plan from YAML, strictly: unknown keys are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.utils import optional_import

from scripts.comparison.plan import ComparisonPlan, Dataset, Method, Run, SweepPoint, folder_name

__all__ = ["CONFIGS", "ROOT", "load_plan"]

#: The bundle's root.
ROOT = Path(__file__).resolve().parents[2]
#: Folder of the overlays that a plan names.
CONFIGS = ROOT / "configs"

_SCHEMA = ROOT / "plans" / "plan.schema.json"


def load_plan(path: Path) -> ComparisonPlan:
    """Read a plan; ``plans/plan.schema.json`` describes the form.

    Raises:
        ValueError: jsonschema is not installed, the file is missing or not YAML, a key is unknown, a value is invalid,
            or a name does not exist.
    """
    content = _read_yaml(path)
    _check_form(path, content)
    datasets = {name: _dataset(name, given) for name, given in content["datasets"].items()}
    methods: dict[str, Method] = {}
    plain = [Method(name, **_with_tuples(given)) for name, given in content.get("methods", {}).items()]
    for method in [*plain, *_swept_methods(content)]:
        if method.name in methods:
            raise ValueError(f"{path}: methods, vary: two methods are called '{method.name}'; rename one.")
        methods[method.name] = method
    plan = ComparisonPlan(
        name=content["name"],
        source=path,
        seeds=tuple(content["seeds"]),
        split=content["split"],
        datasets=datasets,
        methods=methods,
        reference=content.get("reference"),
        overrides=content.get("overrides", {}),
        note=content.get("note", "").strip(),
    )
    _check_names(plan)
    return plan


class _StrictLoader(yaml.SafeLoader):
    """Refuses a repeated key, of which YAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key '{key}' is given twice, second in{node.start_mark}")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise ValueError(f"--plan {path}: cannot be read ({error.strerror}); give a YAML file, see plans/.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, but: {error}") from error


def _check_form(path: Path, content: Any) -> None:
    jsonschema, installed = optional_import("jsonschema")
    if not installed:
        raise ValueError('plans are checked with jsonschema, which is not installed: pip install -e ".[comparison]".')
    validator = jsonschema.Draft202012Validator(json.loads(_SCHEMA.read_text(encoding="utf-8")))
    error = jsonschema.exceptions.best_match(validator.iter_errors(content))
    if error is not None:
        raise ValueError(f"{path}: {_explain(error)}")


def _explain(error: Any) -> str:
    """The key, what is wrong with it and, for an unknown key, the known ones."""
    where = ".".join(map(str, error.absolute_path)) or "the plan"
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties":
        unknown = [key for key in error.instance if key not in schema["properties"]]
        return f"{where}: unknown key '{unknown[0]}'; allowed are {', '.join(schema['properties'])}."
    if error.validator == "not" and "enum" in error.validator_value:
        return f"{where}: '{error.instance}' is set by the comparison itself; take it out of overrides."
    if error.validator == "not":
        return f"{where}: expected one of {' and '.join(error.validator_value['required'])}, found both."
    return f"{where}: {error.message}"


def _dataset(name: str, given: Mapping[str, Any]) -> Dataset:
    return Dataset(name, **{**_with_tuples(given), "note": given.get("note", "").strip()})


def _with_tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def _swept_methods(content: Mapping[str, Any]) -> Iterable[Method]:
    for sweep in content.get("vary", []):
        symbol = sweep.get("symbol", sweep["key"])
        given = {key: sweep[key] for key in ("configs", "datasets", "seeds") if key in sweep}
        for value in sweep["values"]:
            overrides = {**sweep.get("overrides", {}), sweep["key"]: value}
            point = SweepPoint(sweep["name"], sweep.get("axis", symbol), value)
            name = f"{sweep['name']} {symbol} {value}"
            yield Method(name, overrides=overrides, point=point, **_with_tuples(given))


def _check_names(plan: ComparisonPlan) -> None:
    """Check that names exist, and give distinct folders."""
    where = plan.source
    if not plan.methods:
        raise ValueError(f"{where}: methods: expected at least one method, here or by vary, found none.")
    if plan.reference is not None and plan.reference not in plan.methods:
        raise ValueError(f"{where}: reference: expected one of {_listed(plan.methods)}, found '{plan.reference}'.")
    for method in plan.methods.values():
        here = f"{where}: methods.{method.name}"
        for dataset in method.datasets or ():
            if dataset not in plan.datasets:
                expected = _listed(plan.datasets)
                raise ValueError(f"{here}.datasets: expected some of {expected}, found '{dataset}'.")
        for config in method.configs:
            if not (CONFIGS / config).is_file():
                raise ValueError(f"{here}.configs: there is no configs/{config}.")
    for run in plan.runs():
        _check_precedence(run, plan)
    _check_parts(plan, "datasets", plan.datasets)
    _check_parts(plan, "methods", plan.methods)


def _check_precedence(run: Run, plan: ComparisonPlan) -> None:
    """Refuse a common override that would undo a method's own, such as the K of a method without a codebook."""
    shared = {**plan.overrides, **run.dataset.overrides}
    for config in run.method.configs:
        for key in _ids(config):
            if key in shared and key not in run.method.overrides:
                raise ValueError(
                    f"{plan.source}: overrides.{key}, of the plan or of datasets.{run.dataset.name}: it would undo "
                    f"what configs/{config} sets for methods.{run.method.name}; give it to the methods that want it."
                )


@cache
def _ids(config: str) -> tuple[str, ...]:
    return tuple(ConfigParser.load_config_file(str(CONFIGS / config)))


def _check_parts(plan: ComparisonPlan, kind: str, parts: Mapping[str, Dataset | Method]) -> None:
    folders = [folder_name(name) for name in parts]
    for (name, part), folder in zip(parts.items(), folders, strict=True):
        if not folder or folders.count(folder) > 1:
            raise ValueError(f"{plan.source}: {kind}.{name}: its folder '{folder}' is empty or another's; rename it.")
        for seed in part.seeds or ():
            if seed not in plan.seeds:
                raise ValueError(
                    f"{plan.source}: {kind}.{name}.seeds: expected some of {list(plan.seeds)}, found {seed}."
                )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
