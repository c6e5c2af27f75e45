"""Mistakes of programs that read a store."""

from __future__ import annotations

from mistakes.mistake import MEANT, Mistake, instead, meant

from store import StoreError

NAMED = r"such as (\[0\])"
OPEN = 'split = open_split(STORE, "tiny", "val")\n'

# fmt: off
ROWS = (
    # open_split
    Mistake("misspelt store", 'open_split(STORE[:-5] + "stroe", "tiny", "val")', ("there is no folder", "stroe", "folders in"),
        lambda case: case.replace('STORE[:-5] + "stroe"', repr(case.found(MEANT))), StoreError),
    Mistake("folder above the store", 'open_split(STORE[:-5] + "", "tiny", "val")', ("holds no data set",),
        lambda case: case.replace('STORE[:-5] + ""', repr(case.found(MEANT))), StoreError),
    Mistake("misspelt data set", 'open_split(STORE, "tinny", "val")', ("the store", "holds tiny (train, val)"), meant("tinny"),
        StoreError),
    Mistake("misspelt split", 'open_split(STORE, "tiny", "vla")', ("the data set tiny has the splits train, val",),
        meant("vla"), StoreError),
    Mistake("data set and split in one", 'open_split(STORE, "tiny/val", "val")', ("found the name 'tiny/val'",
        "tiny (train, val)"), instead('"tiny/val", "val"', r'open_split\(\S+, ("tiny", "val")\)'), StoreError),
    Mistake("no data set", "open_split(STORE)", ("tiny (train, val)",), instead("open_split(STORE)", r"(open_split\(.*\))"),
        StoreError),
    Mistake("no data set, but a split", 'open_split(STORE, split="val")', ("tiny (train, val)",),
        instead('open_split(STORE, split="val")', r"(open_split\(.*\))"), StoreError),
    Mistake("misspelt column", 'open_split(STORE, "tiny", "val", columns="mask_embeddings/demo_smm")',
        ("tiny/val: no column mask_embeddings/demo_smm", "found"), meant("mask_embeddings/demo_smm"), StoreError),
    Mistake("columns by number", 'open_split(STORE, "tiny", "val", columns=3)', ("found columns=3",
        "expected the name of a column, or a list of names"), instead("columns=3", r"such as (columns=\S+)"), TypeError),
    Mistake("misspelt proposer", 'open_split(STORE, "tiny", "val", proposer="sma")', ("no column of a proposer 'sma'",
        "found sam"), meant("sma"), StoreError),
    Mistake("unknown check", 'open_split(STORE, "tiny", "val", check="allways")', ("found check='allways'",
        "expected one of always, first-touch, never"), instead("allways", r"one of (\w+)"), ValueError),
    # records
    Mistake("pixels without a root", f"{OPEN}split[0].image()", ("no pixels", "images_root"),
        lambda case: case.replace('"val")', f'"val", {case.found("open the split with (images_root=)")}DATA)'), StoreError),
    Mistake("pixels below another root", 'open_split(STORE, "tiny", "val", images_root=DATA + "/val")[0].image()',
        ("val/val/fox.jpg", "holds no such file", "expected the folder of the data set that was indexed"),
        instead('DATA + "/val"', r"did you mean images_root=('\S+')\?"), StoreError),
    Mistake("misspelt column of a record", f'{OPEN}split[0]["mask_embeddings/demo_sma"]',
        ("no column 'mask_embeddings/demo_sma'", "this split was opened with"), meant("mask_embeddings/demo_sma"), KeyError),
    Mistake("image that is not there", f"{OPEN}split[40]", ("image_index 40 is outside 0..2",), instead("40", r"0\.\.(\d)"),
        IndexError),
    Mistake("misspelt image", f'{OPEN}split["foxx"]', ("no image 'foxx' in tiny/val", "split.image_ids"), meant("foxx"),
        KeyError),
    Mistake("fraction of an image", f"{OPEN}split[1.5]", ("found 1.5 in brackets",
        "expected an image_index, an image_id or a slice"), instead("1.5", r"such as split\[(\d)\]"), TypeError),
    # streams
    Mistake("stream of empty batches", f'{OPEN}split.stream("masks.area", batch_size=0)', ("found batch_size=0",
        "expected a whole number, 1 or more"), instead("batch_size=0", r"such as (batch_size=\d+)"), ValueError),
    Mistake("stream of another level", f'{OPEN}split.stream("masks.area", level="question")', ("found level='question'",
        "expected one of image, target"), instead("question", r"image, (target)"), ValueError),
    Mistake("misspelt field", f'{OPEN}split.stream("masks.aera")', ("the table masks has no field 'aera'", "its fields are"),
        meant("aera"), KeyError),
    Mistake("candidates in words", f'{OPEN}split.stream("mask_embeddings/demo_sam", candidates="16")', ("found candidates='16'",
        "expected a whole number"), instead("candidates='16'".replace("'", '"'), r"such as (candidates=\d+)"), ValueError),
    Mistake("rank behind the last", f'{OPEN}split.stream("masks.area", rank=2, world_size=2)', ("found rank=2",
        "expected less than world_size=2"), instead("rank=2", r"such as (rank=\d)"), ValueError),
    Mistake("batch of one image", f'{OPEN}split.batch(0, "masks.area")', ("found images=0", "expected a list"),
        lambda case: case.replace("batch(0", f"batch({case.found(NAMED)}"), TypeError),
    Mistake("misspelt image of a batch", f'{OPEN}split.batch(["foxx"], "masks.area")', ("no image 'foxx'",), meant("foxx"),
        KeyError),
    # loaders
    Mistake("loader of a split", f"{OPEN}loader(split)", ("loader: found Split", "expected a stream"),
        instead("loader(split)", r"such as (loader\(split\.stream\(.*?\)\))"), TypeError),
    Mistake("loader of a list", f"{OPEN}loader([1, 2])", ("loader: found list", "expected a stream"),
        instead("loader([1, 2])", r"such as (loader\(split\.stream\(.*?\)\))"), TypeError),
    Mistake("fewer workers than none", f'{OPEN}loader(split.stream("masks.area"), num_workers=-1)', ("found num_workers=-1",
        "0 or more"), instead("num_workers=-1", r"such as (num_workers=\d)"), ValueError),
)
# fmt: on
