"""Write a build kit: the files that a host with a vendor's tools needs to compile, run and time a model."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.build_key import Samples
from sandglass.artifacts.kit_manifest import KIT, KitManifest, KitSamples
from sandglass.artifacts.parity import Reference
from sandglass.backends import Arrays, Recipe, load_backend
from sandglass.core.files import atomic_folder, sha256, write_json
from sandglass.core.host import own_version
from sandglass.core.process import run_isolated
from sandglass.core.records import to_data
from sandglass.measure.evaluation import flips, infer
from sandglass.sources.source import Source
from sandglass.tasks import check_dataset, load_task

BUILD, RUN, RUNTIME, README = "build.sh", "run.py", "runtime.py", "README.md"
INPUTS, EXPECTED, PROBES = "inputs", "expected.npz", "probes.npz"
ROWS = 64  # inputs in a file

PAGE = """# Build kit: {name} for {backend} {precision}

Written by Sandglass {version}. The host needs {needs}, and numpy. On the host, run

```sh
sh build.sh         # {command}
python3 run.py      # runs all inputs, then measures the time; options: --seconds S, --device N
```

Copy the folder `results/` back into the kit on the machine with Sandglass, and run there

```sh
sandglass collect {folder}{options}
```

**The authors of Sandglass have not run this kit on a real device.** The command follows the vendor's documentation, and
the scripts were tested with a substitute for the vendor's package. `collect` compares the results with the graph.

{inputs}
"""


def make_kit(
    source: Source,
    backend: str,
    precision: str,
    reference: Reference,
    out: Path,
    samples: Samples | None = None,
    force: bool = False,
    build_key: str = "",
) -> Path:
    """Write the kit to the folder `out`, and return `out`. `build_key` is the hash of the kit's inputs.

    Raises the InputError of a backend that needs the name of a processor (--soc).
    """
    make_recipe = load_backend(backend).CAPABILITIES.make_kit
    assert make_recipe is not None
    with atomic_folder(out, force) as folder:
        recipe = run_isolated(f"{backend}:{precision}", make_recipe, source, precision, folder)
        (folder / INPUTS).mkdir()
        manifest = KitManifest(
            card=source.card,
            backend=backend,
            precision=precision,
            inputs=dict(recipe.inputs),
            outputs=dict(recipe.outputs),
            model=recipe.model,
            soc=source.soc,
            graph_sha256=sha256(source.graph),
            checkpoint_sha256=sha256(source.weights) if source.weights else None,
            versions={"sandglass": own_version()},
            build_key=build_key,
            rows={PROBES: _write_probes(reference, folder)},
        )
        if samples is not None:
            manifest = _with_samples(manifest, samples, folder)
        shutil.copyfile(Path(__file__).with_name("run.py"), folder / RUN)
        shutil.copyfile(recipe.runtime, folder / RUNTIME)
        (folder / BUILD).write_text(_script(recipe), encoding="utf-8")
        (folder / README).write_text(_page(manifest, recipe, out, samples), encoding="utf-8")
        write_json(folder / KIT, to_data(manifest))
    return out


def row_digest(row: np.ndarray) -> str:
    """The SHA-256 of an input (1, 3, H, W), which identifies it."""
    return hashlib.sha256(repr(row.shape).encode() + np.ascontiguousarray(row, np.float32).tobytes()).hexdigest()


def _write_probes(reference: Reference, folder: Path) -> list[str]:
    for path, rows in ((folder / INPUTS / PROBES, reference.feeds), (folder / EXPECTED, reference.expected)):
        _save(path, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    return [row_digest(next(iter(feed.values()))) for feed in reference.feeds]


def _with_samples(manifest: KitManifest, samples: Samples, folder: Path) -> KitManifest:
    """The manifest with the inputs of an evaluation, which are written to files of ROWS inputs."""
    card, dataset = manifest.card, samples.dataset
    flip_test = flips(card) if samples.flip_test is None else samples.flip_test
    task = load_task(card.task)
    check_dataset(task, dataset)
    recorder, kit = _Recorder(folder / INPUTS, manifest.outputs), Artifact(folder, manifest.manifest(), card)
    for _ in infer(task, kit, recorder, dataset, task.samples(dataset), flip_test=flip_test):
        pass
    recorder.flush()
    record = KitSamples(dataset.fingerprint, flip_test, dict(dataset.protocol))
    return replace(manifest, samples=record, rows={**manifest.rows, **recorder.rows})


class _Recorder:
    """A session that writes its inputs to files and returns zeros."""

    def __init__(self, folder: Path, outputs: Mapping[str, Sequence[int]]) -> None:
        self.folder, self.outputs = folder, outputs
        self.name, self.pending = "", list[np.ndarray]()
        self.rows: dict[str, list[str]] = {}

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Zeros of the outputs' shapes."""
        ((self.name, array),) = inputs.items()
        for i in range(len(array)):
            self.pending.append(np.array(array[i : i + 1], np.float32))
            if len(self.pending) == ROWS:
                self.flush()
        return {name: np.zeros((len(array), *shape[1:]), np.float32) for name, shape in self.outputs.items()}

    def flush(self) -> None:
        """Write the pending inputs to a file."""
        if self.pending:
            file = f"{len(self.rows):05d}.npz"
            _save(self.folder / file, {self.name: np.concatenate(self.pending)})
            self.rows[file] = [row_digest(row) for row in self.pending]
            self.pending.clear()


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _script(recipe: Recipe) -> str:
    return (
        "#!/bin/sh\n"
        f"# Compiles graph.onnx to {recipe.model}. Needs {recipe.needs}.\n"
        f'set -e\ncd "$(dirname "$0")"\n{recipe.command}\ntest -f {recipe.model}\n'
    )


def _page(manifest: KitManifest, recipe: Recipe, out: Path, samples: Samples | None) -> str:
    content = "`inputs/` holds four probes, so the kit measures agreement with the graph and speed, but not accuracy."
    if samples is not None:
        content = f"`inputs/` holds four probes and the samples of {samples.dataset.protocol['dataset']}."
    return PAGE.format(
        name=manifest.card.name,
        backend=manifest.backend,
        precision=manifest.precision,
        version=own_version(),
        needs=recipe.needs,
        command=recipe.command,
        folder=out.name,
        options=" --dataset ...  # the options of `sandglass evaluate`" if samples is not None else "",
        inputs=content,
    )
