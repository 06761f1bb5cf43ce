"""A finished run becomes a bundle of its own, which passes MONAI's and the Model Zoo's checks and infers elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import LABELS, TINY, CohortFolder, Trained, read_json, run_here, run_python
from support.deployment_parts import SCHEMA, pass_zoo_check

from vqseg_bundle import __version__
from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.commands import pack as pack_bundle
from vqseg_bundle.common import shell_line, vqseg_words

_LOAD_AND_RUN = """
import sys, torch, monai.bundle
root, volumes = "bundles/tiny", sys.argv[1]
network = monai.bundle.load("tiny", bundle_dir="bundles", workflow_type="inference", device="cpu")
state = torch.load(f"{root}/models/model.pt", weights_only=True)
assert state and all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
files = {"config_file": f"{root}/configs/inference.json", "meta_file": f"{root}/configs/metadata.json"}
monai.bundle.run(**files, logging_file=False, dataset_dir=volumes, output_dir="out", device="cpu")
import vqseg_bundle
print("package:", vqseg_bundle.__file__)
"""


@pytest.fixture(scope="module")
def made(evaluated: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, by the script."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    make_bundle.main(["--run", str(evaluated.output_dir), "--output", str(folder), "--bundle-version", "1.2.0"])
    return folder


@pytest.fixture(scope="module")
def packed(made: Path) -> Path:
    pack_bundle.main(["--bundle", str(made), "--output", str(made.parent / "archives")])
    return made.parent / "archives" / "tiny_v1.2.0.zip"


def test_the_metadata_is_of_the_run(made: Path, evaluated: Trained, tmp_path: Path) -> None:
    metadata = read_json(made / "configs" / "metadata.json")
    image, prediction = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
    assert image["image"]["spatial_shape"] == prediction["pred"]["spatial_shape"] == [32, 32]
    assert prediction["pred"]["channel_def"] == LABELS
    assert prediction["pred"]["num_channels"] == 3
    assert metadata["version"] == "1.2.0"
    assert metadata["changelog"] == {"1.2.0": f"Trained by vqseg_bundle {__version__}"}
    digest = read_json(evaluated.output_dir / "run.json")["data_digest"]
    expected = f"cohort nested: 2 labelled, 2 unlabelled, 1 validation, 2 test cases (data digest {digest})"
    assert metadata["data_source"] == expected
    overall = read_json(evaluated.output_dir / "summary.json")["overall"]
    assert metadata["eval_metrics"]["test"]["dice"] == pytest.approx(overall["dice"]["mean"], abs=5e-5)
    assert metadata["eval_metrics"]["test"]["cases"] == 2
    assert 0 <= metadata["eval_metrics"]["validation"]["dice"] <= 1
    if not SCHEMA.is_file():
        pytest.skip(f"needs MONAI's metadata schema at {SCHEMA}")
    local = shutil.copy(SCHEMA, tmp_path / "schema.json")
    monai.bundle.verify_metadata(meta_file=str(made / "configs" / "metadata.json"), filepath=str(local))


def test_the_documents_tell_classes_from_the_values_in_files(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.output_dir, run)
    record = read_json(run / "model.json")
    (run / "model.json").write_text(json.dumps({**record, "label_values": {"0": 0, "1": 2, "2": 7}}))
    make_bundle.main(["--run", str(run), "--output", str(tmp_path / "made")])
    readme = (tmp_path / "made" / "docs" / "README.md").read_text()
    table = "| class index | value in files | structure |\n| --- | --- | --- |\n"
    assert table + "| 0 | 0 | background |\n| 1 | 2 | shell |\n| 2 | 7 | core |\n" in readme
    assert 'saved\nas NIfTI with the "value in files" of each class' in readme
    metadata = read_json(tmp_path / "made" / "configs" / "metadata.json")
    assert metadata["label_classes"] == "values in label files: 0 background, 2 shell, 7 core"
    channels, saved = metadata["pred_classes"].split(";")
    assert channels == "logits, with the channels 0 background, 1 shell, 2 core"
    assert saved.endswith("saved with the values 0 background, 2 shell, 7 core")
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == LABELS


def test_a_note_says_where_the_terms_of_the_data_belong(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    make_bundle.main(["--run", str(trained.output_dir), "--output", str(folder)])
    printed = capsys.readouterr().out
    assert f"note: write the terms of the data into {folder}/docs/data_license.txt\n" in printed
    assert printed.endswith(f"next: {shell_line([*vqseg_words(), 'pack'])} --bundle {folder} --output .\n")


def test_the_terms_of_the_data_are_copied_whatever_their_encoding(trained: Trained, tmp_path: Path) -> None:
    terms = "Données: © Hôpital\r\n".encode("latin-1")
    (tmp_path / "terms.txt").write_bytes(terms)
    words = ["--output", str(tmp_path / "made"), "--data-license", str(tmp_path / "terms.txt")]
    make_bundle.main(["--run", str(trained.output_dir), *words])
    assert (tmp_path / "made" / "docs" / "data_license.txt").read_bytes() == terms


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_the_network_takes_and_gives_what_the_metadata_says(made: Path, config: str, tmp_path: Path) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(made / "configs" / "metadata.json"),
        config_file=str(made / "configs" / config),
        device="cpu",
        **{"bundle_root": str(made), "output_dir": str(tmp_path)},
    )


def test_it_holds_what_a_bundle_needs_and_nothing_of_this_machine(made: Path, evaluated: Trained) -> None:
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    needed = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.json"}
    needed |= {f"configs/{name}" for name in ("metadata.json", "train.json", "inference.json", "evaluate.json")}
    assert needed <= files
    assert not [name for name in files if "__pycache__" in name or name.endswith("resume.pt")]
    for name in files:
        if name.startswith(("configs", "docs")):
            text = (made / name).read_text()
            assert str(evaluated.output_dir) not in text
            assert str(evaluated.cohort.root) not in text
    readme = (made / "docs" / "README.md").read_text()
    for section in ("Model overview", "Data", "Training configuration", "Performance", "Limitations", "License"):
        assert re.search(f"^#+ {section}$", readme, re.MULTILINE)
    for path in re.findall(r"(?:configs|models)/[\w.]+\.(?:json|pt)", readme):
        assert (made / path).is_file(), path


def test_packed_and_unpacked_it_loads_and_runs_through_monai(packed: Path, evaluated: Trained, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "bundles")
    images = evaluated.cohort.root / "images"
    result = run_python("-c", _LOAD_AND_RUN, str(images), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"package: {tmp_path / 'bundles' / 'tiny'}" in result.stdout
    for case in ("case_5", "turned"):
        expected, found = (
            np.asanyarray(nib.load(folder / "predictions" / f"{case}_pred.nii.gz").dataobj)
            for folder in (evaluated.output_dir, tmp_path / "out")
        )
        np.testing.assert_array_equal(found, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles", "out"]


def test_it_evaluates_alike_and_trains_on_the_same_labels_alone(made: Path, evaluated: Trained, tmp_path: Path) -> None:
    data = {"bundle_root": str(made), "dataset_dir": str(evaluated.cohort.root), "device": "cpu"}
    train, evaluate = (made / "configs" / name for name in ("train.json", "evaluate.json"))
    run_here("evaluating", train, evaluate, **data, output_dir=str(tmp_path / "out"))
    assert read_json(tmp_path / "out" / "summary.json") == read_json(evaluated.output_dir / "summary.json")
    run_here("training", train, **data, max_iterations=1, output_dir=str(tmp_path / "again"))
    again, record = read_json(tmp_path / "again" / "model.json"), read_json(made / "models" / "model.json")
    # chosen on the validation cases, by weights of one step here
    assert {**again, "postprocessing": record["postprocessing"]} == record


def test_another_cohorts_labels_are_refused(made: Path, cohort: CohortFolder, tmp_path: Path) -> None:
    cohort.datalist["labels"] = {**LABELS, "2": "other@place"}
    cohort.save()
    places = {"bundle_root": str(made), "dataset_dir": str(cohort.root), "output_dir": str(tmp_path / "out")}
    with pytest.raises(SystemExit, match=r"the cohort has the labels .*'other@place'.*, this bundle is of a model wi"):
        run_here("training", made / "configs" / "train.json", **places, device="cpu")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(made: Path, packed: Path, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (
            ["--run", str(trained.output_dir), "--output", str(made)],
            "exists: name a new folder; nothing is overwritten",
        ),
        (["--run", "nowhere", "--output", "x"], "--run nowhere is not a folder: name the output_dir of a finished"),
        (
            ["--run", str(trained.output_dir), "--output", "x", "--data-license", "none.txt"],
            "--data-license none.txt is not a file",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            make_bundle.main(words)
        assert message in capsys.readouterr().err
    before = packed.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        pack_bundle.main(["--bundle", str(made), "--output", str(packed.parent)])
    assert "tiny_v1.2.0.zip exists: give another --output" in capsys.readouterr().err
    assert packed.read_bytes() == before


def test_an_incomplete_bundle_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        pack_bundle.main(["--bundle", str(tmp_path), "--output", str(tmp_path / "zip")])
    assert "lacks LICENSE, configs/metadata.json, configs/inference.json, models/model.pt" in capsys.readouterr().err
    assert not (tmp_path / "zip").exists()


def test_files_from_before_1980_are_packed_with_the_earliest_time_of_zip(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "tiny")
    os.utime(tmp_path / "tiny" / "LICENSE", (0, 0))
    with zipfile.ZipFile(pack_bundle.pack_bundle(tmp_path / "tiny", tmp_path / "zip")) as archive:
        assert archive.getinfo("tiny/LICENSE").date_time == (1980, 1, 1, 0, 0, 0)
        assert archive.read("tiny/LICENSE") == (made / "LICENSE").read_bytes()


def test_weights_trained_further_are_told_when_packed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "tiny"
    shutil.copytree(made, bundle)
    pack_bundle.main(["--bundle", str(bundle), "--output", str(tmp_path / "first")])
    assert "warning" not in capsys.readouterr().err
    with (bundle / "models" / "model.pt").open("ab") as file:
        file.write(b"more")
    pack_bundle.main(["--bundle", str(bundle), "--output", str(tmp_path / "second")])
    assert "warning: models/model.pt has been trained further since vqseg bundle" in capsys.readouterr().err


def test_large_weights_are_named_in_place_of_packed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "tiny")
    (tmp_path / "tiny" / "models" / "model_trt.ts").write_text("engine")
    (tmp_path / "tiny" / "eval").mkdir()
    (tmp_path / "tiny" / "eval" / "metrics.csv").write_text("patient")
    archive = pack_bundle.pack_bundle(tmp_path / "tiny", tmp_path / "zip", (made / "models" / "model.pt").as_uri())
    with zipfile.ZipFile(archive) as content:
        names = set(content.namelist())
        content.extractall(tmp_path / "unpacked")
    assert {"tiny/large_files.yml", "tiny/models/model.json", "tiny/models/model_trt.ts"} <= names
    assert not {"tiny/models/model.pt", "tiny/eval/metrics.csv"} & names
    monai.bundle.download_large_files(bundle_path=str(tmp_path / "unpacked" / "tiny"))
    downloaded = tmp_path / "unpacked" / "tiny" / "models" / "model.pt"
    assert downloaded.read_bytes() == (made / "models" / "model.pt").read_bytes()


@pytest.mark.parametrize("mode", ["min", "regular", "full"])
def test_the_model_zoos_own_check_passes(made: Path, tmp_path: Path, mode: str) -> None:
    shutil.copytree(made, tmp_path / "tiny")
    pass_zoo_check(tmp_path / "tiny", mode)


def test_a_bundle_of_the_same_settings_has_the_runs_network(made: Path) -> None:
    default = ConfigParser.load_config_file(made / "configs" / "inference.json")
    untrained = ConfigParser({"untrained": default["untrained"]}).get_parsed_content("untrained")
    assert untrained["network"]["num_embeddings"] == TINY["network_def#num_embeddings"]
    assert untrained["labels"] == {int(index): name for index, name in LABELS.items()}
