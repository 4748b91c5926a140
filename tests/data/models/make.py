"""Makes the tiny models of tests/detect_tflite.rs: one float32, one with uint8 input and output.

    python tests/data/models/make.py        (TensorFlow as in models/requirements.txt)

Each cell of an 8 x 8 input says one box around the centre, of class "dog" with the score of its red.
"""

import pathlib

import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parent

kernel = np.zeros((1, 1, 3, 6), np.float32)
kernel[0, 0, 0, 5] = 0.9
bias = np.array([0.5, 0.5, 0.25, 0.25, 0, 0], np.float32)


@tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.float32, name="image")])
def model(image):
    return {"boxes": tf.reshape(tf.nn.bias_add(tf.nn.conv2d(image, kernel, 1, "VALID"), bias), [1, 64, 6])}


def convert(name, quantize):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.get_concrete_function()])
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        rng = np.random.default_rng(1)
        batch = [np.zeros((1, 8, 8, 3)), np.ones((1, 8, 8, 3)), rng.uniform(0, 1, (1, 8, 8, 3))]
        converter.representative_dataset = lambda: ([entry.astype(np.float32)] for entry in batch)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    (FOLDER / name).write_bytes(converter.convert())


convert("tiny-float.tflite", False)
convert("tiny-uint8.tflite", True)
