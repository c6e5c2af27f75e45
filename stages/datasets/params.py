"""Parameter models of the formats of data sets: each format's own options with their defaults. No torch here."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from stages.fields import Key, Name, Params


class Options(Params):
    """Base: what a format has of its own in an entry of section ``data``. An option that is not at its default decides bytes."""


class ReasonSegOptions(Options):
    """Options of the format reasonseg."""

    encoding: str | None = None
    """Encoding of annotation files that are not UTF-8, such as gbk. null: cp1252, but only for files in which no two
    bytes beyond ASCII are neighbours."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            "".encode(value)  # which an encoding that is not of text refuses
            return codecs.lookup(value).name
        except LookupError as error:
            raise ValueError(f"found {value!r}, expected the name of a text encoding in Python, such as gbk") from error


class ReasonSegHubOptions(Options):
    """Options of the format reasonseg_hub."""

    files: Annotated[str, Field(min_length=1)] = "ReasonSeg_{split}/data/*.parquet"
    """The Parquet files of a split below ``root``, as a pattern; ``{split}`` is replaced by the name of the split."""


Ids = Literal["path", "coco"]


RUN = "run "
"""What begins an entry of ``only`` that is the name of a run."""
_ONLY = r"^(run )?[A-Za-z0-9][A-Za-z0-9_.-]*$|^[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$"


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ImagesOptions(Options):
    """Options of the format images."""

    ids: Ids = "path"
    """What an image is called. path: as its file below the split's folder, without suffix. coco: by its number in COCO, 12 digits,
    of JPEG files that have COCO's names of 2014 or 2017; other files are passed over."""
    only: Annotated[tuple[Annotated[str, Field(pattern=_ONLY)], ...], BeforeValidator(_one_or_more)] = ()
    """List a new image only if one of these asks about it: a data set (refcoco), a split of one (refcoco/val), or a training
    ("run NAME", a key of runs or a system). A training on a mixture asks about the pictures that its schedule draws, any other
    training about all of its splits. Default: list all. Images that the store already knows stay listed."""
    coco_ids: str | None = None
    """A file below the first folder that says which pictures of COCO these are: a list of records with image_id (the file's name
    without suffix) and coco_id, as Visual Genome's image_data.json, which also fits GQA. ``leaks`` reads it."""

    @property
    def only_runs(self) -> tuple[str, ...]:
        """The names of the runs in ``only``."""
        return tuple(each.removeprefix(RUN) for each in self.only if each.startswith(RUN))


class QuestionsOptions(Options):
    """Options of the format questions."""

    file: str | None = None
    """The file, below the data set's folder; {split} stands for the split's name. null: {split}.csv, .jsonl or .json, whichever is
    there."""
    ids: Ids = "path"
    """What an image is called, as the format images says: by its path, or by its number in COCO."""


class SemanticOptions(Options):
    """Options of the format semantic."""

    labels: Literal["ade20k", "cocostuff", "mapillary", "own"] = "ade20k"
    """What the values of the label maps mean. ade20k: the 150 names of SceneParsing150. cocostuff: the names of stuffthingmaps.
    mapillary: the names in config_VERSION.json. own: the lines of the file that names says."""
    version: Literal["v1.2", "v2.0"] = "v2.0"
    """For mapillary: which of its two sets of labels."""
    drop: tuple[str, ...] = ()
    """Names that are not asked about: their pixels are ignored, as void pixels are."""
    names: str = "names.txt"
    """For labels own: the file below root whose first line names value 0, the next one value 1, and so on."""
    void: tuple[Annotated[int, Field(ge=0, le=255)], ...] = (255,)
    """For labels own: values of pixels that show nothing that has a name."""
    ids: Ids = "path"
    """For labels own: what an image is called. path: as its label map, without suffix. coco: by its number in COCO, 12 digits.
    Images of cocostuff always have their number."""
    absent: Annotated[int, Field(ge=0, le=256)] = 0
    """Also ask for this many labels that the picture does not show (false premises), drawn by image_id. About 8 of 15 come with a
    correction, a label that the picture does show, as in SESAME. A label counts as absent if no pixel is annotated with it;
    void pixels may still show it."""


class LlmSeg40kOptions(Options):
    """Options of the format llmseg40k."""

    source: Literal["coco", "ego_objects"] = "coco"
    """Which pictures are read: COCO's, named by their number in 12 digits, or those of EgoObjects, named by their files."""


class GeneratedOptions(Options):
    """Options of the format generated."""


class ReasonSegPlusOptions(Options):
    """Options of the format reasonseg_plus."""

    release: Literal["muse", "mmr", "lisa_plus"] = "muse"
    """Which data set the files belong to. It decides the names of the files and of the splits."""


class VqaOptions(Options):
    """Options of the format vqa."""

    file: str = "llava_instruct_150k.json"
    """The file of records below root."""
    under: str = ""
    """Only records whose ``image`` starts with this are read, such as coco/ in mix665k. The rest of ``image`` is the picture's path
    in the data set that holds it."""
    ids: Ids = "path"
    """What an image is called. path: as the rest of ``image``, without suffix. coco: by its number in COCO, 12 digits."""


class CocoOptions(Options):
    """Options of the format coco: any file in the form of COCO's ``instances_*.json``."""

    file: Annotated[str, Field(min_length=1)] = "{split}.json"
    """The annotations of a split, a file below ``root``; ``{split}`` is replaced by the name of the split."""
    pictures: str = "{split}"
    """Folder below ``root`` that ``file_name`` starts from, where the data set holds its pictures itself; ``{split}`` is replaced,
    and empty is ``root``. Not used for borrowed pictures."""
    ids: Ids = "path"
    """What an image is called. path: as ``file_name``, without suffix, which is its path below the split's folder where another
    data set holds it. coco: by its number in COCO, 12 digits: that in ``file_name`` or ``coco_url``, else ``id`` of the image."""
    targets: Literal["category", "instance"] = "category"
    """What is asked for. category: a target for each category of an image, which is the union of its annotations. instance: a
    target for each annotation, so that several of one image may have the same texts, as LISA asks PACO and PASCAL-Part."""
    names: Literal["parts", "plain"] = "parts"
    """How the name of a category becomes texts. parts: cut at ``_(``, and ``obj:part`` becomes ``obj part`` and ``the part of the
    obj``, two wordings of one target. plain: as it stands."""
    kind: Literal["object", "part"] | None = None
    """Kind of all targets except boxes. null: ``part`` where the name is ``obj:part`` or the supercategory ``PART``, else
    ``object``."""
    absent: bool = False
    """Also ask for each category in ``neg_category_ids`` of an image, which the annotation says is absent."""
    categories: str | None = None
    """The file below ``root`` that lists the ``categories``, for annotations without a list of their own."""


def _root(value: Any) -> str | tuple[str, ...]:
    folders = [value] if isinstance(value, str) else value
    if (
        not isinstance(folders, list | tuple)
        or not folders
        or not all(isinstance(each, str) and each for each in folders)
    ):
        raise ValueError(f"found {value!r}, expected a folder, or a list of folders")
    return value if isinstance(value, str) else tuple(folders)


class ReferOptions(Options):
    """Options of the format refer."""

    split_by: str = "unc"
    """Who made the splits, as in the name of the file ``refs(unc).p``: unc, google, umd, berkeley, unc_exclude_unified, ..."""
    ids: Literal["coco", "path"] = "coco"
    """What an image is called. coco: by its number in COCO, 12 digits. path: as the file that ``instances.json`` names, without
    suffix, which refCLEF needs."""


class GReferOptions(Options):
    """Options of the format grefer."""

    split_by: str = "unc"
    """Who made the splits, as in the name of the file: unc for ``grefs(unc).json``, final for Ref-ZOM's ``refs(final).p``."""
    ids: Literal["coco", "path"] = "coco"
    """What an image is called. coco: by its number in COCO, 12 digits. path: as the file that ``instances.json`` names, without
    suffix."""


class DataParams(Params):
    """One data set, an entry of section ``data``: data set -> images, instances, targets."""

    format: str
    """Format of the data set, a key of ``stages.datasets.FORMATS``. A format may have options of its own."""
    images: Key
    """The data set that holds the image files: this data set's own name, if it holds them itself. Images of another data set
    are found by image_id, first in its split of the same name."""
    root: Annotated[str | tuple[str, ...], BeforeValidator(_root)]
    """Folder of the data set; in the format images also a list of folders. Fingerprints contain the files' checksums, not this
    path."""
    splits: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Splits of the data set."""
    max_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = 89_478_485
    """Images with more pixels than this become failed rows before anything is decoded. The default, Pillow's own limit, is the
    largest value allowed."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The folder, or the folders."""
        return (self.root,) if isinstance(self.root, str) else self.root

    @field_validator("splits")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a split appears twice in {list(value)}")
        return value
