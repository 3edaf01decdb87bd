"""paddle.grad from two threads, each with a layer of its own, ends the process or raises."""

import subprocess
import sys

import paddle

PROGRAM = """
import threading, paddle

def work():
    for _ in range(300):
        norm = paddle.nn.BatchNorm2D(3)
        x = paddle.randn((4, 3, 2, 2))
        x.stop_gradient = False
        paddle.grad(norm(x), [x, norm.weight], paddle.randn((4, 3, 2, 2)), retain_graph=True)

threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True) for _ in range(5)]
ended = sum(run.returncode != 0 for run in runs)
raised = sum(run.returncode == 0 and b"Exception in thread" in run.stderr for run in runs)
print(f"paddle {paddle.__version__}, {len(runs)} runs: {ended} ended by a signal, {raised} raised")
print("confirmed" if ended + raised else "refuted")
