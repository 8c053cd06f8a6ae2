"""The JSON schemas of Sandglass's files, which editors use: `python -m sandglass.cli.schemas FOLDER` writes them.

The package contains them in `core/schemas/`. After a change of a record, `make schemas` updates them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sandglass import core
from sandglass.artifacts.kit_manifest import KitManifest
from sandglass.artifacts.manifest import Manifest
from sandglass.artifacts.tuned_settings import Tuning
from sandglass.core.files import atomic_file
from sandglass.core.records import Record, json_schema
from sandglass.quantization.plan_record import PlanRecord
from sandglass.sources.card import Card
from sandglass.table.file import TableFile

SHIPPED = Path(core.__file__).parent / "schemas"
RECORDS: dict[str, type[Record]] = {
    "card": Card,
    "kit": KitManifest,
    "manifest": Manifest,
    "plan": PlanRecord,
    "table": TableFile,
    "tuning": Tuning,
}


def schema_texts() -> dict[str, str]:
    """The content of each schema file, by file name."""
    return {f"{name}.schema.json": json.dumps(json_schema(kind), indent=2) + "\n" for name, kind in RECORDS.items()}


def write_schemas(folder: Path) -> list[Path]:
    """Write the schemas to `folder`, and return their paths. Raises ArtifactError if a file cannot be written."""
    texts = {folder / name: text for name, text in schema_texts().items()}
    for path, text in texts.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


if __name__ == "__main__":
    print(*write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED), sep="\n")
