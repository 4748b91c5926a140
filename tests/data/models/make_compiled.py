"""Makes tiny-edgetpu.tflite: tiny-float.tflite as if it had been compiled for a Coral, its convolution being the Coral's own.

    python tests/data/models/make_compiled.py        (ai-edge-litert and flatbuffers as in models/requirements.txt)
"""

import pathlib

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

FOLDER = pathlib.Path(__file__).parent

model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((FOLDER / "tiny-float.tflite").read_bytes(), 0))
for code in model.operatorCodes:
    if code.builtinCode == schema.BuiltinOperator.CONV_2D:
        code.builtinCode = schema.BuiltinOperator.CUSTOM
        code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = "edgetpu-custom-op"
for operator in model.subgraphs[0].operators:
    if model.operatorCodes[operator.opcodeIndex].customCode:
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
builder = flatbuffers.Builder(1024)
builder.Finish(model.Pack(builder), b"TFL3")
(FOLDER / "tiny-edgetpu.tflite").write_bytes(builder.Output())
