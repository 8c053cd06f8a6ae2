"""Build kits, for runtimes whose tools or device are on another host.

`make` writes a folder with the graph, the vendor's command that compiles it, inputs, and two Python files (`run.py`,
and `runtime.py` of the backend) that need only the vendor's tools and numpy. On the host, `run.py` writes outputs and
timings to `results/`. `collect` evaluates them and reports the same numbers as `evaluate` and `benchmark`.

    kit.json       manifest: card, hashes, names and shapes, and the inputs in each file
    README.md      instructions for the host
    build.sh       compiles graph.onnx
    run.py         runs and times the compiled model
    inputs/        NAME.npz, {input name: (N, 3, H, W) float32}; probes.npz is compared with the graph
    expected.npz   the graph's outputs for the probes
    results/       NAME.npz, {output name: (N, ...) float32}, and timings.json, written last
"""
