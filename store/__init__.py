"""The feature store on disk, and its reader. Installed as a package: ``elisa_store``. Needs numpy, pyarrow, google-crc32c.

from store import open_split, splits
splits("data/store")                         # {"demo": ["test", "train", "val"]}
split = open_split("data/store", dataset="demo", split="val")
record = split[17]
record.masks[0].area, record.masks[0].decode()  # px, bool [H, W]
record["mask_embeddings/demo_alphaclip"]     # float16 [count, D]
"""

from .errors import (
    ChangedError,
    ConflictError,
    DamagedStoreError,
    FailedImageError,
    IncompleteColumnError,
    RleError,
    StoreError,
)
from .format.layout import FORMAT_VERSION
from .read.record import Record
from .read.region import Region, Target
from .records import Records
from .split import Split, open_split, splits
from .stream.candidates import Candidates
from .stream.stream import Stream, mix

__all__ = [
    "FORMAT_VERSION",
    "Candidates",
    "ChangedError",
    "ConflictError",
    "DamagedStoreError",
    "FailedImageError",
    "IncompleteColumnError",
    "Record",
    "Records",
    "Region",
    "RleError",
    "Split",
    "StoreError",
    "Stream",
    "Target",
    "mix",
    "open_split",
    "splits",
]
