"""Build kits: a model's way to a runtime whose tools or device are on another host, and back.

`make` writes a folder: the graph, the vendor's command that compiles it, inputs, and two files of Python (`run.py`, and
`runtime.py` of the backend) that need only the vendor's tools and numpy. The host leaves its outputs and timings in
`results/`; `collect` turns them into what `evaluate` and `benchmark` say of an artifact.

    kit.json       what the kit is: card, hashes, names and shapes, and which input is in which file
    README.md      what to do there
    build.sh       compiles graph.onnx
    run.py         runs and times the compiled model
    inputs/        NAME.npz, {input name: (N, 3, H, W) float32}; probes.npz is compared with the graph
    expected.npz   the graph's outputs for the probes
    results/       NAME.npz, {output name: (N, ...) float32}, and timings.json, written last
"""
