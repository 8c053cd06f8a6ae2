"""ncnn's models read as ONNX, against ncnn itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.errors import FormatError
from sandglass.formats.ncnn_graph import read_graph
from sandglass.graph.bring_up import bring_up_file
from sandglass.graph.execute import GraphSession

SIZE = (24, 32)
# Every kind of layer; weights as (number of values, has it a storage tag).
NETWORK = """
Input in 0 1 x
Convolution c1 1 1 x c1 0=8 1=3 11=5 3=2 4=1 14=2 5=1 6=360 9=1 | 360t 8
Split s 1 2 c1 a b
ConvolutionDepthWise c2 1 1 a c2 0=8 1=3 4=1 5=1 6=72 7=8 9=2 -23310=1,0.1 | 72t 8
ConvolutionDepthWise c3 1 1 b c3 0=8 1=1 5=0 6=16 7=4 9=3 -23310=2,-0.5,1.5 | 16t
HardSwish h 1 1 c2 h 0=1.666667e-01 1=5.000000e-01
Concat cat 2 1 h c3 cat 0=0
Convolution c4 1 1 cat c4 0=8 1=1 5=1 6=128 9=6 -23310=2,0.2,0.5 | 128t 8
Deconvolution d1 1 1 c4 d1 0=6 1=4 2=1 3=2 4=1 5=1 6=768 9=1 | 768t 6
DeconvolutionDepthWise d2 1 1 d1 d2 0=6 1=2 3=2 5=0 6=24 7=6 | 24t
Pooling p1 1 1 d2 p0 0=0 1=3 2=2
Pooling p0 1 1 p0 p1 0=1 1=3 2=1 3=1 5=1
Split s2 1 2 p1 e f
Pooling p2 1 1 e p2 0=1 1=2 2=2 5=1
Interp i1 1 1 p2 i1 0=1 1=2 2=2
Interp i2 1 1 f i2 0=2 1=1 2=1
BinaryOp sum 2 1 i1 i2 sum 0=0
BinaryOp scaled 1 1 sum scaled 0=2 1=1 2=0.75
BinaryOp back 1 1 scaled back 0=7 1=1 2=0.5
Split s3 1 2 back g k
Pooling p3 1 1 g p3 0=1 4=1
Reshape r 1 1 p3 r 0=1 1=1 2=-1
HardSigmoid hs 1 1 r hs 0=0.2 1=0.5
BinaryOp gated 2 1 k hs gated 0=2
ReLU relu 1 1 gated relu 0=0.2
Dropout drop 1 1 relu drop
Split s4 1 3 drop m n o
Sigmoid sigmoid 1 1 m map
Pooling p4 1 1 n p4 0=1 4=1
InnerProduct fc 1 1 p4 fc 0=5 1=1 2=30 | 30t 5
Softmax prob 1 1 fc prob 0=0
Convolution c5 1 1 o c5 0=2 1=3 4=-233 3=2 5=1 6=108 9=4 | 108t 2
"""


def write(folder: Path, network: str = NETWORK) -> Path:
    """A `.param` with its `.bin`: random weights, those of every second layer as halves."""
    random = np.random.default_rng(0)
    lines, data = [], b""
    for number, line in enumerate(network.strip().splitlines()):
        told, _, weights = line.partition(" | ")
        lines.append(told)
        for entry in weights.split():
            values = 0.3 * random.standard_normal(int(entry.rstrip("t")))
            if entry.endswith("t") and number % 2:
                data += 0x01306B47.to_bytes(4, "little") + values.astype(np.float16).tobytes()
                data += bytes(-len(data) % 4)
            else:
                data += bytes(4) * entry.endswith("t") + values.astype(np.float32).tobytes()
    blobs = sum(int(line.split()[3]) for line in lines)
    path = folder / "a.ncnn.param"
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(data)
    return path


def test_every_layer_computes_what_ncnn_computes(tmp_path: Path) -> None:
    """All outputs, under their names, to 1e-5."""
    ncnn = pytest.importorskip("ncnn")
    path = write(tmp_path)
    bring_up_file(path, tmp_path / "graph.onnx", SIZE)
    session = GraphSession(tmp_path / "graph.onnx")
    image = np.random.default_rng(1).standard_normal((1, 3, *SIZE)).astype(np.float32)
    found = session.run({"x": image})
    assert sorted(found) == ["c5", "map", "prob"]
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(path)) == net.load_model(str(path.with_suffix(".bin"))) == 0
    own = image[0].copy()  # ncnn reads it until the last extraction
    for name, values in found.items():
        extractor = net.create_extractor()
        extractor.input("x", ncnn.Mat(own))
        expected = np.array(extractor.extract(name)[1])
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("LSTM l 1 1 x l 0=4", "LSTM"),
        ("Convolution c 1 1 x c 0=8 1=1 6=24 8=1 | 24t 8 1", "int8"),
        ("BinaryOp b 1 1 x b 0=10 1=1 2=2", "binary operation 10"),
        ("Interp i 1 1 x i 0=3 1=2 2=2", "interpolates by 3"),
        ("Pooling p 1 1 x p 7=1 8=2", "adaptively"),
        ("Convolution c 1 1 x c 0=8 1=1 6=24 9=5 | 24t", "activation 5"),
    ],
)
def test_what_is_not_known_is_named(line: str, told: str, tmp_path: Path) -> None:
    """A kind of layer, int8 weights, and parameters without a counterpart."""
    with pytest.raises(FormatError, match=told):
        read_graph(write(tmp_path, f"Input in 0 1 x\n{line}"))
