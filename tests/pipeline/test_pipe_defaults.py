"""Defaults: what they decide for the shipped params files and for a minimal one stays as it was released."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import ROOT, Settings
from pipeline.graph import specs, wanted_fingerprint
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.train.run_digest import identity, run_digest
from store.storage.files import digest

COLUMNS = {
    "params.yaml": "268286e6a77b549765f7a16e4cf65d23773f7eed2eae5eedc3de3841595b2805",
    "params/elisa.yaml": "42d4a996afe830b35e2a7dc411fd6c17d6e10cc8a5829ff887c1af76cd0341a0",
    "params/lisa.yaml": "5bc0090e07109f075b1aaaa9103ea4a64421122458198b4aef29d0cf94131224",
    "params/llmseg.yaml": "9bff15cc40eb4488763b030b11b44515c9bc95d75d941bf8c77bcb132fa3c205",
    "params/reasonseg.yaml": "7463bd8269653ea0b1a6380dc4a25a094f132eec93dafb87a5fd5da93f21cabf",
    "minimal": "221a03fb79dad9f821e671ae464ed69a0d240ef1b853a5f852bbb91f2f271fe0",
}
"""Params file -> digest of the fingerprints of its columns."""
RUNS = {
    ("params.yaml", "elisa"): "062c6b37b563124698001639a8e6484a902432de25efc701a2a3d98262d62192",
    ("params.yaml", "llmseg"): "74b89136c50d8097c36e7edb750f446e14480955e73f6d555b8daa0e8b9b40ff",
    ("params.yaml", "lisa"): "de520c467604fbf3bb6dcaa276a0592037e1bcd353b8d030880104e6522dbe13",
    ("params/elisa.yaml", "elisa"): "570eacd8482fe5c0e54521b8b7fbd1f0d2818ffbcb623640d6ca21b4d39e8472",
    ("params/elisa.yaml", "llmseg"): "c4c89d38dd875bb732e8e0dda013fac22280cc20d1e825f5fbf68b0f7b5412fb",
    ("params/elisa.yaml", "lisa"): "1830439143e73e63a8380861bd1644c144d4c537a7c17102aa499cfb3cd4479d",
    ("params/lisa.yaml", "elisa"): "f96297d8c35f82fcac66d3f72b83184fa842ea11d8961677eb8414d4e188fce5",
    ("params/lisa.yaml", "llmseg"): "ac4a5cdf8fa9d34fd652d28418620f965e3106377cb7d7975cb9ff0d71b23c49",
    ("params/lisa.yaml", "lisa"): "f580165653c858d4748e7fda013f549a57f6d26b62ed6c89155cc4a466691500",
    ("params/llmseg.yaml", "elisa"): "99a6adae519a0cb01a038d00cc38f4261c892c6f85f440c9545d14d1faee6886",
    ("params/llmseg.yaml", "llmseg"): "3f58c283a3f42f7ec9fcdb6efe4b632a61f7375fad0d9b7464a59650f2a10511",
    ("params/llmseg.yaml", "lisa"): "59e3d8032bb58fa0ee7998849a72a6daa896a73f11cdd7b1a2dc7228cc8c70d5",
    ("params/reasonseg.yaml", "elisa"): "a83e195b9512ca0080ac87bf6e70289852de0561023f48cd5654d11efb436e9f",
    ("params/reasonseg.yaml", "llmseg"): "3f58c283a3f42f7ec9fcdb6efe4b632a61f7375fad0d9b7464a59650f2a10511",
    ("params/reasonseg.yaml", "lisa"): "f580165653c858d4748e7fda013f549a57f6d26b62ed6c89155cc4a466691500",
    ("minimal", "elisa"): "3f7f4ef70ef85196d671bec90e2705f8f572cec2cb28f40efe9181f42427de0d",
    ("minimal", "llmseg"): "343edbc2464e45209c995ae33b4bd87bf25e9d07f9058dd449777118b3e43fd7",
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
    found = {
        f"{dataset}/{column}": wanted_fingerprint(settings, dataset, column, lenient=True)
        for dataset in settings.data
        for column in specs(settings, dataset)
    }
    assert digest(found) == COLUMNS[name]


@pytest.mark.parametrize(("name", "system"), RUNS)
def test_the_digests_of_runs_stay(name: str, system: str, minimal: Path) -> None:
    params = resolve(load_settings(path_of(name, minimal)), system, None).params
    assert run_digest({**identity(params, system, {}), "llava": ""}) == RUNS[name, system]


SHIPPED = sorted(
    path.relative_to(ROOT).as_posix() for path in [ROOT / "params.yaml", *(ROOT / "params").rglob("*.yaml")]
)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_params_file_is_whole(name: str) -> None:
    """It loads, its columns have fingerprints, and it has every section that dvc.yaml names."""
    settings = load_settings(ROOT / name)
    given = yaml.safe_load((ROOT / name).read_text())
    named = {"store", "data", "proposers", "embed", "means", "report", "train", "runs", "evaluate"}
    assert sorted(named - given.keys()) == []
    for dataset, data in settings.data.items():
        assert specs(settings, dataset)
        for one in getattr(data, "only", ()):
            assert settings.data[one].images == dataset
