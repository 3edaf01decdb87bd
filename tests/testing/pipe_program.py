"""A program for the pipe that is right, or wrong in the way that its argument says."""

import json
import os
import sys
import time

fault = sys.argv[1] if len(sys.argv) > 1 else "none"


def array(given):
    import numpy as np

    values = np.array([float(value) for value in given["values"]], given["dtype"])
    return values.reshape(given["shape"])


def step(request):
    import npbn
    from npbn.testing.pipe import encode

    given = {
        name: array(request[name])
        for name in ("x", "grad_output", "weight", "bias", "running_mean", "running_var")
        if request[name] is not None
    }
    x = given["x"]
    layer = npbn.BatchNorm1d(
        x.shape[1],
        request["eps"],
        request["momentum"],
        affine="weight" in given,
        track_running_stats="running_mean" in given,
        dtype=given.get("weight", x).dtype,
    )
    if "weight" in given:
        layer.weight.data[...], layer.bias.data[...] = given["weight"], given["bias"]
    if "running_mean" in given:
        layer.running_mean[...] = given["running_mean"]
        layer.running_var[...] = given["running_var"]
        layer.num_batches_tracked[...] = request["num_batches_tracked"]
    y = layer.train(request["training"])(x)
    answer = {"y": encode(y)}
    if "running_mean" in given:
        answer["running_mean"] = encode(layer.running_mean)
        answer["running_var"] = encode(layer.running_var)
        answer["num_batches_tracked"] = int(layer.num_batches_tracked)
    if "grad_output" in given:
        answer["grad_input"] = encode(layer.backward(given["grad_output"]))
        if "weight" in given:
            answer["grad_weight"] = encode(layer.weight.grad)
            answer["grad_bias"] = encode(layer.bias.grad)
    return answer


def spoil(answer):
    y = answer["y"]
    match fault:
        case "another shape":
            y["shape"] = y["shape"][::-1]
        case "too few values":
            y["values"].pop()
        case "another dtype":
            y["dtype"] = "float64"
        case "no dtype":
            y["dtype"] = "decimal"
        case "null":
            y["values"][0] = None
        case "nested":
            y["values"] = [y["values"]]
        case "no output":
            del answer["y"]
        case "a list":
            answer["y"] = y["values"]
        case "a wide shape":
            y["shape"] = [2**70]
        case "NaN":
            y["values"] = ["NaN"] * len(y["values"])


for line in sys.stdin:
    request = json.loads(line)
    if request["request"] == "describe":
        about = {"name": "program", "unsupported": ["rank4", "rank5", "weight_alone"]}
        about["unsupported"] += ["bias_alone"]
        if fault == "of another convention":
            about["convention"] = "french"
        if fault == "of a list of conventions":
            about["convention"] = ["keras"]
        if fault == "of unknown abilities":
            about["unsupported"] = ["flight"]
        print(json.dumps(about), flush=True)
        continue
    if fault == "late":
        time.sleep(10_000)
    if fault == "closes":
        sys.exit(3)
    if fault == "closes its output":
        os.close(1)
        time.sleep(60)
    if fault == "half a line":
        sys.stdout.write('{"y": ')
        sys.exit(0)
    if fault == "noise":
        print("computing ...", flush=True)
    if fault == "a number":
        print(42, flush=True)
        continue
    try:
        answer = step(request)
        spoil(answer)
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
