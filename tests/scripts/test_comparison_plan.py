"""Plans of a comparison: what is read from them, and what is refused before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.comparison_parts import write_plan

from scripts.comparison.bundle_runs import bundle_stages, check_settings, expanded, trains_on_unlabeled
from scripts.comparison.datasets import open_dataset
from scripts.comparison.plan import Dataset, SweepPoint, folder_name
from scripts.comparison.plan_file import ROOT, load_plan

PLANS = sorted((ROOT / "plans").rglob("*.yaml"))


def names(runs):
    return [str(run) for run in runs]


def test_runs_go_through_the_seeds_outermost(tmp_path):
    plan = load_plan(write_plan(tmp_path / "p.yaml", tmp_path))
    assert names(plan.runs()) == [
        "nested / supervised / seed 0",
        "nested / VQ-Seg / seed 0",
        "nested / supervised / seed 1",
        "nested / VQ-Seg / seed 1",
    ]
    assert plan.runs()[3].folder == Path("runs/nested/vq-seg/seed1")


def test_methods_and_datasets_may_take_part_of_it(tmp_path):
    plan = load_plan(
        write_plan(
            tmp_path / "p.yaml",
            tmp_path,
            datasets={"A": {}, "B": {"seeds": [1]}},
            methods={"supervised": {"datasets": ["A"], "seeds": [0]}, "VQ-Seg": {}},
        )
    )
    assert names(plan.runs()) == [
        "A / supervised / seed 0",
        "A / VQ-Seg / seed 0",
        "A / VQ-Seg / seed 1",
        "B / VQ-Seg / seed 1",
    ]


def test_overrides_of_the_method_win_over_the_datasets_over_the_plans(tmp_path):
    plan = load_plan(
        write_plan(
            tmp_path / "p.yaml",
            tmp_path,
            overrides={"lambda_u": 1.0, "ema_decay": 0.9, "learning_rate": 0.1},
            datasets={"A": {"overrides": {"lambda_u": 2.0, "ema_decay": 0.8}}},
            methods={"supervised": {"overrides": {"lambda_u": 3.0}}},
        )
    )
    assert plan.runs()[0].overrides == {"lambda_u": 3.0, "ema_decay": 0.8, "learning_rate": 0.1}


def test_each_value_of_a_sweep_is_a_method(tmp_path):
    sweep = {"name": "QPM", "symbol": "eps", "key": "perturb_prob", "values": [0.3, 0.5], "overrides": {"lambda_u": 2}}
    plan = load_plan(write_plan(tmp_path / "p.yaml", tmp_path, methods=None, reference="QPM eps 0.3", vary=[sweep]))
    assert list(plan.methods) == ["QPM eps 0.3", "QPM eps 0.5"]
    method = plan.methods["QPM eps 0.5"]
    assert method.overrides == {"lambda_u": 2, "perturb_prob": 0.5}
    assert method.point == SweepPoint(sweep="QPM", axis="eps", value=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [0]}, r"p\.yaml: the plan: unknown key 'sedes'; allowed are name, note, seeds"),
        ({"datasets": {"A": {"dir": "x"}}}, r"datasets\.A: unknown key 'dir'; allowed are dataset_dir"),
        ({"methods": {"M": {"config": ["pfa.json"]}}}, r"methods\.M: unknown key 'config'; allowed are configs"),
        ({"datasets": {"A": {"dataset_dir": "x", "split": {"labelled_count": 3}}}}, "unknown key 'labelled_count'"),
        ({"datasets": {"A": {"dataset_dir": "x", "split": {}, "datalist": "y"}}}, r"datalist and split, found both"),
        (
            {"datasets": {"A": {"split": {"labeled_count": 3}}}},
            r"datasets\.A: 'dataset_dir' is a dependency of 'split'",
        ),
        ({"datasets": {"A": {"dataset_dir": "x", "split": {"labeled_count": 0}}}}, r"labeled_count: 0 is less than"),
        ({"seeds": []}, r"seeds: \[\] should be non-empty"),
        ({"seeds": [0, 0]}, r"seeds: \[0, 0\] has non-unique elements"),
        ({"seeds": [0.5]}, r"seeds\.0: 0\.5 is not of type 'integer'"),
        ({"split": "train"}, r"split: 'train' is not one of \['test', 'validation'\]"),
        ({"name": None}, r"the plan: 'name' is a required property"),
        ({"overrides": {"seed": 3}}, r"overrides: 'seed' is set by the comparison itself; take it out"),
        ({"reference": "UniMatch"}, r"reference: expected one of 'supervised', 'VQ-Seg', found 'UniMatch'"),
        ({"methods": {}, "reference": None}, r"methods: expected at least one method"),
        ({"methods": {"supervised": {"configs": ["nothing.json"]}}}, r"methods\.supervised\.configs: there is no conf"),
        ({"methods": {"supervised": {"datasets": ["B"]}}}, r"datasets: expected some of 'nested', found 'B'"),
        ({"methods": {"supervised": {"seeds": [7]}}}, r"supervised\.seeds: expected some of \[0, 1\], found 7"),
        (
            {"methods": {"supervised": {}, "Supervised": {}}},
            r"methods\.supervised: its folder 'supervised' is empty or",
        ),
        (
            {"vary": [{"name": "supervised", "key": "a", "values": [1]}], "methods": {"supervised a 1": {}}},
            "two methods are called 'supervised a 1'; rename one",
        ),
        (
            {"overrides": {"network_def#num_embeddings": 64}},
            r"num_embeddings, of the plan or .*: it would undo what configs/supervised\.json sets",
        ),
    ],
)
def test_a_plan_that_says_something_else_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_plan(write_plan(tmp_path / "p.yaml", tmp_path, **changes))


def test_files_that_are_no_plan_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--plan .*nowhere\.yaml: cannot be read \(No such file"):
        load_plan(tmp_path / "nowhere.yaml")
    path = tmp_path / "p.yaml"
    path.write_text("name: [")
    with pytest.raises(ValueError, match=r"p\.yaml: expected YAML, but: while parsing"):
        load_plan(path)
    path.write_text("name: a\nseeds: [0]\nname: b\n")
    with pytest.raises(ValueError, match=r"key 'name' is given twice"):
        load_plan(path)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_repositorys_plans_are_read(path):
    plan = load_plan(path)
    assert len(plan.runs()) >= len(plan.seeds)
    assert plan.reference in plan.methods
    assert len({run.folder for run in plan.runs()}) == len(plan.runs())


def test_the_papers_tables_are_all_there():
    assert {path.stem for path in PLANS if path.parent.name == "paper"} == {f"table{number}" for number in range(1, 8)}
    counts = {path.stem: len(load_plan(path).seeds) for path in PLANS}
    assert counts["table1"] == counts["table2"] == 10


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_settings_of_the_repositorys_plans_are_accepted(path, cohort, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    weights.touch()
    for variable in ("DINOV2", "CLIP", "MAE", "BIOMEDCLIP", "RAD_DINO"):
        monkeypatch.setenv(f"{variable}_WEIGHTS", str(weights))
    plan = load_plan(path)
    dataset = open_dataset(plan, Dataset("nested", dataset_dir=str(cohort.root)), tmp_path)
    for run in {run.method.name: run for run in plan.runs()}.values():
        check_settings(run, dataset, path)
        assert trains_on_unlabeled(run) is ("supervised.json" not in run.method.configs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"perturb_probability": 0.5}, r"VQ-Seg on datasets\.nested: overrides\.perturb_probability: no configuration"),
        ({"network_def#chanels": [4, 8]}, "network_def: .*chanels"),
        ({"perturb_prob": 1.5}, r"perturbation: .*\[0, 1\], got 1\.5"),
        ({"spatial_dims": 2, "patch_size": [32, 32, 8]}, "patch_size must hold 2 sizes"),
        ({"device": "gpu"}, "device must be 'cpu', 'cuda' or"),
        ({"foundation_model": "dinov9"}, "foundation_model: expected one of none, dinov2_vits14, .*, found 'dinov9'"),
        ({"foundation_weights": "nowhere.pth"}, "foundation_weights: expected a file, found none at 'nowhere.pth'"),
        ({"foundation_weights": "${NOT_SET_ANYWHERE}"}, "needs the environment variable NOT_SET_ANYWHERE"),
    ],
)
def test_settings_are_refused_before_the_first_run(overrides, message, cohort, tmp_path):
    plan = load_plan(
        write_plan(tmp_path / "p.yaml", cohort.root, methods={"VQ-Seg": {"overrides": overrides}}, reference=None)
    )
    dataset = open_dataset(plan, plan.datasets["nested"], tmp_path)
    with pytest.raises(ValueError, match=message):
        check_settings(plan.runs()[0], dataset, plan.source)


def test_a_dataset_is_found_by_variable_or_by_option(cohort, tmp_path, monkeypatch):
    dataset = {"nested": {"dataset_dir": "${SOME_DATA}/cohort"}}
    plan = load_plan(write_plan(tmp_path / "p.yaml", tmp_path, datasets=dataset))
    monkeypatch.delenv("SOME_DATA", raising=False)
    with pytest.raises(ValueError, match=r"SOME_DATA, which is not set; set it\. Or give --dataset-dir 'nested=DIR'"):
        open_dataset(plan, plan.datasets["nested"], tmp_path)
    by_option = open_dataset(plan, plan.datasets["nested"], tmp_path, str(cohort.root))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert open_dataset(plan, plan.datasets["nested"], tmp_path) == by_option
    assert by_option.arguments == {"dataset_dir": str(cohort.root)}
    assert (by_option.labeled, by_option.unlabeled) == (2, 2)


def test_the_plan_makes_the_datalist(cohort, tmp_path):
    split = {"labeled_count": 1, "test_count": 2, "labels": "background,shell,core"}
    dataset = {"nested 1": {"dataset_dir": str(cohort.root), "split": split}}
    plan = load_plan(write_plan(tmp_path / "p.yaml", tmp_path, datasets=dataset))
    opened = open_dataset(plan, plan.datasets["nested 1"], tmp_path / "lists")
    made = json.loads((tmp_path / "lists" / "nested-1.json").read_text())
    assert (opened.labeled, len(made["training"]), len(made["test"])) == (1, 1, 2)
    assert opened.arguments["datalist"] == str(tmp_path / "lists" / "nested-1.json")
    assert open_dataset(plan, plan.datasets["nested 1"], tmp_path / "others").digest == opened.digest
    too_many = {"nested 1": {"dataset_dir": str(cohort.root), "split": {**split, "test_count": 99}}}
    plan = load_plan(write_plan(tmp_path / "p.yaml", tmp_path, datasets=too_many))
    with pytest.raises(ValueError, match=r"datasets\.nested 1: --test-count: expected 0 to \d"):
        open_dataset(plan, plan.datasets["nested 1"], tmp_path / "lists")


def test_a_choice_names_the_labelled_patients(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("CHOICES", str(cohort.root))
    last = cohort.datalist["training"][-1]["image"].removeprefix("images/").removesuffix(".nii.gz")
    (cohort.root / "choice.json").write_text(json.dumps({"chosen": [last]}))
    split = {"labeled_file": "choice.json", "labels": "background,shell,core"}
    for number, given in enumerate((split, {**split, "labeled_file": "${CHOICES}/choice.json"})):
        dataset = {"nested 1": {"dataset_dir": str(cohort.root), "split": {**given, "test_count": 2}}}
        plan = load_plan(write_plan(tmp_path / f"{number}.yaml", tmp_path, datasets=dataset))
        open_dataset(plan, plan.datasets["nested 1"], tmp_path / f"lists{number}")
        made = json.loads((tmp_path / f"lists{number}" / "nested-1.json").read_text())
        assert [case["patient"] for case in made["training"]] == [last]


def test_files_outside_the_folder_are_taken_if_the_settings_say_so(cohort, tmp_path):
    (folder := tmp_path / "elsewhere").mkdir()
    dataset = {"nested 1": {"dataset_dir": str(folder), "datalist": str(cohort.root / "datalist.json")}}
    for split in cohort.datalist.values():
        for case in split if isinstance(split, list) and split and isinstance(split[0], dict) else []:
            case.update({key: str(cohort.root / case[key]) for key in ("image", "label") if key in case})
    cohort.save()
    for allowed in (False, True):
        dataset["nested 1"]["overrides"] = {"allow_outside_files": allowed}
        plan = load_plan(write_plan(tmp_path / f"{allowed}.yaml", tmp_path, datasets=dataset))
        if allowed:
            assert open_dataset(plan, plan.datasets["nested 1"], tmp_path).labeled > 0
        else:
            with pytest.raises(ValueError, match="expected files in the dataset's folder"):
                open_dataset(plan, plan.datasets["nested 1"], tmp_path)


def test_there_must_be_something_to_evaluate(cohort, tmp_path):
    cohort.datalist["test"] = []
    cohort.save()
    plan = load_plan(write_plan(tmp_path / "p.yaml", cohort.root))
    with pytest.raises(ValueError, match=r"evaluates the test cases; expected at least one .*, found none"):
        open_dataset(plan, plan.datasets["nested"], tmp_path)


def test_the_commands_train_without_validation_and_evaluate_what_was_trained(cohort, tmp_path):
    read = {"device": "cpu", "allow_outside_files": True}  # an evaluation reads the same cases
    plan = load_plan(write_plan(tmp_path / "p.yaml", cohort.root, overrides={"lambda_u": 2.0, **read}))
    run = plan.runs()[2]
    dataset = open_dataset(plan, plan.datasets["nested"], tmp_path)
    training, evaluating = bundle_stages(run, dataset, tmp_path / "out" / run.folder, False)
    assert training.command[1:5] == ["-m", "monai.bundle", "run", "training"]
    assert "--config_file=['configs/train.json', 'configs/supervised.json']" in training.command
    assert {"--lambda_u=2.0", "--seed=1", "--validate#dataset#data=[]"} <= set(training.command)
    assert f"--foundation_feature_dir={tmp_path}/out/foundation_features" in training.command
    assert "--config_file=['configs/train.json', 'configs/evaluate.json']" in evaluating.command
    shared = {
        f"--output_dir={tmp_path}/out/runs/nested/supervised/seed1",
        f"--dataset_dir={cohort.root}",
        *("--device=cpu", "--allow_outside_files=True"),
    }
    assert shared <= set(training.command)
    assert {*shared, "--evaluation_split=test"} == set(evaluating.command[6:])


def test_variables_are_put_into_texts_alone(monkeypatch):
    monkeypatch.setenv("SOME_FILE", "a b")
    assert expanded({"x": "${SOME_FILE}/c", "y": [1], "z": None}) == {"x": "a b/c", "y": [1], "z": None}


@pytest.mark.parametrize(
    ("name", "folder"), [("VQ-Seg + PFA", "vq-seg-pfa"), ("QPM eps 0.5", "qpm-eps-0.5"), ("..", "")]
)
def test_folders_are_plain(name, folder):
    assert folder_name(name) == folder


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(json.loads((ROOT / "plans" / "plan.schema.json").read_text()))
    assert yaml.safe_load((ROOT / "plans" / "demo.yaml").read_text())["datasets"] == {"demo": {}}


def test_without_jsonschema_a_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ValueError, match=r"jsonschema, which is not installed: pip install -e \"\.\[comparison\]\""):
        load_plan(ROOT / "plans" / "demo.yaml")
