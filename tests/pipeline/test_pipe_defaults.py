"""Defaults: what they decide for the shipped params files and for a minimal one stays as it was released."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import ROOT, Settings, load_settings
from pipeline.graph import specs, wanted_fingerprint
from pipeline.runs import resolve
from stages.train.run_digest import identity, run_digest
from store.storage.files import digest

COLUMNS = {
    "params.yaml": "4cc866a8af69c75b3d0bcd884f6d32d8f457e0f242e81531d6169d3765008eef",
    "params/elisa.yaml": "5b8933e17a87fbfe4547671cdc868e06b8661bb037004eebd829c2461612a44a",
    "params/lisa.yaml": "e63923154bca408e98ac444a3b735425c94bd9bc4e3387bf24e782292becc86f",
    "params/llmseg.yaml": "724d05cacb6f15774395ee02c81ffbacdc23d68780b7eb6f14c45a9fa0d8225f",
    "params/reasonseg.yaml": "7c44c897a2feb0cff87e7e1d56715bacf8f0af4b0b2dc962cd79deb214ecd4dc",
    "minimal": "bbc2dd3695f90cf7e8acc0e2cd35728fc4f5646b058fb67438488e2557bcb692",
}
"""Params file -> digest of the fingerprints of its columns."""
RUNS = {
    ("params.yaml", "elisa"): "8e4f4bccaf3583aa9bd2569cdc1315159aff67bb41a75bcc22efc017579e2fcc",
    ("params.yaml", "llmseg"): "5bec3e03c0a8b330b78ff32dbbddd048e18002bd98622e1dc9ab79a768dc61a8",
    ("params.yaml", "lisa"): "de520c467604fbf3bb6dcaa276a0592037e1bcd353b8d030880104e6522dbe13",
    ("params/elisa.yaml", "elisa"): "4642c7f40bd18579a26aaae288f0c614dd02fff01e01465856ad0383249986c9",
    ("params/elisa.yaml", "llmseg"): "c5837418637ee18adad8c14bf5200c845208cd1408a2be64738caecd8682f310",
    ("params/elisa.yaml", "lisa"): "1830439143e73e63a8380861bd1644c144d4c537a7c17102aa499cfb3cd4479d",
    ("params/lisa.yaml", "elisa"): "dbcd0b076c924e9f392544c6818c339e90183dbe8bdca9aa8b20e89f6dcf9d3a",
    ("params/lisa.yaml", "llmseg"): "c15c7ea4a30ba9fd431433d4fb7a0f7b969bee4c914b43b24a0d96512f1fc100",
    ("params/lisa.yaml", "lisa"): "f580165653c858d4748e7fda013f549a57f6d26b62ed6c89155cc4a466691500",
    ("params/llmseg.yaml", "elisa"): "72f2b8ce7aef1ebe94f14fd4d5588687d250b26cd9ca3e889555401ad78cb48e",
    ("params/llmseg.yaml", "llmseg"): "25d52ce87df5daf04c91f2be3f717b2df9b7f44f77c83585bee9450aa911aed8",
    ("params/llmseg.yaml", "lisa"): "59e3d8032bb58fa0ee7998849a72a6daa896a73f11cdd7b1a2dc7228cc8c70d5",
    ("params/reasonseg.yaml", "elisa"): "4642c7f40bd18579a26aaae288f0c614dd02fff01e01465856ad0383249986c9",
    ("params/reasonseg.yaml", "llmseg"): "25d52ce87df5daf04c91f2be3f717b2df9b7f44f77c83585bee9450aa911aed8",
    ("params/reasonseg.yaml", "lisa"): "f580165653c858d4748e7fda013f549a57f6d26b62ed6c89155cc4a466691500",
    ("minimal", "elisa"): "265ff6312a88b6931d1b3febe9fbf46cce80f5647dc1b8024abac819235d595e",
    ("minimal", "llmseg"): "1eb9579f2c03bdd2e40f8220480e4ee1b0119a6cb429e8f896b95e286a2c0325",
    ("minimal", "lisa"): "07bf53cf656c8f5995e55c2c3e1b6b33e2ebb2fd5fa931773fe0d3b577dd9d4a",
}
"""Params file and system -> digest of the run, without its data and its language model."""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """What has no default: a data set, and whatever real data says of proposers and means."""
    real = yaml.safe_load((ROOT / "params/reasonseg.yaml").read_text())
    data = {"d": {"format": "reasonseg", "images": "d", "root": "d", "splits": ["train"]}}
    path = tmp_path / "minimal.yaml"
    path.write_text(yaml.safe_dump({"data": data, "proposers": real["proposers"], "means": real["means"]}))
    return path


def path_of(name: str, minimal: Path) -> Path:
    return minimal if name == "minimal" else ROOT / name


@pytest.mark.parametrize("name", COLUMNS)
def test_the_identities_of_columns_stay(name: str, minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a default changed, or a VERSION was raised: only the second may be written into the table."""
    monkeypatch.setattr(Settings, "weights_lock", property(lambda self: minimal.with_name("none")))  # as in a new clone
    settings = load_settings(path_of(name, minimal))
    (dataset,) = settings.data
    found = {column: wanted_fingerprint(settings, dataset, column, lenient=True) for column in specs(settings, dataset)}
    assert digest(found) == COLUMNS[name]


@pytest.mark.parametrize(("name", "system"), RUNS)
def test_the_digests_of_runs_stay(name: str, system: str, minimal: Path) -> None:
    params = resolve(load_settings(path_of(name, minimal)), system, None).params
    assert run_digest({**identity(params, system, {}), "llava": ""}) == RUNS[name, system]
